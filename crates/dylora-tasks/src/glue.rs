//! The eight GLUE tasks of the paper as one constant table, and the one loader that reads it.
//!
//! Files are the official downloads (`CoLA/train.tsv`, `MNLI/dev_matched.tsv`, ...). A header row is followed by name, so a
//! file with its columns in another order loads the same; CoLA's train and dev files have no header and are read by position.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::task::{Example, Head, Label, Split, Task};
use crate::tsv::{self, Table};

/// One row of [`TASKS`]: where a task's files are and how a line of them is read.
#[derive(Debug)]
pub struct GlueTask {
    /// Name in lower case, as the command line and the records have it.
    pub name: &'static str,
    /// Other spellings that [`find`] takes.
    pub aliases: &'static [&'static str],
    /// Folder under the data directory.
    pub folder: &'static str,
    /// The file of each split; the official test split has no labels.
    pub files: &'static [(Split, &'static str)],
    /// Column names of files that come without a header row; the test split always has one.
    pub headerless: Option<&'static [&'static str]>,
    /// Column of the first text.
    pub text_a: &'static str,
    /// Column of the second text.
    pub text_b: Option<&'static str>,
    /// Column of the label.
    pub label: &'static str,
    /// What stands in the label column, in the order of the classes; empty for a score.
    pub labels: &'static [&'static str],
    /// Metrics as GLUE reports them; the first is the one in the paper's Table 2.
    pub metrics: &'static [Metric],
}

/// Lowest and highest score of STS-B.
const SCORES: std::ops::RangeInclusive<f64> = 0.0..=5.0;

const TRAIN_DEV_TEST: &[(Split, &str)] = &[
    (Split::Train, "train.tsv"),
    (Split::Dev, "dev.tsv"),
    (Split::Test, "test.tsv"),
];

const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];

/// The eight tasks, in the order of the paper's Table 2.
pub const TASKS: &[GlueTask] = &[
    GlueTask {
        name: "mnli",
        aliases: &[],
        folder: "MNLI",
        files: &[
            (Split::Train, "train.tsv"),
            (Split::Dev, "dev_matched.tsv"),
            (Split::DevMismatched, "dev_mismatched.tsv"),
            (Split::Test, "test_matched.tsv"),
        ],
        headerless: None,
        text_a: "sentence1",
        text_b: Some("sentence2"),
        label: "gold_label",
        labels: &["entailment", "neutral", "contradiction"],
        metrics: &[Metric::Accuracy],
    },
    GlueTask {
        name: "sst-2",
        aliases: &["sst2"],
        folder: "SST-2",
        files: TRAIN_DEV_TEST,
        headerless: None,
        text_a: "sentence",
        text_b: None,
        label: "label",
        labels: &["0", "1"],
        metrics: &[Metric::Accuracy],
    },
    GlueTask {
        name: "mrpc",
        aliases: &[],
        folder: "MRPC",
        files: TRAIN_DEV_TEST,
        headerless: None,
        text_a: "#1 String",
        text_b: Some("#2 String"),
        label: "Quality",
        labels: &["0", "1"],
        metrics: &[Metric::Accuracy, Metric::F1],
    },
    GlueTask {
        name: "cola",
        aliases: &[],
        folder: "CoLA",
        files: TRAIN_DEV_TEST,
        headerless: Some(&["source", "label", "mark", "sentence"]),
        text_a: "sentence",
        text_b: None,
        label: "label",
        labels: &["0", "1"],
        metrics: &[Metric::Matthews],
    },
    GlueTask {
        name: "qnli",
        aliases: &[],
        folder: "QNLI",
        files: TRAIN_DEV_TEST,
        headerless: None,
        text_a: "question",
        text_b: Some("sentence"),
        label: "label",
        labels: ENTAILMENT,
        metrics: &[Metric::Accuracy],
    },
    GlueTask {
        name: "qqp",
        aliases: &[],
        folder: "QQP",
        files: TRAIN_DEV_TEST,
        headerless: None,
        text_a: "question1",
        text_b: Some("question2"),
        label: "is_duplicate",
        labels: &["0", "1"],
        metrics: &[Metric::Accuracy, Metric::F1],
    },
    GlueTask {
        name: "rte",
        aliases: &[],
        folder: "RTE",
        files: TRAIN_DEV_TEST,
        headerless: None,
        text_a: "sentence1",
        text_b: Some("sentence2"),
        label: "label",
        labels: ENTAILMENT,
        metrics: &[Metric::Accuracy],
    },
    GlueTask {
        name: "sts-b",
        aliases: &["stsb"],
        folder: "STS-B",
        files: TRAIN_DEV_TEST,
        headerless: None,
        text_a: "sentence1",
        text_b: Some("sentence2"),
        label: "score",
        labels: &[],
        metrics: &[Metric::Pearson, Metric::Spearman],
    },
];

/// The task called `name`, in any case, `_` for `-`, or by an alias (`sst2`, `stsb`).
///
/// # Errors
/// [`Error::UnknownTask`] with all names.
pub fn find(name: &str) -> Result<&'static GlueTask> {
    let wanted = name.to_ascii_lowercase().replace('_', "-");
    TASKS
        .iter()
        .find(|task| task.name == wanted || task.aliases.contains(&wanted.as_str()))
        .ok_or_else(|| Error::UnknownTask {
            name: name.to_owned(),
            known: TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", "),
        })
}

impl GlueTask {
    /// What the head predicts.
    pub fn head(&self) -> Head {
        if self.labels.is_empty() {
            Head::Regress
        } else {
            Head::Classify(self.labels.len())
        }
    }

    /// The task as training and evaluation see it.
    pub fn task(&self) -> Task {
        let labelled = |split: &Split| matches!(split, Split::Dev | Split::DevMismatched);
        Task {
            name: self.name.to_owned(),
            head: self.head(),
            metrics: self.metrics.to_vec(),
            labels: self.labels.iter().map(|&label| label.to_owned()).collect(),
            eval_splits: self.files.iter().map(|&(split, _)| split).filter(labelled).collect(),
        }
    }

    /// The file of a split under the data directory (the one that holds `CoLA/`, `MRPC/`, ...).
    ///
    /// # Errors
    /// [`Error::UnknownSplit`].
    pub fn path(&self, data: &Path, split: Split) -> Result<PathBuf> {
        match self.files.iter().find(|(known, _)| *known == split) {
            Some((_, file)) => Ok(data.join(self.folder).join(file)),
            None => Err(Error::UnknownSplit {
                task: self.name.to_owned(),
                split: split.to_string(),
                available: self
                    .files
                    .iter()
                    .map(|(split, _)| split.name())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// All rows of a split, in file order.
    ///
    /// # Errors
    /// As [`GlueTask::path`] and [`GlueTask::load_file`].
    pub fn load(&self, data: &Path, split: Split) -> Result<Vec<Example>> {
        self.load_file(&self.path(data, split)?, split)
    }

    /// All rows of one file that is laid out as `split` is. [`Split::Test`] has no label column: every label is
    /// [`Label::None`], whatever else stands in the row.
    ///
    /// # Errors
    /// The first malformed row or header, with its line: wrong number of fields, unknown label, not UTF-8, empty file, no
    /// data rows, a missing or repeated column.
    pub fn load_file(&self, path: &Path, split: Split) -> Result<Vec<Example>> {
        self.parse(path, &tsv::read_text(path)?, split)
    }

    /// Whether files of this split begin with the names of their columns.
    pub(crate) fn has_header(&self, split: Split) -> bool {
        self.headerless.is_none() || split == Split::Test
    }

    /// [`GlueTask::load_file`] of a text that `path` stands for.
    pub(crate) fn parse(&self, path: &Path, text: &str, split: Split) -> Result<Vec<Example>> {
        let headerless = self.headerless.filter(|_| split != Split::Test);
        let table = Table::new(path, text, headerless.is_none())?;
        let columns = headerless.unwrap_or(table.columns());
        let column = |name| tsv::find_column(path, columns, name);
        let text_a = column(self.text_a)?;
        let text_b = self.text_b.map(column).transpose()?;
        let label = if split == Split::Test {
            None
        } else {
            Some(column(self.label)?)
        };
        table
            .rows(columns.len())
            .enumerate()
            .map(|(row, fields)| {
                let (line, fields) = fields?;
                Ok(Example {
                    guid: format!("{split}-{row}"),
                    text_a: fields[text_a].to_owned(),
                    text_b: text_b.map(|column| fields[column].to_owned()),
                    label: match label {
                        Some(column) => self.read_label(fields[column], path, line)?,
                        None => Label::None,
                    },
                })
            })
            .collect()
    }

    /// The label that `value` stands for.
    fn read_label(&self, value: &str, path: &Path, line: usize) -> Result<Label> {
        let label = match self.head() {
            Head::Classify(_) => self.labels.iter().position(|&name| name == value).map(Label::Class),
            Head::Regress => value
                .parse()
                .ok()
                .filter(|score| SCORES.contains(score))
                .map(Label::Score),
        };
        label.ok_or_else(|| Error::Label {
            path: path.to_path_buf(),
            line,
            column: self.label.to_owned(),
            value: value.to_owned(),
            expected: match self.head() {
                Head::Classify(_) => format!("one of {}", self.labels.join(", ")),
                Head::Regress => format!("a number from {} to {}", SCORES.start(), SCORES.end()),
            },
        })
    }
}
