//! What can go wrong between a file and a table, one clear sentence each.

use std::path::{Path, PathBuf};

use crate::nearest::hint;

/// Everything this crate reports instead of panicking. Lines count from 1, the header included.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a path.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`, `rename`, ...
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A data file without a byte in it.
    #[error("{} is empty", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A data file with a header row and nothing below it.
    #[error("{} has a header row but no data rows", path.display())]
    HeaderOnly {
        /// The file.
        path: PathBuf,
    },
    /// A header row (or a JSON object) without a column that is needed.
    #[error("{}, line {line}: no column {column:?}; the columns are {}", path.display(), quoted(found))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// Line of the header, or of the JSON object.
        line: usize,
        /// The column that was looked for.
        column: String,
        /// The columns the header has.
        found: Vec<String>,
    },
    /// A header row that has a needed column twice.
    #[error("{}, line 1: column {column:?} stands in the header more than once", path.display())]
    RepeatedColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// A row with more or fewer fields than the header (or the layout) has.
    #[error("{}, line {line}: the row has {found} of {expected} fields", path.display())]
    FieldCount {
        /// The file.
        path: PathBuf,
        /// Line of the row.
        line: usize,
        /// Fields of the layout.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// A line that is not UTF-8.
    #[error("{}, line {line}: not valid UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A label that the task does not have.
    #[error("{}, line {line}, column {column:?}: label {value:?} is not {expected}", path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// Line of the row.
        line: usize,
        /// Name of the label column.
        column: String,
        /// What stands there.
        value: String,
        /// What could stand there, in words.
        expected: String,
    },
    /// A line or file that its own format does not allow (a JSON syntax error, a record without a key, ...).
    #[error("{}, line {line}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A directory that somebody else is at work in, see [`crate::dir_lock::DirLock`].
    #[error("{}: {by} is at work in this directory; wait until it has ended, or choose another", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Who has it: `process 4711 on node3`, or `another process`.
        by: String,
    },
    /// A file whose content does not serve, where no line can be named.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A chart that the plotting library did not draw.
    #[error("cannot draw a chart: {message}")]
    Chart {
        /// The library's answer.
        message: String,
    },
    /// A task name that is not in the table.
    #[error("unknown task {name:?}; the tasks are {known}{}", hint(name, known.split(", ")))]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// All names, in order.
        known: String,
    },
    /// A split that a task does not have.
    #[error("task {task} has no split {split:?}; it has {available}")]
    UnknownSplit {
        /// The task.
        task: String,
        /// The split asked for.
        split: String,
        /// The splits of the task.
        available: String,
    },
    /// A setting or argument that cannot be used.
    #[error("{argument}: {message}")]
    Argument {
        /// The argument as a person writes it, `--rank` or `max_length`.
        argument: String,
        /// What is wrong with its value.
        message: String,
    },
    /// A tokenizer directory that cannot be read.
    #[error("cannot load a tokenizer from {}: {message}", path.display())]
    Tokenizer {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The tokenizer refused a text.
    #[error("cannot tokenise row {row}: {message}")]
    Encode {
        /// Index of the row among the rows given, from 0.
        row: usize,
        /// The tokenizer's own words.
        message: String,
    },
    /// A maximum length without room for the special tokens.
    #[error("max_length {max_length} is less than the {special} special tokens that go around every text")]
    MaxLength {
        /// The maximum length asked for.
        max_length: usize,
        /// Special tokens that are always there.
        special: usize,
    },
    /// A tokenizer that makes ids the model has no embedding for.
    #[error(
        "the tokenizer has {tokenizer} tokens (largest id {largest}) but the model's vocabulary has {model}: \
         they do not belong together"
    )]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokenizer: usize,
        /// Largest id it can make.
        largest: u32,
        /// Rows of the model's embedding table.
        model: usize,
    },
    /// Labels and predictions of different length.
    #[error("{predictions} predictions for {labels} labels")]
    LengthMismatch {
        /// Number of labels.
        labels: usize,
        /// Number of predictions.
        predictions: usize,
    },
    /// A metric that has no value for this input (where scikit-learn or scipy raise, not where they warn).
    #[error("{metric} is not defined: {reason}")]
    Undefined {
        /// Name of the metric.
        metric: &'static str,
        /// Why not.
        reason: String,
    },
    /// The loss or a gradient stopped being a number.
    #[error(
        "the {what} is {value} at step {step}{}: training stopped, the last checkpoint is kept",
        epoch.map(|epoch| format!(" (epoch {epoch})")).unwrap_or_default()
    )]
    Diverged {
        /// What is not a number: `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Optimizer step, from 1.
        step: u64,
        /// Epoch, from 1, where there are epochs.
        epoch: Option<u32>,
    },
    /// A run ended in a panic: a mistake in this program, or in an observer.
    #[error("stopped by a mistake in the program: {message}")]
    Panicked {
        /// The panic's own words.
        message: String,
    },
    /// A model, checkpoint or optimizer error.
    #[error(transparent)]
    Nn(#[from] dylora_nn::Error),
    /// A tensor error.
    #[error(transparent)]
    Tensor(#[from] dylora_nn::tensor::Error),
}

/// `Result` with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] for `map_err`: `fs::read(p).map_err(Error::io("read", p))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// An [`Error::Argument`].
    pub fn argument(argument: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Argument {
            argument: argument.into(),
            message: message.into(),
        }
    }

    /// The same error of a row that stands on line `to` of a longer text, not on line `from`.
    pub(crate) fn moved(mut self, from: usize, to: usize) -> Error {
        if let Error::MissingColumn { line, .. }
        | Error::FieldCount { line, .. }
        | Error::NotUtf8 { line, .. }
        | Error::Label { line, .. }
        | Error::Malformed { line, .. } = &mut self
            && *line == from
        {
            *line = to;
        }
        self
    }

    /// An [`Error::File`].
    pub fn file(path: &Path, message: impl Into<String>) -> Error {
        Error::File {
            path: path.to_path_buf(),
            message: message.into(),
        }
    }
}

/// `"a", "b"` for a sentence.
fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}
