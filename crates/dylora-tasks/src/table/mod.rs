//! The paper's tables of methods by rank, from records: for each rank a block of methods, then each method's best rank, then
//! fine-tuning; beside every number the paper's.
//!
//! `layout` says which columns a table has. This file puts the numbers in, `text` writes them as plain text and Markdown, `html` as a page with the charts of
//! `chart`, and `runs` sums up the records that they came from.

mod chart;
mod html;
mod layout;
mod runs;
mod text;

use std::collections::BTreeSet;

use dylora_nn::Method;
use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};

use crate::glue::GlueTask;
use crate::paper::{self, PaperTable};
use crate::record::{RankName, Record, json_number};

pub use layout::{Column, Layout};
pub use runs::Run;

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
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The method.
    pub method: Method,
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
    settings: runs::Settings,
    /// Whether any number of the paper is known, so that brackets for it are worth printing.
    #[serde(skip)]
    paper_is_known: bool,
}

/// The method as the paper writes it.
fn title(method: Method) -> &'static str {
    match method {
        Method::Lora => "LoRA",
        Method::DyLora => "DyLoRA",
        Method::DyLoraFrozen => "DyLoRA (Frozen)",
        Method::Full => "Fine-tune",
    }
}

fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    json_number(*value).serialize(serializer)
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
    /// Lays out Table 2 beside the paper's numbers, [`paper::GLUE`]. Lines without any number are left out.
    pub fn glue(profile: &str, tasks: &[&GlueTask], methods: &[Method], records: &[Record]) -> Table {
        Self::new(Layout::glue(tasks), profile, methods, records)
    }

    /// As [`Table::glue`], beside the published numbers `paper`.
    pub fn glue_beside(
        paper: &[paper::Cell],
        profile: &str,
        tasks: &[&GlueTask],
        methods: &[Method],
        records: &[Record],
    ) -> Table {
        Self::beside_cells(paper, Layout::glue(tasks), profile, methods, records)
    }

    /// Fills a layout in beside the paper's numbers. Lines without any number are left out.
    pub fn new(layout: Layout, profile: &str, methods: &[Method], records: &[Record]) -> Table {
        Self::beside_cells(layout.paper.cells, layout, profile, methods, records)
    }

    fn beside_cells(
        paper: &[paper::Cell],
        layout: Layout,
        profile: &str,
        methods: &[Method],
        records: &[Record],
    ) -> Table {
        let ranks: BTreeSet<RankName> = records
            .iter()
            .flat_map(|r| r.ranks.iter().map(|row| row.rank))
            .collect();
        let row = |method: Method, rank: RankName| {
            let runs: Vec<&Record> = records
                .iter()
                .filter(|record| record.settings.method == method)
                .collect();
            let tasks: Vec<(String, Option<Cell>)> = layout
                .columns
                .iter()
                .map(|column| {
                    let cell = match rank {
                        RankName::Best => best_cell(paper, column, method, &ranks, &runs),
                        rank => cell(paper, column, method, rank, &runs),
                    };
                    (column.task.clone(), cell)
                })
                .collect();
            let means: Option<Vec<f64>> = tasks
                .iter()
                .map(|(_, cell)| cell.as_ref().map(|cell| cell.mean))
                .collect();
            let seeds: BTreeSet<u64> = runs.iter().map(|record| record.settings.seed).collect();
            Row {
                method,
                rank,
                seeds: seeds.into_iter().collect(),
                paper_average: published(paper, method, rank, paper::AVERAGE),
                average: means
                    .filter(|_| layout.has_average)
                    .map(|means| means.iter().sum::<f64>() / means.len().max(1) as f64),
                tasks,
            }
        };
        let adapters = || methods.iter().copied().filter(|&method| method != Method::Full);
        let numbered = ranks.iter().copied().filter(|rank| matches!(rank, RankName::At(_)));
        let mut rows: Vec<Row> = numbered
            .flat_map(|rank| adapters().map(move |method| (method, rank)))
            .map(|(m, r)| row(m, r))
            .collect();
        rows.extend(adapters().map(|method| row(method, RankName::Best)));
        if methods.contains(&Method::Full) {
            rows.push(row(Method::Full, RankName::Full));
        }
        rows.retain(|row| row.tasks.iter().any(|(_, cell)| cell.is_some()));
        let mut remarks: Vec<String> = Vec::new();
        for note in records.iter().flat_map(|record| &record.notes) {
            if !remarks.contains(note) {
                remarks.push(note.clone());
            }
        }
        Table {
            table: layout.name.clone(),
            profile: profile.to_owned(),
            rows,
            caption: None,
            remarks,
            runs: records.iter().map(Run::new).collect(),
            settings: runs::Settings::of(records),
            paper_is_known: !paper.is_empty(),
            layout,
        }
    }

    /// Says which model and data the numbers are of, in every form of the table.
    pub fn with_caption(self, caption: Caption) -> Table {
        Table {
            caption: Some(caption),
            ..self
        }
    }

    /// `Table 2`, or that it is only laid out like it.
    fn title(&self) -> String {
        let PaperTable {
            number, data, split, ..
        } = self.layout.paper;
        match &self.caption {
            None => format!("{number} ({data}, {split})"),
            Some(caption) if caption.same_setting_as_paper => {
                format!("{number}: {} on {}, {split}", caption.model, caption.data)
            }
            Some(caption) => format!("Laid out as {number}: {} on {}, {split}", caption.model, caption.data),
        }
    }

    /// What a reader must know of the paper's numbers, as the end of a sentence.
    fn about_paper(&self) -> String {
        let same = self.caption.as_ref().is_some_and(|c| c.same_setting_as_paper);
        let PaperTable { model, data, .. } = self.layout.paper;
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
    fn notes(&self) -> impl Iterator<Item = &String> {
        let caption = self.caption.as_ref().map_or(&[][..], |caption| &caption.notes);
        caption.iter().chain(&self.remarks)
    }
}

fn cell(paper: &[paper::Cell], column: &Column, method: Method, rank: RankName, runs: &[&Record]) -> Option<Cell> {
    let values: Vec<f64> = runs
        .iter()
        .filter(|record| record.settings.task == column.task)
        .filter_map(|record| {
            record
                .ranks
                .iter()
                .find(|row| row.rank == rank)?
                .scores
                .get(&column.metric)
        })
        .map(|value| column.scale * value)
        .collect();
    if values.is_empty() {
        return None;
    }
    let (mean, std) = mean_std(&values);
    Some(Cell {
        metric: column.metric.clone(),
        mean,
        std,
        runs: values.len(),
        rank: None,
        paper: published(paper, method, rank, &column.paper),
    })
}

/// The cell of the rank with the best mean, the smaller rank of equals.
fn best_cell(
    paper: &[paper::Cell],
    column: &Column,
    method: Method,
    ranks: &BTreeSet<RankName>,
    runs: &[&Record],
) -> Option<Cell> {
    let mut best: Option<Cell> = None;
    for &rank in ranks {
        let RankName::At(number) = rank else { continue };
        let Some(found) = cell(paper, column, method, rank, runs) else {
            continue;
        };
        let is_better = |mean: f64, than: f64| if column.is_error { mean < than } else { mean > than };
        if best
            .as_ref()
            .is_none_or(|best| is_better(found.mean, best.mean) || best.mean.is_nan())
        {
            best = Some(Cell {
                rank: Some(number),
                ..found
            });
        }
    }
    let paper = published(paper, method, RankName::Best, &column.paper);
    best.map(|best| Cell { paper, ..best })
}

/// The paper's number for a place in the table.
fn published(paper: &[paper::Cell], method: Method, rank: RankName, column: &str) -> Option<f64> {
    let row = match rank {
        RankName::At(rank) => paper::Row::Rank(rank),
        RankName::Best => paper::Row::Best,
        RankName::Full => paper::Row::Full,
    };
    paper::look_up(paper, method.name(), row, column).map(|number| number.mean)
}

/// Mean and sample standard deviation; 0 for one value.
fn mean_std(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let freedom = values.len().saturating_sub(1);
    (
        mean,
        if freedom == 0 {
            0.0
        } else {
            (squares / freedom as f64).sqrt()
        },
    )
}
