//! What stands in a table's columns, and which table of the paper it is laid out as.

use crate::generation::GenerationTask;
use crate::glue::GlueTask;
use crate::metric::text::chain::Chain;
use crate::paper::{self, PaperTable};
use crate::record::Record;

/// A metric of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Name of the task.
    pub task: String,
    /// What stands above the column.
    pub heading: String,
    /// Name of the metric in records.
    pub metric: String,
    /// What the paper's cells call it: the task, in a table of many tasks, else the metric.
    pub paper: String,
    /// What the table prints is the recorded number times this.
    pub scale: f64,
    /// Digits after the point.
    pub decimals: usize,
    /// Whether less is better.
    pub is_error: bool,
    /// What its chart's axis is called.
    pub axis: String,
    /// Smallest height of that axis: noise shall not look like a difference.
    pub least_span: f64,
}

/// A table without its numbers.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Its name: `glue`, `e2e`.
    pub name: String,
    /// The paper's table.
    pub paper: &'static PaperTable,
    /// Its columns, those of a task side by side.
    pub columns: Vec<Column>,
    /// Whether a last column has the mean of the others.
    pub has_average: bool,
    /// The numbers' units, as the beginning of a sentence.
    pub units: &'static str,
}

impl Layout {
    /// Table 2: a column for each task, with its first metric.
    pub fn glue(tasks: &[&GlueTask]) -> Self {
        let column = |task: &&GlueTask| {
            let metric = task.metrics.first().map_or("", |metric| metric.name());
            Column {
                task: task.name.to_owned(),
                heading: task.folder.to_owned(),
                metric: metric.to_owned(),
                paper: task.name.to_owned(),
                scale: 100.0,
                decimals: 2,
                is_error: false,
                axis: match metric {
                    "matthews" | "pearson" | "spearman" => format!("{metric} × 100"),
                    _ => format!("{metric}, %"),
                },
                least_span: 2.0,
            }
        };
        Layout {
            name: "glue".to_owned(),
            paper: &paper::GLUE,
            columns: tasks.iter().map(column).collect(),
            has_average: true,
            units: "Percent",
        }
    }

    /// Table 6 or 9: a column for each metric of a generation task; after them those of the seen and unseen categories, if
    /// the records have them.
    pub fn generation(task: GenerationTask, records: &[Record]) -> Self {
        let mut columns = Vec::new();
        for (part, words) in [("", ""), ("_seen", " (seen)"), ("_unseen", " (unseen)")] {
            for metric in Chain::of(task).metrics() {
                let name = format!("{}{part}", metric.name);
                let is_recorded = |record: &Record| record.ranks.iter().any(|row| row.scores.get(&name).is_some());
                if !part.is_empty() && !records.iter().any(is_recorded) {
                    continue;
                }
                let is_percent = metric.scale > 1.0 || metric.name == "BLEU";
                let heading = format!("{}{words}", metric.name.replace('_', "-"));
                columns.push(Column {
                    task: task.name().to_owned(),
                    axis: if is_percent {
                        format!("{heading}, %")
                    } else {
                        heading.clone()
                    },
                    heading: if metric.is_error {
                        format!("{heading} ↓")
                    } else {
                        heading
                    },
                    paper: name.clone(),
                    metric: name,
                    scale: metric.scale,
                    decimals: metric.decimals,
                    is_error: metric.is_error,
                    least_span: if is_percent { 2.0 } else { 0.02 },
                });
            }
        }
        Layout {
            name: task.name().to_owned(),
            paper: match task {
                GenerationTask::E2e => &paper::E2E,
                GenerationTask::Dart => &paper::DART,
                GenerationTask::WebNlg => &paper::WEBNLG,
            },
            columns,
            has_average: false,
            units: match task {
                GenerationTask::E2e => "BLEU, METEOR and ROUGE-L in percent",
                GenerationTask::Dart | GenerationTask::WebNlg => "BLEU in percent; of TER (↓) less is better",
            },
        }
    }
}
