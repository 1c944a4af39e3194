//! From settings to token ids: which files, which columns, which rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dylora_nn::EncoderConfig;

use crate::error::{Error, Result};
use crate::generation::{self, GenerationTask};
use crate::glue;
use crate::settings::{DataSource, TrainSettings, Writing};
use crate::tabular::{self, TabularData};
use crate::task::{Example, Label, Split, Task};
use crate::text2text::TextData;
use crate::tokens::{Encoded, TokenizerSource};

/// Names of the tasks that are a user's own files.
pub const OWN_TASKS: [&str; 4] = ["csv", "tsv", "jsonl", "parquet"];

/// A task's name as settings have it: `sst2` is `sst-2`, and own files are `csv`, `tsv`, `jsonl` or `parquet`.
///
/// # Errors
/// [`Error::UnknownTask`] with all names.
pub fn task_name(name: &str) -> Result<String> {
    if name.eq_ignore_ascii_case(crate::text2text::TASK) {
        return Ok(crate::text2text::TASK.to_owned());
    }
    if let Ok(task) = GenerationTask::find(name) {
        return Ok(task.name().to_owned());
    }
    match OWN_TASKS.iter().find(|own| own.eq_ignore_ascii_case(name)) {
        Some(own) => Ok((*own).to_owned()),
        None => glue::find(name)
            .map(|task| task.name.to_owned())
            .map_err(|error| match error {
                Error::UnknownTask { name, known } => Error::UnknownTask {
                    name,
                    known: format!(
                        "{known}; {}",
                        generation::TASKS
                            .iter()
                            .map(|task| task.name())
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                },
                other => other,
            }),
    }
}

/// Rows as token ids, with their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prepared {
    /// Token ids of each row.
    pub encoded: Vec<Encoded>,
    /// Label of each row.
    pub labels: Vec<Label>,
}

impl Prepared {
    /// Tokenises rows.
    ///
    /// # Errors
    /// If the tokenizer refuses a row.
    pub fn new(rows: &[Example], tokenizer: &TokenizerSource, max_length: usize) -> Result<Self> {
        Ok(Prepared {
            encoded: tokenizer.encode_examples(rows, max_length)?,
            labels: rows.iter().map(|row| row.label).collect(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.encoded.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.encoded.iter().map(|row| row.ids.len()).sum()
    }
}

/// What a run trains and is judged on.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    /// The task.
    pub task: Task,
    /// Rows to learn from, in file order.
    pub train: Prepared,
    /// Labelled splits to evaluate on, `Dev` first.
    pub eval: Vec<(Split, Prepared)>,
}

impl Corpus {
    /// Reads and tokenises everything that the settings name.
    ///
    /// # Errors
    /// The first thing wrong with a file, with its line; a row to learn from without a label.
    pub fn load(settings: &TrainSettings, tokenizer: &TokenizerSource, max_length: usize) -> Result<Self> {
        let prepare = |rows: &[Example]| Prepared::new(rows, tokenizer, max_length);
        let (task, mut train, eval) = match &settings.data {
            DataSource::Glue { dir } => {
                let source = glue::find(&settings.task)?;
                let task = source.task();
                let train = source.load(dir, Split::Train)?;
                let eval = task
                    .eval_splits
                    .iter()
                    .map(|&split| Ok((split, prepare(&source.load(dir, split)?)?)))
                    .collect::<Result<_>>()?;
                (task, train, eval)
            }
            DataSource::Files { train, dev, columns } => {
                let TabularData { task, train, dev } = tabular::load(train, dev, columns)?;
                let eval = vec![(Split::Dev, prepare(&dev)?)];
                (task, train, eval)
            }
            DataSource::Generation { .. } | DataSource::Pairs { .. } => return Err(not_labelled()),
        };
        if let Some(rows) = settings.max_train_rows {
            train.truncate(rows);
        }
        Ok(Corpus {
            task,
            train: prepare(&train)?,
            eval,
        })
    }
}

/// What a run reads besides weights. Nothing in it depends on the method, the seed or the recipe, so runs can share it.
#[derive(Clone, Debug)]
pub enum RunData {
    /// Rows with labels, for an encoder.
    Labelled(Arc<LabelledData>),
    /// Pairs of texts, for a language model.
    Texts(Arc<TextData>),
}

/// Labelled rows, and what reads them.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledData {
    /// The encoder's sizes, as its directory says them.
    pub config: EncoderConfig,
    /// The rows.
    pub corpus: Corpus,
}

/// The settings that decide what [`RunData`] holds.
#[derive(Clone, Debug, PartialEq)]
pub struct DataKey {
    task: String,
    model: PathBuf,
    data: DataSource,
    max_length: usize,
    max_train_rows: Option<usize>,
    writing: Option<Writing>,
}

impl DataKey {
    /// The key of a run's data: runs of equal keys can share it.
    pub fn new(settings: &TrainSettings) -> Self {
        DataKey {
            task: settings.task.clone(),
            model: settings.model.clone(),
            data: settings.data.clone(),
            max_length: settings.max_length,
            max_train_rows: settings.max_train_rows,
            writing: settings.writing,
        }
    }
}

impl RunData {
    /// Reads the model's configuration, its tokenizer and all rows.
    ///
    /// # Errors
    /// If the model directory's files do not fit each other, or the first thing wrong with a data file, with its line.
    pub fn load(settings: &TrainSettings) -> Result<Self> {
        if settings.data.is_text() {
            return TextData::load(settings).map(|data| RunData::Texts(Arc::new(data)));
        }
        let (config, tokenizer) = reader(&settings.model)?;
        let max_length = settings.max_length.min(config.max_positions);
        let corpus = Corpus::load(settings, &tokenizer, max_length)?;
        if corpus.train.labels.contains(&Label::None) {
            return Err(Error::argument("--data", "the training rows have no labels"));
        }
        Ok(RunData::Labelled(Arc::new(LabelledData { config, corpus })))
    }
}

/// What asks for labels of pairs of texts is told.
fn not_labelled() -> Error {
    Error::argument(
        "--task",
        "the task has pairs of texts and no labels; it is for a language model",
    )
}

/// A model directory's configuration and tokenizer, which must fit each other.
pub(crate) fn reader(model: &Path) -> Result<(EncoderConfig, TokenizerSource)> {
    let config = EncoderConfig::from_file(&model.join("config.json"))?;
    let tokenizer = TokenizerSource::from_model_dir(model)?;
    tokenizer.check_fits(config.vocab_size)?;
    Ok((config, tokenizer))
}

/// Rows of one split for a run's task: from `file` if one is given, else from where the run's settings say.
///
/// # Errors
/// The first thing wrong with the file, with its line; a split that the data does not have.
pub fn rows_for(settings: &TrainSettings, task: &Task, split: Split, file: Option<&Path>) -> Result<Vec<Example>> {
    match (&settings.data, file) {
        (DataSource::Generation { .. } | DataSource::Pairs { .. }, _) => Err(not_labelled()),
        (DataSource::Glue { .. }, Some(file)) => glue::find(&task.name)?.load_file(file, split),
        (DataSource::Glue { dir }, None) => glue::find(&task.name)?.load(dir, split),
        (DataSource::Files { columns, .. }, Some(file)) => {
            let columns = tabular::Columns {
                // A test file of one's own has no labels, as GLUE's has none.
                label: columns.label.clone().filter(|_| split != Split::Test),
                ..columns.clone()
            };
            tabular::load_file(file, &columns, task, split)
        }
        (DataSource::Files { train, dev, columns }, None) => match split {
            Split::Train => tabular::load_file(train, columns, task, split),
            Split::Dev => tabular::load_file(dev, columns, task, split),
            Split::DevMismatched | Split::Test => Err(Error::UnknownSplit {
                task: task.name.clone(),
                split: split.to_string(),
                available: "train, dev".to_owned(),
            }),
        },
    }
}
