//! Tables as one HTML page that needs no other file: the numbers, charts of them, and the runs they came from.
//!
//! The page is also well-formed XML, so that any XML reader can take the numbers out of it.

use dylora_nn::Method;
use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use super::charts::{self, Charts};
use super::overview::{Lack, Summary};
use super::sheet::{Place, costs};
use super::words::{duration, one_line, rank_words};
use super::{ABOUT_COSTS, COST_HEADS, HOW_TO_READ, Part, Report, Sheet};
use crate::error::Result;
use crate::paper::PaperTable;
use crate::table::{Table, facts_of_runs};

const STYLE: &str = include_str!("page.css");

/// Written by hand because maud leaves void elements open, which XML does not allow.
const META: &str = "<meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>";

/// A longer note is folded.
const LONG_NOTE: usize = 300;

/// More runs that are missing for one reason are folded.
const FOLDED: usize = 6;

impl Report {
    /// One HTML page without scripts and without references to other files.
    ///
    /// # Errors
    /// If a chart cannot be drawn.
    pub fn to_html(&self) -> Result<String> {
        let parts: Vec<Part<'_>> = self.parts().collect();
        let mut sections = Vec::new();
        for part in &parts {
            sections.push(self.section(part)?);
        }
        let body = html! {
            h1 { "Report: tables of the DyLoRA paper" }
            dl.facts {
                @for (name, words) in self.facts() {
                    div { dt { (name) } dd { (one_line(&words)) } }
                }
            }
            p.note #about-paper { (self.about_paper()) }
            (self.overview(&parts))
            (self.missing())
            section #how-to-read {
                h2 { "How to read the tables" }
                p { (HOW_TO_READ) }
            }
            @for section in sections { (section) }
        };
        Ok(page("Report: tables of the DyLoRA paper", &body))
    }

    fn overview(&self, parts: &[Part<'_>]) -> Markup {
        html! {
            section #overview {
                h2 { "Overview" }
                @if parts.is_empty() { p.none { "There is no table." } } @else {
                    table.overview {
                        thead {
                            tr {
                                th.name scope="col" { "Table" }
                                th.name scope="col" { "There" }
                                th.name scope="col" { "Runs" }
                                th.name scope="col" { "Against the paper" }
                            }
                        }
                        tbody {
                            @for part in parts { (overview_line(part)) }
                        }
                    }
                }
            }
        }
    }

    fn missing(&self) -> Markup {
        let lacks = self.lacks();
        html! {
            section #missing {
                h2 { "Not run or failed" }
                @if lacks.is_empty() {
                    p { "Nothing: every planned run has a record." }
                } @else {
                    ul.lacks { @for lack in &lacks { (missing_line(lack)) } }
                }
            }
        }
    }

    fn section(&self, part: &Part<'_>) -> Result<Markup> {
        let table = part.table;
        let level = 3;
        Ok(html! {
            section.table id=(part.name) {
                h2 { (part.heading()) }
                @for warning in part.warnings() {
                    p.warning { (one_line(&warning)) }
                }
                (facts(table, part.missing.len()))
                p { (part.about_numbers()) }
                (numbers(part))
                @for charts in charts::of(part)? { (figures(&charts, level)) }
                (cost_list(table, level))
                (run_list(table, level, false))
                (setting_list(table, level, false))
            }
        })
    }
}

/// A page of one table.
///
/// # Errors
/// If a chart cannot be drawn.
pub(crate) fn table_page(table: &Table) -> Result<String> {
    let part = Part {
        name: "table",
        table,
        sheet: Sheet::of(table),
        missing: Vec::new(),
    };
    let body = html! {
        h1 { (one_line(&table.title())) }
        (facts(table, 0))
        section {
            h2 { "Table" }
            @if !table.about.is_empty() { p { (one_line(&table.about)) "." } }
            p {
                (table.layout().units) ": mean ± standard deviation over the seeds (none for a single seed); "
                (table.about_paper()) ". " (HOW_TO_READ)
            }
            (numbers(&part))
        }
        @for charts in charts::of(&part)? { (figures(&charts, 2)) }
        (cost_list(table, 2))
        (run_list(table, 2, true))
        (setting_list(table, 2, true))
    };
    Ok(page(&one_line(&table.title()), &body))
}

fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (PreEscaped(META))
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

/// A heading of this level.
fn heading(level: usize, words: &str) -> Markup {
    let words = words.render().into_string();
    PreEscaped(format!("<h{level}>{words}</h{level}>"))
}

fn overview_line(part: &Part<'_>) -> Markup {
    let summary = Summary::of(part);
    let Summary {
        title, state, paper, ..
    } = &summary;
    html! {
        tr {
            th.name scope="row" { a href=(format!("#{}", part.name)) { (title) } span.badge { "profile " (one_line(&part.profile_words())) } }
            td.name { span class=(state.class()) { (state.sign()) " " (state.words()) } span.metric { (summary.number_words()) } }
            td.name { (summary.run_words()) }
            td.name { span class=(paper.class()) { (paper.words()) } }
        }
    }
}

fn missing_line(lack: &Lack<'_>) -> Markup {
    let names = html! {
        ul {
            @for unrun in &lack.runs {
                li {
                    (one_line(&unrun.name))
                    @if !unrun.tables.is_empty() { span.metric { (one_line(&unrun.tables.join(", "))) } }
                }
            }
        }
    };
    let class = if lack.failed { "bad" } else { "part" };
    html! {
        li {
            p { span class=(class) { (lack.words()) } " " (lack.why) }
            @if lack.runs.len() > FOLDED {
                details { summary { "Their names" } (names) }
            } @else { (names) }
        }
    }
}

/// What the numbers are of and where they come from.
fn facts(table: &Table, missing: usize) -> Markup {
    let stated = |words: Option<&String>| words.map_or("not stated", String::as_str).to_owned();
    let caption = table.caption.as_ref();
    let mut facts = vec![
        ("Model", stated(caption.map(|c| &c.model))),
        ("Data", stated(caption.map(|c| &c.data))),
        ("Profile", table.profile.clone()),
        ("Runs", table.runs.len().to_string()),
    ];
    if missing > 0 {
        facts.push(("Runs missing", missing.to_string()));
    }
    facts.extend(facts_of_runs(table.runs.iter()));
    html! {
        dl.facts {
            @for (name, words) in facts {
                div { dt { (name) } dd { (one_line(&words)) } }
            }
        }
        @for note in table.notes().map(|note| one_line(note)) {
            @match beginning(&note) {
                Some(words) => details.note { summary { (words) " …" } (note) },
                None => p.note { (note) },
            }
        }
    }
}

/// What stands for a note that is too long to be read in passing: its words up to a colon, or the first few.
fn beginning(note: &str) -> Option<&str> {
    if note.chars().count() <= LONG_NOTE {
        return None;
    }
    let end = note.char_indices().nth(60).map_or(note.len(), |(at, _)| at);
    let head = note.get(..end)?;
    Some(head.split_once(": ").map_or(head, |(words, _)| words))
}

fn numbers(part: &Part<'_>) -> Markup {
    let Part { table, sheet, .. } = part;
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table of results" {
            table.results {
                thead {
                    @if table.paper_is_known() {
                        tr { th colspan="2" {} th.about colspan=(sheet.heads.len()) scope="colgroup" { (column_title(table)) } }
                    }
                    tr {
                        th scope="col" { "Rank" }
                        th.name scope="col" { "Method" }
                        @for head in &sheet.heads {
                            th scope="col" {
                                (head.heading)
                                @if let Some(metric) = &head.under { span.metric { (metric) } }
                            }
                        }
                    }
                }
                @for block in sheet.blocks() {
                    tbody {
                        @for (index, line) in block.iter().enumerate() {
                            tr {
                                @if !sheet.is_by_rank() {
                                    th { (rank_words(line.rank)) }
                                } @else if index == 0 {
                                    th scope="rowgroup" rowspan=(block.len()) { (rank_words(line.rank)) }
                                }
                                th.name scope="row" { (line.label) }
                                @for place in &line.places { (number(part, place)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Whose numbers stand in brackets.
fn column_title(table: &Table) -> String {
    let number = &table.number;
    let PaperTable { model, data, .. } = table.layout().paper;
    if table.is_comparable() {
        format!("these runs [paper's {number}] difference")
    } else {
        format!("these runs [paper's {number}: another model ({model}), other data ({data})] difference")
    }
}

fn number(part: &Part<'_>, place: &Place) -> Markup {
    if place.mean.is_none() {
        return html! { td.none { (place.mean_words()) (part.beside(place)) } };
    }
    html! {
        td.best[place.chosen.is_some()] {
            @if place.leads { b { (place.mean_words()) } } @else { (place.mean_words()) }
            @if let Some(std) = place.std_words() { span.std { " ± " (std) } }
            @if place.star { span.star { "★" } }
            @if let Some(rank) = place.chosen { span.rank { " (" (rank) ")" } }
            @if let Some(sign) = place.mark_sign() { span.mark { " " (sign) } }
            span.paper { (part.beside(place)) }
        }
    }
}

fn figures(charts: &Charts, level: usize) -> Markup {
    html! {
        section {
            (heading(level, charts.heading))
            p { (charts.about) }
            @if !charts.legend.is_empty() { ul.legend {
                @for (name, sample) in &charts.legend {
                    li { (PreEscaped(sample)) (name) }
                }
            } }
            div.charts {
                @for figure in &charts.figures {
                    figure class=(charts.class) {
                        figcaption { strong { (figure.name) } " " span { (figure.what) } }
                        @if let Some(svg) = &figure.svg { (PreEscaped(svg)) } @else { p.none { "No number to draw." } }
                    }
                }
            }
        }
    }
}

/// What each line's runs took; nothing where there is no run.
fn cost_list(table: &Table, level: usize) -> Markup {
    let costs = costs(table);
    html! {
        @if !costs.is_empty() {
            section {
                (heading(level, "Time and parameters"))
                p { (ABOUT_COSTS) }
                div.scroll tabindex="0" role="region" aria-label="Time and parameters" {
                    table.costs {
                        thead {
                            tr {
                                @for (index, head) in COST_HEADS.iter().enumerate() {
                                    th.name[index == 0] scope="col" { (head) }
                                }
                            }
                        }
                        tbody {
                            @for (name, cost) in &costs {
                                tr {
                                    th.name scope="row" { (name) }
                                    td { (cost.parameter_words()) }
                                    td { (cost.time_words()) }
                                    td { (cost.runs) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A part that is folded in a page of many tables.
fn fold(level: usize, words: &str, open: bool, inside: &Markup) -> Markup {
    html! {
        @if open {
            section { (heading(level, words)) (inside) }
        } @else {
            details { summary { (heading(level, words)) } (inside) }
        }
    }
}

fn run_list(table: &Table, level: usize, open: bool) -> Markup {
    let list = html! {
        div.scroll tabindex="0" role="region" aria-label="List of runs" {
            table.runs {
                thead {
                    tr {
                        th.name scope="col" { "Task" }
                        th.name scope="col" { "Method" }
                        th scope="col" { "Seed" }
                        th scope="col" { "Steps" }
                        th scope="col" { "Training" }
                        th scope="col" { "Final loss" span.metric { "mean of the last epoch" } }
                        th scope="col" { "Ended (UTC)" }
                    }
                }
                tbody {
                    @for run in &table.runs {
                        tr {
                            td.name { (run.task) }
                            td.name { (run.method) }
                            td { (run.seed) }
                            td { (run.steps) }
                            td { (duration(run.train_seconds)) }
                            td { (run.last_epoch_loss.map_or("–".to_owned(), |loss| format!("{loss:.4}"))) }
                            td { (run.date().unwrap_or("–".to_owned())) }
                        }
                    }
                }
            }
        }
    };
    fold(level, "Runs", open, &list)
}

fn setting_list(table: &Table, level: usize, open: bool) -> Markup {
    let settings = table.settings();
    let list = html! {
        @if !settings.differing.is_empty() {
            (heading(level + 1, "Not the same in all runs"))
            dl.settings {
                @for (name, values) in &settings.differing {
                    div {
                        dt { (name) }
                        @for (value, methods) in values {
                            dd {
                                (one_line(value)) " "
                                span.metric { (methods.iter().map(Method::to_string).collect::<Vec<_>>().join(", ")) }
                            }
                        }
                    }
                }
            }
        }
        (heading(level + 1, "The same in all runs"))
        dl.settings {
            @for (name, value) in &settings.shared {
                div { dt { (name) } dd { (one_line(value)) } }
            }
        }
    };
    fold(level, "Settings", open, &list)
}
