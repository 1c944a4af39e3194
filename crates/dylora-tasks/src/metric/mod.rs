//! Metrics: numbers that judge predictions, with undefined cases as scikit-learn and scipy treat them. Those of generated text
//! are in [`text`].

mod classify;
pub mod text;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use classify::{accuracy, f1, matthews, pearson, spearman};

use crate::error::{Error, Result};
use crate::task::{Head, Label};

/// A metric of classification or regression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Share of equal pairs.
    Accuracy,
    /// F1 of class 1.
    F1,
    /// Matthews correlation (R_K for more than two classes).
    Matthews,
    /// Pearson correlation.
    Pearson,
    /// Spearman rank correlation.
    Spearman,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 5] = [
        Metric::Accuracy,
        Metric::F1,
        Metric::Matthews,
        Metric::Pearson,
        Metric::Spearman,
    ];

    /// The key in JSON: `accuracy`, `f1`, `matthews`, `pearson`, `spearman`.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::F1 => "f1",
            Metric::Matthews => "matthews",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Metric::ALL
            .into_iter()
            .find(|metric| metric.name() == name)
            .ok_or_else(|| Error::argument("metric", format!("{name:?} is not a metric")))
    }
}

/// Labels beside predictions, index by index.
#[derive(Clone, Debug, PartialEq)]
pub enum Predictions {
    /// Classes.
    Classes {
        /// The true classes.
        labels: Vec<usize>,
        /// The predicted ones.
        predictions: Vec<usize>,
    },
    /// Numbers.
    Scores {
        /// The true scores.
        labels: Vec<f64>,
        /// The predicted ones.
        predictions: Vec<f64>,
    },
}

impl Predictions {
    /// Reads a head's outputs, `logits` `[labels.len(), head.num_labels()]` row by row: the largest class (the first of
    /// equals, as numpy's argmax), or the number itself.
    ///
    /// # Errors
    /// A number of logits that does not fit, or a label of another kind than the head's (a row without a label too).
    pub fn from_logits(head: Head, logits: &[f64], labels: &[Label]) -> Result<Self> {
        let width = head.num_labels();
        if width == 0 || logits.len() != labels.len() * width {
            return Err(Error::argument(
                "logits",
                format!("{} numbers for {} rows of {width}", logits.len(), labels.len()),
            ));
        }
        let wrong = |row: usize| {
            Error::argument(
                "labels",
                format!("row {row} has {:?}, not a label of {head:?}", labels[row]),
            )
        };
        match head {
            Head::Classify(_) => Ok(Predictions::Classes {
                labels: collect(labels, Label::class, wrong)?,
                predictions: logits.chunks_exact(width).map(argmax).collect(),
            }),
            Head::Regress => Ok(Predictions::Scores {
                labels: collect(labels, Label::score, wrong)?,
                predictions: logits.to_vec(),
            }),
        }
    }

    /// Number of rows predicted.
    pub fn len(&self) -> usize {
        match self {
            Predictions::Classes { predictions, .. } => predictions.len(),
            Predictions::Scores { predictions, .. } => predictions.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The wanted kind of every label, or the error for the first row that has another.
fn collect<T>(labels: &[Label], read: impl Fn(Label) -> Option<T>, wrong: impl Fn(usize) -> Error) -> Result<Vec<T>> {
    labels
        .iter()
        .enumerate()
        .map(|(row, &label)| read(label).ok_or_else(|| wrong(row)))
        .collect()
}

/// Index of the largest number, the first of equals; a NaN counts as largest, as numpy has it. 0 for an empty row.
pub fn argmax(row: &[f64]) -> usize {
    let mut best = 0;
    for (index, &value) in row.iter().enumerate() {
        if row[best].is_nan() {
            break;
        }
        if value > row[best] || value.is_nan() {
            best = index;
        }
    }
    best
}

/// The value of `metric`. NaN where scipy gives NaN (a constant side), 0 where scikit-learn gives 0.
///
/// # Errors
/// [`Error::LengthMismatch`]; [`Error::Undefined`] where scikit-learn or scipy raise (no rows; F1 of more than two classes;
/// Pearson of fewer than two rows) and for a metric of the other kind of prediction.
pub fn score(metric: Metric, predictions: &Predictions) -> Result<f64> {
    let other = |kind: &str| Error::Undefined {
        metric: metric.name(),
        reason: format!("the predictions are {kind}"),
    };
    match predictions {
        Predictions::Classes { labels, predictions } => match metric {
            Metric::Accuracy => accuracy(labels, predictions),
            Metric::F1 => f1(labels, predictions),
            Metric::Matthews => matthews(labels, predictions),
            Metric::Pearson | Metric::Spearman => Err(other("classes, not scores")),
        },
        Predictions::Scores { labels, predictions } => match metric {
            Metric::Pearson => pearson(labels, predictions),
            Metric::Spearman => spearman(labels, predictions),
            Metric::Accuracy | Metric::F1 | Metric::Matthews => Err(other("scores, not classes")),
        },
    }
}
