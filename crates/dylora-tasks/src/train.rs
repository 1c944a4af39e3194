//! A whole run: read, train, checkpoint, evaluate, record; and taking up one that was stopped. What is trained follows from
//! where the settings' texts come from: a classifier of labelled rows, or a language model of pairs of texts.

use std::path::Path;
use std::sync::Arc;

use dylora_nn::tensor::Tensor;
use dylora_nn::{AdamW, Checkpoint, Gates, Remaining};

use crate::adapter;
use crate::check::{self, Lengths};
use crate::checkpoint::Position;
use crate::classifier::Classifier;
use crate::error::Result;
use crate::evaluate::evaluate;
use crate::metric::text::meteor::Data;
use crate::pack::{PackedBatch, pack};
use crate::prepare::{LabelledData, Prepared, RunData};
use crate::progress::{Event, Observer};
use crate::record::Record;
use crate::run_dir::RunDir;
use crate::session::{self, Evaluated, Job, total_steps};
use crate::settings::TrainSettings;
use crate::text2text::TextJob;
use crate::trainer::{Submitted, Trainer};

/// What does not change what a run learns.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Steps between checkpoints, besides those at the end of every epoch.
    pub checkpoint_every: Option<u64>,
    /// METEOR's lists, for runs that are judged by their texts; without them METEOR is not computed, and the record says so.
    pub meteor: Option<Arc<Data>>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<R = Record> {
    /// It ran to its end; the record is written.
    Finished(Box<R>),
    /// It was asked to stop; [`resume`] goes on after this step.
    Interrupted {
        /// Optimizer steps done.
        step: u64,
        /// Optimizer steps of the whole run.
        of: u64,
    },
}

/// Trains in a new directory.
///
/// # Errors
/// One sentence about the first thing that is wrong: a setting, a file with its line, the checkpoint's keys, a directory
/// that cannot be written (all before the first step), or [`Error::Diverged`](crate::Error::Diverged). After the last, the checkpoint of the last
/// finished epoch is kept.
pub fn train(
    settings: &TrainSettings,
    dir: &Path,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    settings.validate()?;
    train_on(settings, RunDir::create(dir)?, &options, observer, load)
}

/// What a run reads for itself, where it shares it with no other.
fn load(settings: &TrainSettings) -> Result<Arc<RunData>> {
    RunData::load(settings).map(Arc::new)
}

/// [`train`] in a directory that nobody else trains in, on data that `load` gives for the run's settings.
pub(crate) fn train_on(
    settings: &TrainSettings,
    run: RunDir,
    options: &RunOptions,
    observer: &mut dyn Observer,
    load: impl FnOnce(&TrainSettings) -> Result<Arc<RunData>>,
) -> Result<Outcome> {
    warn(&run, observer);
    let begin = |data: Arc<RunData>| {
        let job = job(settings, &data)?;
        adapter::start(settings, &job.trained(), observer)?;
        Ok(job)
    };
    match load(settings).and_then(begin) {
        Ok(job) => {
            job.begin(&run)?;
            session::run(job, &run, Position::default(), options, observer)
        }
        Err(error) => {
            run.abandon();
            Err(error)
        }
    }
}

/// Goes on with a run that was stopped or killed, to the same bytes as if it had not been. A finished run is only read.
///
/// `settings` are those the caller wants, to be held against the run's own; `None` takes the run's.
///
/// # Errors
/// If there is no run, its settings differ from the given ones (the first difference is named), another process trains it
/// ([`Error::Busy`](crate::Error::Busy)), or as [`train`].
pub fn resume(
    dir: &Path,
    settings: Option<&TrainSettings>,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let run = RunDir::open(dir)?;
    run.check_settings(settings)?;
    if run.is_finished() {
        return Ok(Outcome::Finished(Box::new(run.record()?)));
    }
    resume_on(&RunDir::claim(dir)?, settings, &options, observer, load)
}

/// [`resume`] in a directory that nobody else trains in, on data that `load` gives for the run's settings.
pub(crate) fn resume_on(
    run: &RunDir,
    settings: Option<&TrainSettings>,
    options: &RunOptions,
    observer: &mut dyn Observer,
    load: impl FnOnce(&TrainSettings) -> Result<Arc<RunData>>,
) -> Result<Outcome> {
    let own = run.check_settings(settings)?;
    // Whoever had the directory until now may have ended it.
    if run.is_finished() {
        return Ok(Outcome::Finished(Box::new(run.record()?)));
    }
    warn(run, observer);
    run.sweep()?;
    own.validate()?;
    let data = load(&own)?;
    let mut job = job(&own, &data)?;
    if !run.checkpoint().is_file() {
        adapter::start(&own, &job.trained(), observer)?;
    }
    let position = session::restore(&mut *job, run)?;
    session::run(job, run, position, options, observer)
}

/// Says that nothing keeps a second process out.
fn warn(run: &RunDir, observer: &mut dyn Observer) {
    if !run.is_exclusive() {
        observer.event(&Event::Remark(&format!(
            "the file system of {} has no locks: see to it that no other process trains there",
            run.path().display()
        )));
    }
}

/// A model at its first step, with its rows.
fn job(settings: &TrainSettings, data: &RunData) -> Result<Box<dyn Job>> {
    Ok(match data {
        RunData::Labelled(data) => Box::new(ClassifierJob::new(settings, data.clone())?),
        RunData::Texts(data) => Box::new(TextJob::new(settings, data.clone())?),
    })
}

/// What pruning did, for the record.
fn pruning(left: &Remaining) -> String {
    format!(
        "Pruning left {} of {} components, {} numbers where the encoder's linear layers had {}: a sparsity of {:.4}, and {:.4} \
         expected over drawn gates.",
        left.components,
        left.of_components,
        left.numbers,
        left.of_dense,
        left.sparsity(),
        left.expected_sparsity(),
    )
}

/// A classifier in training.
struct ClassifierJob {
    settings: TrainSettings,
    data: Arc<LabelledData>,
    trainer: Trainer,
}

impl ClassifierJob {
    fn new(settings: &TrainSettings, data: Arc<LabelledData>) -> Result<Self> {
        let mut config = data.config.clone();
        if let Some(dropout) = settings.dropout {
            config = config.with_dropout(dropout);
        }
        let corpus = &data.corpus;
        let source = Checkpoint::open(&settings.model)?;
        let classifier = Classifier::of(settings, &config, corpus.task.head, Some(&source), settings.precision)?;
        let trainer = Trainer::new(classifier, settings, total_steps(settings, corpus.train.len()))?;
        Ok(ClassifierJob {
            settings: settings.clone(),
            data,
            trainer,
        })
    }
}

impl Job for ClassifierJob {
    fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    fn begin(&self, run: &RunDir) -> Result<()> {
        run.begin(&self.settings, &self.data.corpus.task)
    }

    fn announce(&self, observer: &mut dyn Observer) {
        let rows = &self.data.corpus.train;
        let max_length = self.settings.max_length.min(self.data.config.max_positions);
        if let Some(lengths) = Lengths::in_tokens(rows) {
            observer.event(&Event::Data {
                labels: &check::prepared(&self.data.corpus.task, rows),
                lengths: &lengths,
                max_length,
                at_limit: rows.encoded.iter().filter(|row| row.ids.len() >= max_length).count(),
            });
        }
    }

    fn rows(&self) -> usize {
        self.data.corpus.train.len()
    }

    fn tokens(&self) -> usize {
        self.data.corpus.train.tokens()
    }

    fn submit(&mut self, rows: &[usize]) -> Result<(Submitted, usize)> {
        let Prepared { encoded, labels } = &self.data.corpus.train;
        let offset = self.trainer.classifier.position_offset();
        let batches = pack(encoded, labels, rows, offset, self.settings.token_budget)?;
        let submitted = self.trainer.submit(&batches)?;
        Ok((submitted, batches.iter().map(PackedBatch::tokens).sum()))
    }

    fn set_done(&mut self, done: u64) {
        self.trainer.set_done(done);
    }

    fn trained(&self) -> Vec<(String, Tensor)> {
        self.trainer.classifier.model.named_trained()
    }

    fn optimizer(&self) -> &AdamW {
        &self.trainer.optimizer
    }

    fn optimizer_mut(&mut self) -> &mut AdamW {
        &mut self.trainer.optimizer
    }

    fn num_trainable(&self, rank: usize) -> Result<usize> {
        Ok(self.trainer.classifier.model.num_remaining(rank)?)
    }

    fn device(&self) -> String {
        self.trainer.classifier.device().describe()
    }

    fn evaluate(&self, _run: &RunDir, _options: &RunOptions, observer: &mut dyn Observer) -> Result<Option<Evaluated>> {
        let corpus = &self.data.corpus;
        let ranks = self.settings.ranks();
        let budget = self.settings.token_budget;
        let classifier = &self.trainer.classifier;
        let pruned = classifier.pruned()?;
        let remaining = classifier.model.gates().map(Gates::remaining).transpose()?;
        let classifier = pruned.as_ref().unwrap_or(classifier);
        let ranks = evaluate(classifier, &corpus.task, &corpus.eval, &ranks, budget, observer)?;
        Ok(Some(Evaluated {
            ranks,
            notes: remaining.map(|left| pruning(&left)).into_iter().collect(),
        }))
    }
}
