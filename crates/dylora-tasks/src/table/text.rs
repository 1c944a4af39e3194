//! A table as plain text and as Markdown.

use super::{Cell, Mark, Table};
use crate::report::words::{escape_markdown, one_line, rank_words};

impl Table {
    /// Plain text, columns aligned.
    pub fn to_text(&self) -> String {
        let lines = self.lines();
        let columns = lines.first().map_or(0, |(_, line)| line.len());
        let width = |column: usize| {
            lines
                .iter()
                .map(|(_, line)| line[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
        let mut text = format!("{}\n", self.legend());
        for note in self.notes() {
            text.push_str(&format!("Note: {}\n", one_line(note)));
        }
        let mut block = None;
        for (name, line) in &lines {
            if block != Some(name) {
                text.push_str(&rule);
                text.push('\n');
                block = Some(name);
            }
            let padded: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:<width$}"))
                .collect();
            text.push_str(padded.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// A Markdown table.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("{}\n\n", escape_markdown(&self.legend()));
        for note in self.notes() {
            text.push_str(&format!("Note: {}\n\n", escape_markdown(&one_line(note))));
        }
        for (index, (_, line)) in self.lines().iter().enumerate() {
            text.push_str(&format!("| {} |\n", line.join(" | ")));
            if index == 0 {
                text.push_str(&format!("|{}\n", " --- |".repeat(line.len())));
            }
        }
        text
    }

    fn legend(&self) -> String {
        let about = match self.about.as_str() {
            "" => String::new(),
            about => format!("{}. ", one_line(about)),
        };
        format!(
            "{}, profile: {}. {about}{}, mean ± standard deviation over the seeds; {}.",
            one_line(&self.title()),
            self.profile,
            self.layout.units,
            self.about_paper()
        )
    }

    /// Heading and lines as words, each with the block it belongs to.
    fn lines(&self) -> Vec<(Option<String>, Vec<String>)> {
        let mut heading = vec!["Rank".to_owned(), "Method".to_owned()];
        heading.extend(self.layout.columns.iter().map(|column| column.heading.clone()));
        if self.layout.has_average {
            heading.push("Avg".to_owned());
        }
        heading.extend(self.rows.first().iter().flat_map(|row| {
            let measures = row.measures.iter();
            measures.map(|(measure, _)| measure.heading().to_owned())
        }));
        let mut lines = vec![(None, heading)];
        for row in &self.rows {
            let mut line = vec![rank_words(row.rank), one_line(&row.label)];
            line.extend(self.layout.columns.iter().zip(&row.tasks).map(|(column, (_, cell))| {
                cell.as_ref()
                    .map_or("–".to_owned(), |cell| self.words(cell, column.decimals))
            }));
            if self.layout.has_average {
                line.push(row.average.map_or("–".to_owned(), |mean| {
                    format!("{mean:.2}{}", self.beside(row.paper_average, 2))
                }));
            }
            line.extend(row.measures.iter().map(|(measure, cell)| {
                cell.as_ref()
                    .map_or("–".to_owned(), |cell| self.words(cell, measure.decimals()))
            }));
            let block = if self.by_rank {
                row.rank.to_string()
            } else {
                row.block.clone()
            };
            lines.push((Some(block), line));
        }
        lines
    }

    /// `86.03 ± 0.31 (7) [85.55]`: mean, deviation over several seeds, best rank, the paper's number.
    fn words(&self, cell: &Cell, decimals: usize) -> String {
        let mut words = format!("{:.decimals$}", cell.mean);
        if cell.runs > 1 {
            words.push_str(&format!(" ± {:.decimals$}", cell.std));
        }
        if let Some(rank) = cell.rank {
            words.push_str(&format!(" ({rank})"));
        }
        match cell.mark {
            Some(Mark::Best) => words.push_str(" ▲"),
            Some(Mark::Worst) => words.push_str(" ▼"),
            None => {}
        }
        words + &self.beside(cell.paper, decimals)
    }

    /// The paper's number, to stand beside ours; nothing where none of them is known.
    pub(crate) fn beside(&self, paper: Option<f64>, decimals: usize) -> String {
        match paper {
            Some(paper) => format!(" [{paper:.decimals$}]"),
            None if self.paper_is_known => " [–]".to_owned(),
            None => String::new(),
        }
    }
}
