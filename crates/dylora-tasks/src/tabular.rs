//! A user's own data: csv, tsv, jsonl or parquet, one row per example, columns named on the command line.
//!
//! The ending of the file's name says what it is: `.csv` is read with quotes (a field may hold commas and line breaks), `.tsv`
//! without any (see [`crate::tsv`]), `.jsonl` as one JSON object per line. Line numbers in errors are those of the line on
//! which the row begins; in a parquet file they are those of rows, from 1.

mod parquet;

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::task::{Example, Head, Label, Split, Task};
use crate::tsv::{self, Table};

/// Which columns hold what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// Column of the first text.
    pub text_a: String,
    /// Column of the second text.
    pub text_b: Option<String>,
    /// Column of the label; `None` to read rows that have none.
    pub label: Option<String>,
    /// Whether labels are numbers to predict, not classes.
    pub regression: bool,
}

impl Columns {
    /// From `--text a` or `--text a,b`, and `--label y`.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are one or two text columns, all names different and none empty.
    pub fn parse(text: &str, label: Option<&str>, regression: bool) -> Result<Self> {
        let mut names: Vec<&str> = text.split(',').map(str::trim).collect();
        if names.len() > 2 || names.contains(&"") {
            return Err(Error::argument(
                "--text",
                format!("{text:?} is not one or two column names (a or a,b)"),
            ));
        }
        names.extend(label);
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(Error::argument(
                    "--text",
                    format!("column {name:?} is named more than once"),
                ));
            }
        }
        let mut texts = text.split(',').map(|name| name.trim().to_owned());
        Ok(Columns {
            text_a: texts.next().unwrap_or_default(),
            text_b: texts.next(),
            label: label.map(str::to_owned),
            regression,
        })
    }
}

/// A user's task with its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct TabularData {
    /// The task, with the classes of the train file.
    pub task: Task,
    /// Rows of the train file.
    pub train: Vec<Example>,
    /// Rows of the dev file.
    pub dev: Vec<Example>,
}

/// Reads a train and a dev file; the classes are those of the train file.
///
/// # Errors
/// As [`load_train`] and [`load_file`].
pub fn load(train: &Path, dev: &Path, columns: &Columns) -> Result<TabularData> {
    let (task, train) = load_train(train, columns)?;
    let dev = load_file(dev, columns, &task, Split::Dev)?;
    Ok(TabularData { task, train, dev })
}

/// Reads a train file and makes the task of it. The different labels, sorted (as numbers if all are whole numbers, else as
/// text), become classes 0, 1, ...; with `regression` every label must be a finite number.
///
/// # Errors
/// [`Error::Argument`] without a label column; [`Error::File`] with fewer than two classes; the first malformed row with its
/// line.
pub fn load_train(path: &Path, columns: &Columns) -> Result<(Task, Vec<Example>)> {
    if columns.label.is_none() {
        return Err(Error::argument("--label", "a train file needs a label column"));
    }
    let rows = read_rows(path, columns)?;
    let (head, metrics, labels) = if columns.regression {
        (Head::Regress, vec![Metric::Pearson, Metric::Spearman], Vec::new())
    } else {
        let labels = classes(&rows);
        if labels.len() < 2 {
            return Err(Error::file(
                path,
                format!("every row has the label {:?}; two classes are needed", labels.concat()),
            ));
        }
        let mut metrics = vec![Metric::Accuracy, Metric::Matthews];
        if labels.len() == 2 {
            metrics.insert(1, Metric::F1);
        }
        (Head::Classify(labels.len()), metrics, labels)
    };
    let task = Task {
        name: Format::of(path)?.name().to_owned(),
        head,
        metrics,
        labels,
        eval_splits: vec![Split::Dev],
    };
    let examples = examples(path, columns, &task, Split::Train, rows)?;
    Ok((task, examples))
}

/// Reads a file for a task whose classes are known. Without a label column every label is [`Label::None`].
///
/// # Errors
/// The first malformed row, or label that the task does not have, with its line.
pub fn load_file(path: &Path, columns: &Columns, task: &Task, split: Split) -> Result<Vec<Example>> {
    examples(path, columns, task, split, read_rows(path, columns)?)
}

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    Tsv,
    Jsonl,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path
            .extension()
            .and_then(|ending| ending.to_str())
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            Some("csv") => Ok(Format::Csv),
            Some("tsv") => Ok(Format::Tsv),
            Some("jsonl" | "ndjson") => Ok(Format::Jsonl),
            Some("parquet") => Ok(Format::Parquet),
            _ => Err(Error::file(
                path,
                "the name does not end in .csv, .tsv, .jsonl or .parquet",
            )),
        }
    }

    /// The format that a task is named after.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let all = [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet];
        all.into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::argument("--task", format!("{name:?} is not csv, tsv, jsonl or parquet")))
    }

    fn name(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Jsonl => "jsonl",
            Format::Parquet => "parquet",
        }
    }
}

/// A row as it stands in the file.
pub(crate) struct Row {
    /// The line on which it begins, from 1.
    pub(crate) line: usize,
    pub(crate) text_a: String,
    pub(crate) text_b: Option<String>,
    label: Option<String>,
}

/// Indices of the wanted columns.
struct Found {
    text_a: usize,
    text_b: Option<usize>,
    label: Option<usize>,
}

impl Found {
    fn new<S: AsRef<str>>(path: &Path, header: &[S], columns: &Columns) -> Result<Self> {
        let find = |name: &String| tsv::find_column(path, header, name);
        Ok(Found {
            text_a: find(&columns.text_a)?,
            text_b: columns.text_b.as_ref().map(find).transpose()?,
            label: columns.label.as_ref().map(find).transpose()?,
        })
    }

    fn row(&self, line: usize, field: impl Fn(usize) -> String) -> Row {
        Row {
            line,
            text_a: field(self.text_a),
            text_b: self.text_b.map(&field),
            label: self.label.map(&field),
        }
    }
}

/// The wanted columns of every row, in file order.
pub(crate) fn read_rows(path: &Path, columns: &Columns) -> Result<Vec<Row>> {
    let format = Format::of(path)?;
    if format == Format::Parquet {
        let rows = parquet::read(path, columns)?;
        return match rows.is_empty() {
            true => Err(Error::file(path, "has no rows")),
            false => Ok(rows),
        };
    }
    parse(path, format, &tsv::read_text(path)?, columns)
}

/// [`read_rows`] of a text that `path` stands for.
pub(crate) fn parse(path: &Path, format: Format, text: &str, columns: &Columns) -> Result<Vec<Row>> {
    let rows = match format {
        Format::Csv => read_csv(path, text, columns)?,
        Format::Tsv => {
            let table = Table::new(path, text, true)?;
            let found = Found::new(path, table.columns(), columns)?;
            table
                .rows(table.columns().len())
                .map(|row| row.map(|(line, fields)| found.row(line, |column| fields[column].to_owned())))
                .collect::<Result<_>>()?
        }
        Format::Jsonl => read_jsonl(path, text, columns)?,
        Format::Parquet => return Err(Error::file(path, "a parquet file is no text")),
    };
    match rows.is_empty() {
        true if format == Format::Jsonl => Err(Error::EmptyFile {
            path: path.to_path_buf(),
        }),
        true => Err(Error::HeaderOnly {
            path: path.to_path_buf(),
        }),
        false => Ok(rows),
    }
}

fn read_csv(path: &Path, text: &str, columns: &Columns) -> Result<Vec<Row>> {
    // `flexible`: the width is checked here, so that the error has the line on which the row begins.
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    let mut header: Option<(Found, usize)> = None;
    let mut rows = Vec::new();
    let mut lines = LineCounter::default();
    let mut last = (1, 0);
    while reader
        .read_record(&mut record)
        .map_err(|error| Error::file(path, error.to_string()))?
    {
        let (line, start) = lines.at(text, record.position().map_or(0, |position| position.byte() as usize));
        last = (line, start);
        match &header {
            None => {
                let names: Vec<&str> = record.iter().collect();
                header = Some((Found::new(path, &names, columns)?, names.len()));
            }
            Some((_, width)) if record.len() != *width => {
                return Err(Error::FieldCount {
                    path: path.to_path_buf(),
                    line,
                    expected: *width,
                    found: record.len(),
                });
            }
            Some((found, _)) => rows.push(found.row(line, |column| record[column].to_owned())),
        }
    }
    let rest = text.get(last.1..).unwrap_or_default();
    // The parser ends an open quote at the end of the file, which would swallow every row below it without a word.
    if rest.matches('"').count() % 2 == 1 && rest.trim_end().contains('\n') {
        return Err(Error::Malformed {
            path: path.to_path_buf(),
            line: last.0,
            message: "a quoted field begins here and never ends".to_owned(),
        });
    }
    Ok(rows)
}

/// Gives the rows of a csv stream to `give` as they come, until it wants no more.
///
/// # Errors
/// As [`read_rows`], and what `give` fails with.
pub(crate) fn csv_records(
    path: &Path,
    input: impl Read,
    columns: &Columns,
    mut give: impl FnMut(Row) -> Result<bool>,
) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(input);
    let mut record = csv::StringRecord::new();
    let mut header: Option<(Found, usize)> = None;
    let mut rows = 0;
    while reader
        .read_record(&mut record)
        .map_err(|error| Error::file(path, error.to_string()))?
    {
        let line = record.position().map_or(0, |position| position.line() as usize);
        let Some((found, width)) = &header else {
            let names: Vec<&str> = record.iter().collect();
            header = Some((Found::new(path, &names, columns)?, names.len()));
            continue;
        };
        if record.len() != *width {
            return Err(Error::FieldCount {
                path: path.to_path_buf(),
                line,
                expected: *width,
                found: record.len(),
            });
        }
        rows += 1;
        if !give(found.row(line, |column| record[column].to_owned()))? {
            return Ok(());
        }
    }
    match (rows, header) {
        (0, Some(_)) => Err(Error::HeaderOnly {
            path: path.to_path_buf(),
        }),
        (0, None) => Err(Error::EmptyFile {
            path: path.to_path_buf(),
        }),
        _ => Ok(()),
    }
}

/// Turns byte positions, asked for in rising order, into line numbers.
#[derive(Default)]
struct LineCounter {
    byte: usize,
    breaks: usize,
}

impl LineCounter {
    /// Line (from 1) and byte of the row that begins at `byte`, after the line breaks that the parser left before it.
    fn at(&mut self, text: &str, byte: usize) -> (usize, usize) {
        let bytes = text.as_bytes();
        let blank = bytes
            .iter()
            .skip(byte)
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let start = (byte + blank).min(bytes.len());
        self.breaks += bytes[self.byte..start].iter().filter(|&&byte| byte == b'\n').count();
        self.byte = start;
        (self.breaks + 1, start)
    }
}

fn read_jsonl(path: &Path, text: &str, columns: &Columns) -> Result<Vec<Row>> {
    use serde_json::{Map, Value};
    tsv::lines(text)
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(line, row)| {
            let malformed = |message: String| Error::Malformed {
                path: path.to_path_buf(),
                line,
                message,
            };
            let object: Map<String, Value> =
                serde_json::from_str(row).map_err(|error| malformed(format!("not a JSON object: {error}")))?;
            let get = |name: &String| {
                object.get(name).ok_or_else(|| Error::MissingColumn {
                    path: path.to_path_buf(),
                    line,
                    column: name.clone(),
                    found: object.keys().cloned().collect(),
                })
            };
            let text = |name: &String| match get(name)? {
                Value::String(text) => Ok(text.clone()),
                other => Err(malformed(format!("{name:?} is {other}, not a string"))),
            };
            let label = |name: &String| match get(name)? {
                Value::String(text) => Ok(text.clone()),
                number @ (Value::Number(_) | Value::Bool(_)) => Ok(number.to_string()),
                other => Err(malformed(format!(
                    "{name:?} is {other}, not a string, a number or a truth value"
                ))),
            };
            Ok(Row {
                line,
                text_a: text(&columns.text_a)?,
                text_b: columns.text_b.as_ref().map(text).transpose()?,
                label: columns.label.as_ref().map(label).transpose()?,
            })
        })
        .collect()
}

/// The different labels in order.
fn classes(rows: &[Row]) -> Vec<String> {
    let mut labels: Vec<String> = rows.iter().filter_map(|row| row.label.clone()).collect();
    labels.sort_unstable();
    labels.dedup();
    let numbers: Option<Vec<i64>> = labels.iter().map(|label| label.parse().ok()).collect();
    if let Some(numbers) = numbers {
        // So that class 10 comes after class 2 and the classes 0, 1, ... keep their numbers.
        let mut pairs: Vec<(i64, String)> = numbers.into_iter().zip(labels).collect();
        pairs.sort_unstable();
        labels = pairs.into_iter().map(|(_, label)| label).collect();
    }
    labels
}

/// Rows as examples of a task.
pub(crate) fn examples(
    path: &Path,
    columns: &Columns,
    task: &Task,
    split: Split,
    rows: Vec<Row>,
) -> Result<Vec<Example>> {
    rows.into_iter()
        .enumerate()
        .map(|(index, row)| {
            let label = match (&row.label, task.head) {
                (None, _) => Some(Label::None),
                (Some(value), Head::Classify(_)) => task.labels.iter().position(|name| name == value).map(Label::Class),
                (Some(value), Head::Regress) => value
                    .trim()
                    .parse()
                    .ok()
                    .filter(|score: &f64| score.is_finite())
                    .map(Label::Score),
            };
            Ok(Example {
                guid: format!("{split}-{index}"),
                text_a: row.text_a,
                text_b: row.text_b,
                label: label.ok_or_else(|| Error::Label {
                    path: path.to_path_buf(),
                    line: row.line,
                    column: columns.label.clone().unwrap_or_default(),
                    value: row.label.unwrap_or_default(),
                    expected: match task.head {
                        Head::Classify(_) => format!("one of {}", task.labels.join(", ")),
                        Head::Regress => "a finite number".to_owned(),
                    },
                })?,
            })
        })
        .collect()
}
