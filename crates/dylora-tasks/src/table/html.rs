//! A table as one HTML page that needs no other file: the numbers, charts of them, and the runs they came from.
//!
//! The page is also well-formed XML, so that any XML reader can take the numbers out of it.

use std::collections::BTreeSet;

use dylora_nn::Method;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{self, Chart, Point};
use super::{Cell, Column, Row, Table, title};
use crate::error::Result;
use crate::paper::PaperTable;
use crate::record::RankName;

/// Smallest height of the average's axis, in percent.
const LEAST_SPAN: f64 = 2.0;

const STYLE: &str = include_str!("page.css");

/// Written by hand because maud leaves void elements open, which XML does not allow.
const META: &str = "<meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>";

impl Table {
    /// One HTML page without scripts and without references to other files.
    ///
    /// # Errors
    /// If a chart cannot be drawn.
    pub fn to_html(&self) -> Result<String> {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    (PreEscaped(META))
                    title { (self.title()) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (self.title()) }
                        (self.facts())
                        (self.numbers())
                        (self.charts()?)
                        (self.run_list())
                        (self.setting_list())
                    }
                }
            }
        };
        Ok(page.into_string())
    }

    /// What the numbers are of and where they come from.
    fn facts(&self) -> Markup {
        let seeds: BTreeSet<u64> = self.runs.iter().map(|run| run.seed).collect();
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let distinct = |words: &dyn Fn(&super::Run) -> String| {
            let all: BTreeSet<String> = self.runs.iter().map(words).collect();
            all.into_iter().collect::<Vec<_>>().join("; ")
        };
        let dates: BTreeSet<String> = self.runs.iter().filter_map(super::Run::date).collect();
        let dates = match (dates.first(), dates.last()) {
            (Some(first), Some(last)) if first == last => format!("{first} (UTC)"),
            (Some(first), Some(last)) => format!("{first} to {last} (UTC)"),
            _ => "not recorded".to_owned(),
        };
        let stated = |words: Option<&String>| words.map_or("not stated", String::as_str).to_owned();
        let caption = self.caption.as_ref();
        let facts = [
            ("Model", stated(caption.map(|c| &c.model))),
            ("Data", stated(caption.map(|c| &c.data))),
            ("Profile", self.profile.clone()),
            ("Runs", self.runs.len().to_string()),
            ("Seeds", seeds.join(", ")),
            ("Code", distinct(&|run| run.code_words())),
            ("Device", distinct(&|run| run.device.clone())),
            ("Records of", dates),
        ];
        html! {
            dl.facts {
                @for (name, words) in facts {
                    div { dt { (name) } dd { (words) } }
                }
            }
            @for note in self.notes() {
                p.note { (note) }
            }
        }
    }

    fn numbers(&self) -> Markup {
        let blocks: Vec<&[Row]> = self.rows.chunk_by(|a, b| a.rank == b.rank).collect();
        let columns = self.layout.columns.len();
        let shown = columns + usize::from(self.layout.has_average);
        html! {
            section {
                h2 { "Table" }
                p {
                    (self.layout.units) ": mean ± standard deviation over the seeds (none for a single seed); "
                    span #about-paper { (self.about_paper()) } ". "
                    "Bold: the best method of a block. ★: the method's best rank for that column; the rows “best” repeat it, \
                     with the rank in round brackets. "
                    @if self.layout.has_average { "Avg: mean over the tasks, once all of them have a number." }
                }
                div.scroll tabindex="0" role="region" aria-label="Table of results" {
                    table.results {
                        thead {
                            @if self.paper_is_known {
                                tr { th colspan="2" {} th.about colspan=(shown) scope="colgroup" { (self.column_title()) } }
                            }
                            tr {
                                th scope="col" { "Rank" }
                                th.name scope="col" { "Method" }
                                @for (index, column) in self.layout.columns.iter().enumerate() {
                                    th scope="col" {
                                        (column.heading)
                                        @if let Some(metric) = self.metric(index) { span.metric { (metric) } }
                                    }
                                }
                                @if self.layout.has_average { th scope="col" { "Avg" span.metric { "mean" } } }
                            }
                        }
                        @for block in blocks {
                            tbody {
                                @for (index, row) in block.iter().enumerate() {
                                    tr {
                                        @if index == 0 {
                                            th scope="rowgroup" rowspan=(block.len()) { (rank_words(row.rank)) }
                                        }
                                        th.name scope="row" { (row.label) }
                                        @for column in 0..columns {
                                            (self.number(block, row, column))
                                        }
                                        @if self.layout.has_average { (self.average(block, row)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whose numbers stand in brackets.
    fn column_title(&self) -> String {
        let number = &self.number;
        let PaperTable { model, data, .. } = self.layout.paper;
        if self.caption.as_ref().is_some_and(|c| c.same_setting_as_paper) {
            format!("these runs [paper's {number}]")
        } else {
            format!("these runs [paper's {number}: another model ({model}), other data ({data})]")
        }
    }

    fn number(&self, block: &[Row], row: &Row, column: usize) -> Markup {
        let Column { decimals, is_error, .. } = self.layout.columns[column];
        let Some(cell) = cell(row, column) else {
            return html! { td.none { "–" (self.beside(None, decimals)) } };
        };
        let bold = leads(
            cell.mean,
            block.iter().filter_map(|row| Some(self::cell(row, column)?.mean)),
            decimals,
            is_error,
        );
        html! {
            td.best[cell.rank.is_some()] {
                (mean_words(cell.mean, bold, decimals))
                @if cell.runs > 1 { span.std { " ± " (digits(cell.std, decimals)) } }
                @if self.is_best_rank(row, column) { span.star { "★" } }
                @if let Some(rank) = cell.rank { span.rank { " (" (rank) ")" } }
                span.paper { (self.beside(cell.paper, decimals)) }
            }
        }
    }

    fn average(&self, block: &[Row], row: &Row) -> Markup {
        let Some(mean) = row.average else {
            return html! { td.none { "–" (self.beside(row.paper_average, 2)) } };
        };
        let bold = leads(mean, block.iter().filter_map(|row| row.average), 2, false);
        let own = self
            .rows
            .iter()
            .filter(|other| other.method == row.method && matches!(other.rank, RankName::At(_)));
        let star = matches!(row.rank, RankName::At(_)) && leads(mean, own.filter_map(|row| row.average), 2, false);
        html! {
            td {
                (mean_words(mean, bold, 2))
                @if star { span.star { "★" } }
                span.paper { (self.beside(row.paper_average, 2)) }
            }
        }
    }

    /// Whether the row of best ranks names this row's rank.
    fn is_best_rank(&self, row: &Row, column: usize) -> bool {
        let best = self
            .rows
            .iter()
            .find(|best| best.rank == RankName::Best && best.method == row.method)
            .and_then(|best| cell(best, column)?.rank);
        matches!((row.rank, best), (RankName::At(rank), Some(best)) if rank == best)
    }

    /// The metric of a column that has a number, where the heading does not say it.
    fn metric(&self, column: usize) -> Option<&str> {
        let Column { task, paper, .. } = &self.layout.columns[column];
        let found = self.rows.iter().find_map(|row| cell(row, column))?;
        (task == paper).then_some(found.metric.as_str())
    }

    /// A chart for each column that has a number, then one of the average.
    fn charts(&self) -> Result<Markup> {
        let mut figures = Vec::new();
        for (index, column) in self.layout.columns.iter().enumerate() {
            let chart = self.chart(column.axis.clone(), column.least_span, |row| {
                let cell = cell(row, index)?;
                Some((cell.mean, (cell.runs > 1).then_some(cell.std)))
            });
            figures.push((column.heading.clone(), "mean, bars ± standard deviation", chart.svg()?));
        }
        if self.layout.has_average {
            let average = self.chart("mean of the tasks".to_owned(), LEAST_SPAN, |row| {
                Some((row.average?, None))
            });
            figures.push(("Average".to_owned(), "mean over the tasks", average.svg()?));
        }
        let mut methods: Vec<Method> = self.rows.iter().map(|row| row.method).collect();
        methods.sort_unstable();
        methods.dedup();
        let mut samples = Vec::new();
        for method in methods {
            samples.push((title(method), chart::sample(method)?));
        }
        Ok(html! {
            section {
                h2 { "Metric against rank" }
                p { "The y axes do not begin at 0, and differ. A rank without a number leaves a gap." }
                ul.legend {
                    @for (name, sample) in samples {
                        li { (PreEscaped(sample)) (name) }
                    }
                }
                div.charts {
                    @for (name, what, svg) in figures {
                        figure {
                            figcaption { strong { (name) } " " span { (what) } }
                            @if let Some(svg) = svg {
                                div role="img" aria-label=(format!("{name} against rank; the numbers stand in the table")) {
                                    (PreEscaped(svg))
                                }
                            } @else {
                                p.none { "No number to draw." }
                            }
                        }
                    }
                }
            }
        })
    }

    fn chart(&self, label: String, least_span: f64, value: impl Fn(&Row) -> Option<(f64, Option<f64>)>) -> Chart {
        let mut lines: Vec<(Method, Vec<Point>)> = Vec::new();
        for row in &self.rows {
            let RankName::At(rank) = row.rank else { continue };
            let value = value(row);
            let point = Point {
                rank,
                mean: value.map(|(mean, _)| mean),
                std: value.and_then(|(_, std)| std),
            };
            match lines.iter_mut().find(|(method, _)| *method == row.method) {
                Some((_, points)) => points.push(point),
                None => lines.push((row.method, vec![point])),
            }
        }
        let full = self.rows.iter().find(|row| row.rank == RankName::Full);
        Chart {
            label,
            least_span,
            lines,
            full: full.and_then(&value).map(|(mean, _)| mean),
        }
    }

    fn run_list(&self) -> Markup {
        html! {
            section {
                h2 { "Runs" }
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
                            @for run in &self.runs {
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
            }
        }
    }

    fn setting_list(&self) -> Markup {
        html! {
            section {
                h2 { "Settings" }
                @if !self.settings.differing.is_empty() {
                    h3 { "Not the same in all runs" }
                    dl.settings {
                        @for (name, values) in &self.settings.differing {
                            div {
                                dt { (name) }
                                @for (value, methods) in values {
                                    dd {
                                        (value) " "
                                        span.metric {
                                            (methods.iter().map(Method::to_string).collect::<Vec<_>>().join(", "))
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                h3 { "The same in all runs" }
                dl.settings {
                    @for (name, value) in &self.settings.shared {
                        div { dt { (name) } dd { (value) } }
                    }
                }
            }
        }
    }
}

fn cell(row: &Row, column: usize) -> Option<&Cell> {
    row.tasks.get(column)?.1.as_ref()
}

fn rank_words(rank: RankName) -> String {
    match rank {
        RankName::Full => "–".to_owned(),
        other => other.to_string(),
    }
}

fn digits(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

fn mean_words(mean: f64, bold: bool, decimals: usize) -> Markup {
    let words = digits(mean, decimals);
    html! { @if bold { b { (words) } } @else { (words) } }
}

/// Whether `mean` is the best of several numbers, the least one of errors; numbers that print alike are equal.
fn leads(mean: f64, all: impl Iterator<Item = f64>, decimals: usize, is_error: bool) -> bool {
    let all: Vec<f64> = all.filter(|mean| mean.is_finite()).collect();
    let best = if is_error { f64::min } else { f64::max };
    let best = all.iter().copied().reduce(best);
    all.len() > 1 && best.is_some_and(|best| digits(mean, decimals) == digits(best, decimals))
}

/// `1 h 02 min`, `3 min 05 s`, `4.2 s`.
fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole / 3600 {
        0 => format!("{} min {:02} s", whole / 60, whole % 60),
        hours => format!("{hours} h {:02} min", whole % 3600 / 60),
    }
}
