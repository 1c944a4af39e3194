//! A report as Markdown.

use super::overview::Summary;
use super::sheet::{Place, costs};
use super::words::{escape_markdown, one_line, rank_words};
use super::{ABOUT_COSTS, COST_HEADS, HOW_TO_READ, Part, Report};

impl Report {
    /// A report as Markdown, with the same numbers as the page and without its charts.
    pub fn to_markdown(&self) -> String {
        let parts: Vec<Part<'_>> = self.parts().collect();
        let mut text = "# Report: tables of the DyLoRA paper\n\n".to_owned();
        for (name, words) in self.facts() {
            text.push_str(&format!("- {name}: {}\n", escaped(&words)));
        }
        text.push_str(&format!("\n{}\n\n## Overview\n\n", self.about_paper()));
        if parts.is_empty() {
            text.push_str("There is no table.\n");
        } else {
            let lines = parts.iter().map(|part| {
                let summary = Summary::of(part);
                let there = format!(
                    "{} {}, {}",
                    summary.state.sign(),
                    summary.state.words(),
                    summary.number_words()
                );
                vec![
                    format!("[{}](#{})", escaped(&summary.title), part.name),
                    escaped(&part.profile_words()),
                    there,
                    summary.run_words(),
                    summary.paper.words(),
                ]
            });
            let heads = ["Table", "Profile", "There", "Runs", "Against the paper"];
            text.push_str(&grid(&heads.map(str::to_owned), lines, 0));
        }
        text.push_str("\n## Not run or failed\n\n");
        let lacks = self.lacks();
        if lacks.is_empty() {
            text.push_str("Nothing: every planned run has a record.\n");
        }
        for lack in &lacks {
            text.push_str(&format!("- {} {}\n", lack.words(), escaped(&lack.why)));
            for unrun in &lack.runs {
                text.push_str(&format!("  - {}", escaped(&unrun.name)));
                if !unrun.tables.is_empty() {
                    text.push_str(&format!(" ({})", escaped(&unrun.tables.join(", "))));
                }
                text.push('\n');
            }
        }
        text.push_str(&format!("\n## How to read the tables\n\n{HOW_TO_READ}\n"));
        for part in &parts {
            text.push_str(&section(part));
        }
        text
    }
}

fn section(part: &Part<'_>) -> String {
    let table = part.table;
    let mut text = format!("\n<a id=\"{}\"></a>\n\n## {}\n\n", part.name, escaped(&part.heading()));
    for warning in part.warnings() {
        text.push_str(&format!("**{}**\n\n", escaped(&warning)));
    }
    text.push_str(&format!("{}\n\n", escaped(&part.about_numbers())));
    for note in table.notes() {
        text.push_str(&format!("Note: {}\n\n", escaped(note)));
    }
    let mut heads = vec!["Rank".to_owned(), "Method".to_owned()];
    heads.extend(part.sheet.heads.iter().map(|head| escaped(&head.words())));
    let lines = part.sheet.lines.iter().map(|line| {
        let mut cells = vec![rank_words(line.rank), escaped(&line.label)];
        cells.extend(line.places.iter().map(|place| cell(part, place)));
        cells
    });
    text.push_str(&grid(&heads, lines, 2));
    let costs = costs(table);
    if !costs.is_empty() {
        text.push_str(&format!("\n### Time and parameters\n\n{ABOUT_COSTS}\n\n"));
        let lines = costs.iter().map(|(name, cost)| {
            let runs = cost.runs.to_string();
            vec![escaped(name), cost.parameter_words(), cost.time_words(), runs]
        });
        text.push_str(&grid(&COST_HEADS.map(str::to_owned), lines, 1));
    }
    text.push_str("\n### Settings\n\n");
    for (name, values) in &table.settings().differing {
        let each = values.iter().map(|(value, methods)| {
            let methods: Vec<String> = methods.iter().map(ToString::to_string).collect();
            format!("{} ({})", escaped(value), methods.join(", "))
        });
        text.push_str(&format!("- {name}: {}\n", each.collect::<Vec<_>>().join("; ")));
    }
    let shared = table.settings().shared.iter();
    let shared: Vec<String> = shared
        .map(|(name, value)| format!("{name} {}", escaped(value)))
        .collect();
    if !shared.is_empty() {
        text.push_str(&format!("- the same in all runs: {}\n", shared.join("; ")));
    }
    text
}

/// `**86.03** ± 0.31 (7) [85.55] +0.48 ≈`.
fn cell(part: &Part<'_>, place: &Place) -> String {
    let mut words = place.mean_words();
    if place.leads {
        words = format!("**{words}**");
    }
    if let Some(std) = place.std_words() {
        words.push_str(&format!(" ± {std}"));
    }
    if place.star {
        words.push_str(" ★");
    }
    if let Some(rank) = place.chosen {
        words.push_str(&format!(" ({rank})"));
    }
    if let Some(sign) = place.mark_sign() {
        words.push_str(&format!(" {sign}"));
    }
    words + &escape_markdown(&part.beside(place))
}

/// A Markdown table; columns from `numbers` on are numbers, which stand on the right if there are any words before them.
fn grid(heads: &[String], lines: impl Iterator<Item = Vec<String>>, numbers: usize) -> String {
    let mut text = format!("| {} |\n|", heads.join(" | "));
    for index in 0..heads.len() {
        text.push_str(if numbers > 0 && index >= numbers {
            " ---: |"
        } else {
            " --- |"
        });
    }
    text.push('\n');
    for line in lines {
        text.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    text
}

fn escaped(words: &str) -> String {
    escape_markdown(&one_line(words))
}
