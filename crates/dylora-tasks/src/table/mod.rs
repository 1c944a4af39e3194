//! Table 2 of the paper from records: for each rank a block of methods, then each method's best rank, then fine-tuning;
//! beside every number the paper's.
//!
//! This file lays the numbers out, `text` writes them as plain text and Markdown, `html` as a page with the charts of
//! `chart`, and `runs` sums up the records that they came from.

mod chart;
mod html;
mod runs;
mod text;

use std::collections::BTreeSet;

use dylora_nn::Method;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::glue::GlueTask;
use crate::metric::Metric;
use crate::paper;
use crate::record::{RankName, Record, json_number};

pub use runs::Run;

/// One number of the table, in percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Which metric: the one that the paper's table has for the task.
    pub metric: Metric,
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
    /// A cell for each task that has a record, in the order of the columns.
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
    /// Whether model and data are those of the paper's Table 2: RoBERTa-base on the GLUE files.
    pub same_setting_as_paper: bool,
}

/// A table, ready to print.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// Its name: `glue`.
    pub table: String,
    /// Which profile the runs had.
    pub profile: String,
    /// Its lines.
    pub rows: Vec<Row>,
    /// Which model and data the numbers are of, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<Caption>,
    /// The runs behind the numbers, in the order of the records.
    pub runs: Vec<Run>,
    #[serde(skip)]
    headings: Vec<String>,
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
    for (task, cell) in cells {
        if let Some(cell) = cell {
            map.serialize_entry(task, cell)?;
        }
    }
    map.end()
}

impl Table {
    /// Lays out Table 2 beside the paper's numbers, [`paper::TABLE_2`]. Lines without any number are left out.
    pub fn glue(profile: &str, tasks: &[&GlueTask], methods: &[Method], records: &[Record]) -> Table {
        Self::glue_beside(paper::TABLE_2, profile, tasks, methods, records)
    }

    /// As [`Table::glue`], beside the published numbers `paper`.
    pub fn glue_beside(
        paper: &[paper::Cell],
        profile: &str,
        tasks: &[&GlueTask],
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
            let tasks: Vec<(String, Option<Cell>)> = tasks
                .iter()
                .map(|task| {
                    let cell = match rank {
                        RankName::Best => best_cell(paper, task, method, &ranks, &runs),
                        rank => cell(paper, task, method, rank, &runs),
                    };
                    (task.name.to_owned(), cell)
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
                average: means.map(|means| means.iter().sum::<f64>() / means.len().max(1) as f64),
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
        Table {
            table: "glue".to_owned(),
            profile: profile.to_owned(),
            rows,
            caption: None,
            runs: records.iter().map(Run::new).collect(),
            headings: tasks.iter().map(|task| task.folder.to_owned()).collect(),
            settings: runs::Settings::of(records),
            paper_is_known: !paper.is_empty(),
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
        match &self.caption {
            None => "Table 2 (GLUE, development sets)".to_owned(),
            Some(caption) if caption.same_setting_as_paper => {
                format!("Table 2: {} on {}, development sets", caption.model, caption.data)
            }
            Some(caption) => format!(
                "Laid out as Table 2: {} on {}, development sets",
                caption.model, caption.data
            ),
        }
    }

    /// What a reader must know of the paper's numbers, as the end of a sentence.
    fn about_paper(&self) -> &'static str {
        let same = self.caption.as_ref().is_some_and(|c| c.same_setting_as_paper);
        // Without a caption nobody has said that the numbers may be compared.
        match (self.paper_is_known, same) {
            (false, true) => "the paper's numbers are not included yet",
            (false, false) => {
                "the paper's numbers are not included yet; they are of another model (RoBERTa-base) and other data (GLUE)"
            }
            (true, true) => "in square brackets the paper's number (RoBERTa-base on GLUE), – where it has none",
            (true, false) => {
                "in square brackets the paper's number, which is of another model (RoBERTa-base) and other data (GLUE), – where it has \
                 none"
            }
        }
    }
}

fn cell(paper: &[paper::Cell], task: &GlueTask, method: Method, rank: RankName, runs: &[&Record]) -> Option<Cell> {
    let metric = *task.metrics.first()?;
    let values: Vec<f64> = runs
        .iter()
        .filter(|record| record.settings.task == task.name)
        .filter_map(|record| {
            record
                .ranks
                .iter()
                .find(|row| row.rank == rank)?
                .scores
                .get(metric.name())
        })
        .map(|value| 100.0 * value)
        .collect();
    if values.is_empty() {
        return None;
    }
    let (mean, std) = mean_std(&values);
    let paper = published(paper, method, rank, task.name);
    Some(Cell {
        metric,
        mean,
        std,
        runs: values.len(),
        rank: None,
        paper,
    })
}

/// The cell of the rank with the largest mean, the smaller rank of equals.
fn best_cell(
    paper: &[paper::Cell],
    task: &GlueTask,
    method: Method,
    ranks: &BTreeSet<RankName>,
    runs: &[&Record],
) -> Option<Cell> {
    let mut best: Option<Cell> = None;
    for &rank in ranks {
        let RankName::At(number) = rank else { continue };
        let Some(found) = cell(paper, task, method, rank, runs) else {
            continue;
        };
        if best
            .as_ref()
            .is_none_or(|best| found.mean > best.mean || best.mean.is_nan())
        {
            best = Some(Cell {
                rank: Some(number),
                ..found
            });
        }
    }
    let paper = published(paper, method, RankName::Best, task.name);
    best.map(|best| Cell { paper, ..best })
}

/// The paper's number for a place in the table.
fn published(paper: &[paper::Cell], method: Method, rank: RankName, task: &str) -> Option<f64> {
    let row = match rank {
        RankName::At(rank) => paper::Row::Rank(rank),
        RankName::Best => paper::Row::Best,
        RankName::Full => paper::Row::Full,
    };
    paper::look_up(paper, method.name(), row, task).map(|number| number.mean)
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
