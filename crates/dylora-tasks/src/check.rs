//! A look at a data file before anyone trains on it: rows, label counts, or the first error with its line.

use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::error::Result;
use crate::glue::GlueTask;
use crate::prepare::Prepared;
use crate::tabular::{self, Columns};
use crate::task::{Example, Label, Split, Task};

/// What [`glue`] and [`own`] found; in JSON `{"task", "rows", "labels": {..}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Name of the task.
    pub task: String,
    /// Number of data rows.
    pub rows: usize,
    /// How many rows have each label, as the file writes it, in the order of the classes; classes that do not occur count 0.
    /// Scores are counted by their integer part (`"3"` holds 3.0 up to, not including, 4.0), so the counts add up to `rows`
    /// here too. Empty where the file has no labels.
    #[serde(serialize_with = "as_map")]
    pub labels: Vec<(String, usize)>,
}

/// Reads one file of a task, laid out as `split` is (see [`GlueTask::path`] for the split's own), to its end.
///
/// # Errors
/// The first thing wrong with the file, with its line.
pub fn glue(task: &GlueTask, path: &Path, split: Split) -> Result<CheckReport> {
    Ok(report(&task.task(), &task.load_file(path, split)?))
}

/// Reads a user's own file to its end, taking its classes from the file itself.
///
/// # Errors
/// The first thing wrong with the file, with its line.
pub fn own(path: &Path, columns: &Columns) -> Result<CheckReport> {
    let (task, rows) = tabular::load_train(path, columns)?;
    Ok(report(&task, &rows))
}

/// Counts the labels of rows that are already in memory.
pub fn report(task: &Task, rows: &[Example]) -> CheckReport {
    let labels: Vec<Label> = rows.iter().map(|row| row.label).collect();
    count(task, &labels)
}

fn count(task: &Task, rows: &[Label]) -> CheckReport {
    let mut labels: Vec<(String, usize)> = Vec::new();
    if rows.iter().any(|label| *label != Label::None) {
        labels.extend(task.labels.iter().map(|name| (name.clone(), 0)));
    }
    let mut scores = std::collections::BTreeMap::<i64, usize>::new();
    for row in rows {
        match *row {
            Label::Class(class) => {
                if let Some((_, count)) = labels.get_mut(class) {
                    *count += 1;
                }
            }
            Label::Score(score) => *scores.entry(score.floor() as i64).or_default() += 1,
            Label::None => {}
        }
    }
    labels.extend(scores.into_iter().map(|(score, count)| (score.to_string(), count)));
    CheckReport {
        task: task.name.clone(),
        rows: rows.len(),
        labels,
    }
}

/// How long the rows of a file are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// `words` (what stands between blanks) or `tokens`, special ones included.
    pub unit: &'static str,
    /// The shortest row.
    pub min: usize,
    /// Half of the rows are no longer.
    pub median: usize,
    /// 95 of 100 rows are no longer.
    pub p95: usize,
    /// The longest row.
    pub max: usize,
    /// Of all rows.
    pub total: usize,
}

impl Lengths {
    /// Of rows of these lengths; none of no rows.
    pub fn new(unit: &'static str, lengths: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut lengths: Vec<usize> = lengths.into_iter().collect();
        lengths.sort_unstable();
        let (min, max) = (*lengths.first()?, *lengths.last()?);
        // The smallest length that so many rows do not exceed.
        let share = |hundredths: usize| lengths[(lengths.len() * hundredths).div_ceil(100).max(1) - 1];
        Some(Lengths {
            unit,
            min,
            median: share(50),
            p95: share(95),
            max,
            total: lengths.iter().sum(),
        })
    }

    /// In words, both texts of a pair together.
    pub fn in_words(rows: &[Example]) -> Option<Self> {
        let words = |text: &str| text.split_whitespace().count();
        let row = |row: &Example| words(&row.text_a) + row.text_b.as_deref().map_or(0, words);
        Self::new("words", rows.iter().map(row))
    }

    /// In tokens, as they were cut for the model.
    pub fn in_tokens(rows: &Prepared) -> Option<Self> {
        Self::new("tokens", rows.encoded.iter().map(|row| row.ids.len()))
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} to {} {} a row, half up to {}, 95 of 100 up to {}",
            self.min, self.max, self.unit, self.median, self.p95
        )
    }
}

/// Counts the labels of rows that are token ids already.
pub fn prepared(task: &Task, rows: &Prepared) -> CheckReport {
    count(task, &rows.labels)
}

fn as_map<S: Serializer>(labels: &[(String, usize)], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(labels.len()))?;
    for (label, count) in labels {
        map.serialize_entry(label, count)?;
    }
    map.end()
}
