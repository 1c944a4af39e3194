//! Tables and the runs behind them as a report: one page, Markdown, LaTeX, and a file of numbers for each table.
//!
//! `sheet` says what stands at each place of a table, in words and digits; `html`, `markdown`, `latex` and `values` only lay that
//! out, so that no form can say another number. `overview` is what stands at the top: what was run, how it lies to the
//! paper, what is missing. `charts` draws with `chart`.

mod chart;
mod charts;
mod html;
mod latex;
mod markdown;
mod overview;
mod sheet;
mod values;
pub(crate) mod words;

pub(crate) use html::table_page;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::paper::PaperTable;
use crate::run_dir::write_text;
use crate::table::{Table, facts_of_runs};
use overview::Summary;
use sheet::{Place, Sheet};
use words::one_line;

/// A run that a report has no record of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrun {
    /// Its name: `mrpc dylora seed 10`.
    pub name: String,
    /// Why, as a sentence.
    pub why: String,
    /// Whether it was tried.
    pub failed: bool,
    /// Names of the tables that lack it ([`Table::table`]).
    pub tables: Vec<String>,
}

/// What a form says once of all tables.
const HOW_TO_READ: &str = "A number is the mean ± the standard deviation over the seeds; a single seed has none. Bold: the best \
     of the same rank. ★: the best rank for that column; the rows “best” and “worst” repeat it, with the rank in round brackets. \
     ▲ and ▼: the best and the worst number of a column, where a table is about that. Avg: mean over the tasks, once all of them \
     have a number.";

/// What stands above times and numbers of parameters.
const ABOUT_COSTS: &str = "Trained numbers that the model uses, head included, from the lowest to the highest rank; seconds of training \
     of one run, mean over tasks and seeds.";

const COST_HEADS: [&str; 4] = ["Method", "Parameters", "Training of a run", "Runs"];

/// Several tables, what they were made from, and what is missing.
#[derive(Clone, Debug)]
pub struct Report {
    tables: Vec<Table>,
    unrun: Vec<Unrun>,
    /// A name for each table, for its file and its place in the page: none stands twice.
    names: Vec<String>,
}

impl Report {
    /// A report of these tables, in this order. What is drawn from records, a table brings along.
    pub fn new(tables: Vec<Table>, unrun: Vec<Unrun>) -> Self {
        let mut names: Vec<String> = Vec::new();
        for table in &tables {
            let name = file_name(&table.table);
            let is_free = |name: &String| !names.contains(name);
            let numbered = (2..).map(|number| format!("{name}-{number}"));
            let free = std::iter::once(name.clone()).chain(numbered).find(is_free);
            names.push(free.unwrap_or(name));
        }
        Report { tables, unrun, names }
    }

    /// Writes `index.html`, `report.md`, `report.tex` and `tables/NAME.csv` into a directory, each under another name first. A
    /// page that is there is replaced only when everything else is written.
    ///
    /// # Errors
    /// If a file cannot be written, or a chart not be drawn.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let tables = dir.join("tables");
        fs::create_dir_all(&tables).map_err(Error::io("create", &tables))?;
        let page = self.to_html()?;
        for (name, values) in self.to_csv()? {
            write_text(&tables.join(format!("{name}.csv")), &values)?;
        }
        write_text(&dir.join("report.md"), &self.to_markdown())?;
        write_text(&dir.join("report.tex"), &self.to_latex())?;
        write_text(&dir.join("index.html"), &page)
    }

    /// The tables with what every form shows of them.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.tables.iter().zip(&self.names).map(|(table, name)| Part {
            name,
            table,
            sheet: Sheet::of(table),
            missing: self
                .unrun
                .iter()
                .filter(|unrun| unrun.tables.contains(&table.table))
                .collect(),
        })
    }

    /// Facts of all runs: how many, and where, when and with what they ran.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let runs = || self.tables.iter().flat_map(|table| &table.runs);
        let different: BTreeSet<String> = runs()
            .filter_map(|run| serde_json::to_string(&run.record.settings).ok())
            .collect();
        let mut facts = vec![
            ("Tables", self.tables.len().to_string()),
            ("Runs, each counted once", different.len().to_string()),
        ];
        facts.extend(facts_of_runs(runs()));
        facts
    }
}

/// A table, what stands in it, and what it lacks.
struct Part<'a> {
    name: &'a str,
    table: &'a Table,
    sheet: Sheet,
    missing: Vec<&'a Unrun>,
}

impl Part<'_> {
    /// `Table 4: How the rank of a step is drawn`.
    fn heading(&self) -> String {
        match self.table.about.as_str() {
            "" => one_line(&self.table.title()),
            about => one_line(&format!("{}: {about}", self.table.number)),
        }
    }

    /// `mini: not the paper's setting`.
    fn profile_words(&self) -> String {
        match self.table.is_comparable() {
            true => one_line(&self.table.profile),
            false => format!("{}: not the paper's setting", one_line(&self.table.profile)),
        }
    }

    /// What must be seen beside the numbers: that the setting is not the paper's, and that runs are missing.
    fn warnings(&self) -> Vec<String> {
        let PaperTable { model, data, .. } = self.table.layout().paper;
        let mut warnings = Vec::new();
        if !self.table.is_comparable() {
            warnings.push(format!(
                "Not the paper's setting: these runs (profile {}) have another model or other data than {model} on {data}. Compare \
                 the numbers with each other, not with the paper's.",
                one_line(&self.table.profile)
            ));
        }
        if !self.missing.is_empty() {
            let runs = Summary::of(self).run_words();
            warnings.push(format!(
                "Runs are missing: {runs}. Which ones, and why, stands under “Not run or failed”."
            ));
        }
        warnings
    }

    /// The units, and what is known of the paper's numbers where there are any.
    fn about_numbers(&self) -> String {
        let units = self.table.layout().units;
        match self.table.paper_is_known() {
            true => format!("{units}; {}.", self.table.about_paper()),
            false => format!("{units}."),
        }
    }

    /// ` [85.55] +0.48 ≈`: the paper's number, the difference and what it means; nothing where no number of the paper is known.
    fn beside(&self, place: &Place) -> String {
        if place.is_measure {
            // Of seconds and bytes a difference says nothing.
            return place
                .paper
                .map_or(String::new(), |_| self.table.beside(place.paper, place.decimals));
        }
        let mut words = self.table.beside(place.paper, place.decimals);
        if let Some(difference) = place.difference_words() {
            words.push_str(&format!(" {difference}"));
        }
        if let Some(verdict) = place.verdict().filter(|_| self.table.is_comparable()) {
            words.push_str(&format!(" {}", verdict.sign()));
        }
        words
    }
}

/// A table's name as that of a file and of a place in a page: letters, digits, dots, dashes.
fn file_name(table: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = table.chars().map(plain).collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "table".to_owned()
    } else {
        name.to_owned()
    }
}
