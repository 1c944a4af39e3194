//! A run's model on labelled rows, at every rank.

use std::path::Path;

use dylora_nn::{Checkpoint, EncoderConfig};

use crate::classifier::Classifier;
use crate::device;
use crate::error::{Error, Result};
use crate::metric::{self, Predictions, argmax};
use crate::prepare::{Prepared, rows_for};
use crate::progress::{Event, Observer};
use crate::record::{RankName, RankScores, Scores};
use crate::run_dir::RunDir;
use crate::settings::TrainSettings;
use crate::stream::RowStream;
use crate::task::{Example, Head, Label, Split, Task};
use crate::tokens::TokenizerSource;

/// Metrics of a classifier on labelled splits, at each rank (`None`: a model without adapters).
///
/// Metrics of the first split have their own names; those of further ones carry the split's: MNLI has `accuracy` (matched)
/// and `accuracy_mismatched`.
///
/// # Errors
/// A row without a label; a metric that is not defined for the predictions.
pub fn evaluate(
    classifier: &Classifier,
    task: &Task,
    splits: &[(Split, Prepared)],
    ranks: &[Option<usize>],
    token_budget: usize,
    observer: &mut dyn Observer,
) -> Result<Vec<RankScores>> {
    let rows = splits.iter().map(|(_, rows)| rows.len()).sum();
    observer.event(&Event::Evaluating {
        ranks: ranks.len(),
        rows,
    });
    let mut all = Vec::with_capacity(ranks.len());
    for &rank in ranks {
        let mut scores = Scores::default();
        for (index, (split, rows)) in splits.iter().enumerate() {
            let logits = classifier.logits(rows, rank, token_budget, |done| {
                observer.event(&Event::EvaluatedRows(done));
            })?;
            let predictions = Predictions::from_logits(task.head, &logits, &rows.labels)?;
            for &metric in &task.metrics {
                let name = if index == 0 {
                    metric.name().to_owned()
                } else {
                    format!("{metric}_{}", suffix(*split))
                };
                scores.0.push((name, metric::score(metric, &predictions)?));
            }
        }
        let rank = RankName::new(rank);
        observer.event(&Event::Evaluated { rank, scores: &scores });
        all.push(RankScores { rank, scores });
    }
    Ok(all)
}

fn suffix(split: Split) -> String {
    split.name().trim_start_matches("dev-").replace('-', "_")
}

/// What a model says of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The class by its name, or the score.
    pub label: String,
    /// The numbers behind it: one for each class, or the score.
    pub logits: Vec<f64>,
}

/// A finished run's model, ready to read texts.
pub struct TrainedModel {
    /// The run's settings.
    pub settings: TrainSettings,
    /// Its task.
    pub task: Task,
    /// The model with its trained weights.
    pub classifier: Classifier,
    /// The tokenizer.
    pub tokenizer: TokenizerSource,
    /// Most tokens of one row.
    pub max_length: usize,
}

impl TrainedModel {
    /// Loads a finished run. `base` is where the base model's weights are now, if they have moved since.
    ///
    /// # Errors
    /// If the run has not ended or its files do not fit each other.
    pub fn open(run: &Path, base: Option<&Path>) -> Result<Self> {
        let run = RunDir::open(run)?;
        if !run.adapter().is_file() {
            return Err(Error::file(
                run.path(),
                "has not been trained to its end; continue it with --resume",
            ));
        }
        let settings = run.settings()?;
        if settings.data.is_text() {
            return Err(Error::file(
                run.path(),
                format!(
                    "is a run of --task {}, which has no classes; its record has the loss, and `generate` writes texts",
                    settings.task
                ),
            ));
        }
        let task = run.task()?;
        let config = EncoderConfig::from_file(&run.model().join("config.json"))?;
        let tokenizer = TokenizerSource::from_model_dir(&run.model())?;
        let source = match settings.adapter() {
            Some(_) => Some(Checkpoint::map(&settings.base(base)?)?),
            None => None,
        };
        let precision = device::to_use(settings.precision);
        // A run that trained every weight has them all itself.
        let mut classifier = Classifier::of(&settings, &config, task.head, source.as_ref(), precision)?;
        classifier.model.load_trained(&Checkpoint::open(&run.adapter())?, &[])?;
        if let Some(pruned) = classifier.pruned()? {
            classifier = pruned;
        }
        Ok(TrainedModel {
            max_length: settings.max_length.min(config.max_positions),
            settings,
            task,
            classifier,
            tokenizer,
        })
    }

    /// Checks ranks asked for against those the run trained; an empty list stands for those it was evaluated at.
    ///
    /// # Errors
    /// If a rank is 0, or above the run's rank, or the run has none.
    pub fn ranks(&self, wanted: &[usize]) -> Result<Vec<Option<usize>>> {
        if wanted.is_empty() {
            return Ok(self.settings.ranks());
        }
        wanted.iter().map(|&rank| self.check_rank(rank).map(Some)).collect()
    }

    fn check_rank(&self, rank: usize) -> Result<usize> {
        let most = self.classifier.model.rank();
        match rank {
            _ if self.settings.adapter().is_none() => Err(Error::argument(
                "--rank",
                "the run trained every weight; it has no ranks",
            )),
            0 => Err(Error::argument("--rank", "0 is not a rank; the smallest is 1")),
            rank if rank > most => Err(Error::argument(
                "--rank",
                format!("{rank} is above the run's rank {most}"),
            )),
            rank => Ok(rank),
        }
    }

    /// Rows of a split: from `file` if one is given, else from the data that the run was trained on.
    ///
    /// # Errors
    /// The first thing wrong with the file, with its line.
    pub fn rows(&self, split: Split, file: Option<&Path>) -> Result<Vec<Example>> {
        rows_for(&self.settings, &self.task, split, file)
    }

    /// What the model says of rows at a rank; `None` is the largest.
    ///
    /// # Errors
    /// If the rank is not one of the run's, or a row cannot be tokenised.
    pub fn predict(&self, rows: &[Example], rank: Option<usize>) -> Result<Vec<Prediction>> {
        let rank = match rank {
            Some(rank) => Some(self.check_rank(rank)?),
            None => self.settings.adapter().map(|adapter| adapter.rank),
        };
        let rows = self.prepare(rows)?;
        let logits = self
            .classifier
            .logits(&rows, rank, self.settings.token_budget, |_| ())?;
        let prediction = |logits: &[f64]| Prediction {
            label: match self.task.head {
                Head::Classify(_) => self.task.label_text(Label::Class(argmax(logits))),
                Head::Regress => logits[0].to_string(),
            },
            logits: logits.to_vec(),
        };
        Ok(logits
            .chunks_exact(self.task.head.num_labels())
            .map(prediction)
            .collect())
    }

    /// [`TrainedModel::predict`] of texts; the second of a row is that of a pair.
    ///
    /// # Errors
    /// As [`TrainedModel::predict`].
    pub fn predict_texts(&self, texts: &[(&str, Option<&str>)], rank: Option<usize>) -> Result<Vec<Prediction>> {
        let row = |(index, (first, second)): (usize, &(&str, Option<&str>))| Example {
            guid: index.to_string(),
            text_a: (*first).to_owned(),
            text_b: second.map(str::to_owned),
            label: Label::None,
        };
        let rows: Vec<Example> = texts.iter().enumerate().map(row).collect();
        self.predict(&rows, rank)
    }

    /// Rows of a split as they come from a pipe.
    ///
    /// # Errors
    /// As [`RowStream::new`].
    pub fn stream(&self, split: Split, input: Box<dyn std::io::Read + Send>) -> Result<RowStream> {
        RowStream::new(&self.settings, &self.task, split, input)
    }

    /// Tokenises rows as in training.
    ///
    /// # Errors
    /// If the tokenizer refuses a row.
    pub fn prepare(&self, rows: &[Example]) -> Result<Prepared> {
        Prepared::new(rows, &self.tokenizer, self.max_length)
    }
}
