//! Tables from records: lines of methods, variants and ranks; beside every number the paper's.
//!
//! `layout` says which columns a table has, a description of [`crate::tables`] which lines. `fill` puts the numbers in, `text`
//! writes them as plain text and Markdown, [`crate::report`] as a page, and `runs` sums up the records that they came from.

mod fill;
mod html;
mod layout;
mod runs;
mod text;

use std::collections::BTreeSet;

use dylora_nn::Method;
use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};

use crate::glue::GlueTask;
use crate::paper::{self, PaperTable, Published};
use crate::record::{RankName, Record, json_number};
use crate::tables::Measure;

pub use fill::{Finding, Line};
pub use layout::{Column, Layout};
pub use runs::Run;
pub(crate) use runs::{Settings, facts_of_runs};

/// One number of the table, in the units that the paper prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Name of the metric, as records have it.
    pub metric: String,
    /// Mean over the seeds.
    #[serde(serialize_with = "number")]
    pub mean: f64,
    /// Sample standard deviation over the seeds (n - 1); 0 for one seed.
    #[serde(serialize_with = "number")]
    pub std: f64,
    /// Number of seeds.
    pub runs: usize,
    /// The best rank, in a row of best ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// The paper's number, where it is known.
    pub paper: Option<f64>,
    /// Whether it is the best or the worst of its column, in a table that marks them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// What a number is among those of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// None is better.
    Best,
    /// None is worse.
    Worst,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// What a reader knows it by: `DyLoRA (Frozen)`, `LoRA, ranks 1 to 64 searched`.
    pub label: String,
    /// The settings in which its runs differ from the recipe: `rank 16`; empty for the recipe.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Lines that belong together.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub block: String,
    /// The rank.
    pub rank: RankName,
    /// Seeds that have a record for any of the tasks.
    pub seeds: Vec<u64>,
    /// For each column its task and, if a run has the number, its cell. In JSON an object by task: the cell of the task's
    /// first metric, and beside it, where the task has several, every cell by its metric's name.
    #[serde(serialize_with = "cells")]
    pub tasks: Vec<(String, Option<Cell>)>,
    /// Mean over the tasks, once all of them have a cell.
    pub average: Option<f64>,
    /// The paper's average over all its tasks, where it is known.
    pub paper_average: Option<f64>,
    /// What stands beside the metrics. In JSON an object by the measure's name.
    #[serde(serialize_with = "measures", skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<(Measure, Option<Cell>)>,
    /// What its charts show.
    #[serde(skip)]
    pub(crate) trail: Trail,
}

/// What stands behind a line: not its number alone, but that of every rank.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Trail {
    /// Its runs, as places in the table's list of runs.
    pub(crate) runs: Vec<usize>,
    /// For each column of tasks the number of every rank, in the order of the ranks.
    pub(crate) ranks: Vec<Vec<(usize, Cell)>>,
}

/// What a table is besides its columns and numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// Its name in print: `Table 4`.
    pub number: String,
    /// What it shows, half a sentence.
    pub about: String,
    /// Which profile the runs had.
    pub profile: String,
    /// Whether the lines of a rank stand together, and not those of a method.
    pub by_rank: bool,
    /// Whether the best and the worst number of a column are marked.
    pub marked: bool,
    /// What stands beside the metrics.
    pub measures: Vec<Measure>,
}

/// What the numbers of a table are of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Caption {
    /// The pretrained model, as a reader should see it.
    pub model: String,
    /// The data set, as a reader should see it.
    pub data: String,
    /// Whatever else must be known to read the numbers, a sentence each.
    pub notes: Vec<String>,
    /// Whether model and data are those of the paper's table.
    pub same_setting_as_paper: bool,
}

/// A table, ready to print.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its name: `glue`, `e2e`.
    pub table: String,
    /// Its name in print: `Table 2`.
    pub number: String,
    /// What it shows, half a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Which profile the runs had.
    pub profile: String,
    /// Its lines.
    pub rows: Vec<Row>,
    /// Which model and data the numbers are of, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<Caption>,
    /// What the records say must be known, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// The runs behind the numbers, in the order of the records.
    pub runs: Vec<Run>,
    #[serde(skip)]
    layout: Layout,
    #[serde(skip)]
    by_rank: bool,
    #[serde(skip)]
    settings: Settings,
    /// Whether any number of the paper is known, so that brackets for it are worth printing.
    #[serde(skip)]
    paper_is_known: bool,
}

/// The method as the paper writes it.
pub(crate) fn title(method: Method) -> &'static str {
    match method {
        Method::Lora => "LoRA",
        Method::DyLora => "DyLoRA",
        Method::DyLoraFrozen => "DyLoRA (Frozen)",
        Method::Full => "Fine-tune",
        Method::Flop => "FLOP",
    }
}

fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    json_number(*value).serialize(serializer)
}

fn measures<S: Serializer>(measures: &[(Measure, Option<Cell>)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (measure, cell) in measures {
        map.serialize_entry(measure.name(), cell)?;
    }
    map.end()
}

fn cells<S: Serializer>(cells: &[(String, Option<Cell>)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for columns in cells.chunk_by(|(task, _), (next, _)| task == next) {
        let found: Vec<&Cell> = columns.iter().filter_map(|(_, cell)| cell.as_ref()).collect();
        let (Some((task, _)), Some(first)) = (columns.first(), found.first()) else {
            continue;
        };
        if columns.len() == 1 {
            map.serialize_entry(task, first)?;
            continue;
        }
        let mut all = serde_json::to_value(first).map_err(S::Error::custom)?;
        if let Some(all) = all.as_object_mut() {
            for cell in found {
                all.insert(
                    cell.metric.clone(),
                    serde_json::to_value(cell).map_err(S::Error::custom)?,
                );
            }
        }
        map.serialize_entry(task, &all)?;
    }
    map.end()
}

impl Table {
    /// Lays out Table 2 beside the paper's numbers, [`Published::embedded`]. Lines without any number are left out.
    pub fn glue(profile: &str, tasks: &[&GlueTask], methods: &[Method], records: &[Record]) -> Table {
        Self::new(Layout::glue(tasks), profile, methods, records)
    }

    /// As [`Table::glue`], beside these published numbers.
    pub fn glue_beside(
        published: &Published,
        profile: &str,
        tasks: &[&GlueTask],
        methods: &[Method],
        records: &[Record],
    ) -> Table {
        Self::lines_of_ranks(published, Layout::glue(tasks), profile, methods, records)
    }

    /// Fills a layout in beside the paper's numbers. Lines without any number are left out.
    pub fn new(layout: Layout, profile: &str, methods: &[Method], records: &[Record]) -> Table {
        Self::lines_of_ranks(&Published::embedded(), layout, profile, methods, records)
    }

    /// For each rank a block of methods, then each method's best rank, then fine-tuning.
    fn lines_of_ranks(
        published: &Published,
        layout: Layout,
        profile: &str,
        methods: &[Method],
        records: &[Record],
    ) -> Table {
        let ranks = records.iter().flat_map(|r| r.ranks.iter().map(|row| row.rank));
        let mut ranks: BTreeSet<RankName> = ranks.filter(|rank| *rank != RankName::Full).collect();
        ranks.insert(RankName::Best);
        let (whole, adapters): (Vec<Method>, Vec<Method>) = methods.iter().partition(|method| method.learns_base());
        let mut lines: Vec<Line> = ranks
            .iter()
            .flat_map(|&rank| adapters.iter().map(move |&method| Line::plain(method, rank)))
            .collect();
        lines.extend(whole.into_iter().map(|method| Line::plain(method, RankName::Full)));
        let findings: Vec<Finding<'_>> = records.iter().map(Finding::of_recipe).collect();
        let head = Head {
            number: layout.paper.number.to_owned(),
            profile: profile.to_owned(),
            by_rank: true,
            ..Head::default()
        };
        Self::of(published, layout, head, &lines, &findings)
    }

    /// Says which model and data the numbers are of, in every form of the table.
    pub fn with_caption(self, caption: Caption) -> Table {
        Table {
            caption: Some(caption),
            ..self
        }
    }

    /// The paper's table that this one is of; `None` if the paper has none.
    pub(crate) fn papers(&self) -> Option<&'static PaperTable> {
        let tasks: Vec<&str> = self.layout.columns.iter().map(|column| column.task.as_str()).collect();
        paper::table(&self.number, &tasks)
    }

    /// `Table 2`, or that it is only laid out like it.
    pub(crate) fn title(&self) -> String {
        let split = self.layout.paper.split;
        match (&self.caption, self.papers()) {
            (None, _) => format!("{} ({}, {split})", self.number, self.layout.paper.data),
            (Some(caption), Some(_)) if !caption.same_setting_as_paper => {
                format!(
                    "Laid out as {}: {} on {}, {split}",
                    self.number, caption.model, caption.data
                )
            }
            (Some(caption), _) => format!("{}: {} on {}, {split}", self.number, caption.model, caption.data),
        }
    }

    /// What a reader must know of the paper's numbers, as the end of a sentence.
    pub(crate) fn about_paper(&self) -> String {
        let same = self.caption.as_ref().is_some_and(|c| c.same_setting_as_paper);
        let Some(PaperTable { model, data, .. }) = self.papers() else {
            return "the paper has no such table".to_owned();
        };
        // Without a caption nobody has said that the numbers may be compared.
        match (self.paper_is_known, same) {
            (false, true) => "the paper's numbers are not included yet".to_owned(),
            (false, false) => format!(
                "the paper's numbers are not included yet; they are of another model ({model}) and other data ({data})"
            ),
            (true, true) => format!("in square brackets the paper's number ({model} on {data}), – where it has none"),
            (true, false) => format!(
                "in square brackets the paper's number, which is of another model ({model}) and other data ({data}), – where \
                 it has none"
            ),
        }
    }

    /// What must be known to read the numbers, a sentence each.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &String> {
        let caption = self.caption.as_ref().map_or(&[][..], |caption| &caption.notes);
        caption.iter().chain(&self.remarks)
    }
}
