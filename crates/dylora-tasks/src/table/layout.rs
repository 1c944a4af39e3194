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
    /// Whether the heading says the metric; else it says the task.
    pub names_metric: bool,
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
    /// The paper's table of this kind.
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
                names_metric: false,
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

    /// Table 6 or 9: a column for each metric of each generation task.
    pub fn generation(tasks: &[GenerationTask], records: &[&Record]) -> Self {
        let [task] = tasks else {
            let of_task = |&task: &GenerationTask| {
                let columns = Self::of_task(task, records).into_iter();
                columns.map(move |column| Column {
                    heading: format!("{} {}", task.title(), column.heading),
                    axis: format!("{} {}", task.title(), column.axis),
                    ..column
                })
            };
            return Layout {
                name: "texts".to_owned(),
                paper: &paper::DART_AND_WEBNLG,
                columns: tasks.iter().flat_map(of_task).collect(),
                has_average: false,
                units: "BLEU in percent; of TER (↓) less is better",
            };
        };
        let task = *task;
        Layout {
            name: task.name().to_owned(),
            paper: match task {
                GenerationTask::E2e => &paper::E2E,
                GenerationTask::Dart => &paper::DART,
                GenerationTask::WebNlg => &paper::WEBNLG,
            },
            columns: Self::of_task(task, records),
            has_average: false,
            units: match task {
                GenerationTask::E2e => "BLEU, METEOR and ROUGE-L in percent",
                GenerationTask::Dart | GenerationTask::WebNlg => "BLEU in percent; of TER (↓) less is better",
            },
        }
    }

    /// The metrics of a task; after them those of the seen and unseen categories, if the records have them.
    fn of_task(task: GenerationTask, records: &[&Record]) -> Vec<Column> {
        let mut columns = Vec::new();
        let records = || records.iter().filter(|record| record.settings.task == task.name());
        for (part, words) in [("", ""), ("_seen", " (seen)"), ("_unseen", " (unseen)")] {
            for metric in Chain::of(task).metrics() {
                let name = format!("{}{part}", metric.name);
                let is_recorded = |record: &&&Record| record.ranks.iter().any(|row| row.scores.get(&name).is_some());
                if !part.is_empty() && records().find(is_recorded).is_none() {
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
                    names_metric: true,
                    metric: name,
                    scale: metric.scale,
                    decimals: metric.decimals,
                    is_error: metric.is_error,
                    least_span: if is_percent { 2.0 } else { 0.02 },
                });
            }
        }
        columns
    }
}
