//! What a run tells whoever watches it. This crate prints nothing itself.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::check::{CheckReport, Lengths};
use crate::pretrain::{Evaluation, PretrainRecord, PretrainSettings, TextFacts};
use crate::record::{RankName, Record, Scores};
use crate::settings::TrainSettings;

/// Something that happened in a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Data and model are loaded; training starts.
    Started {
        /// The run's settings.
        settings: &'a TrainSettings,
        /// The run's directory.
        run: &'a Path,
        /// Optimizer steps of the whole run.
        steps: u64,
        /// Steps that were done before (0 unless resumed).
        done: u64,
        /// Training rows.
        rows: usize,
        /// Tokens of an epoch.
        tokens: usize,
    },
    /// Texts of a file are longer than the model or `max_length` allow and were cut.
    Cut {
        /// The file.
        path: &'a Path,
        /// How many.
        texts: usize,
    },
    /// The training rows are read: their labels and how long they are.
    Data {
        /// The labels.
        labels: &'a CheckReport,
        /// Tokens of a row, after cutting.
        lengths: &'a Lengths,
        /// The most tokens of a row; rows of so many may have been cut.
        max_length: usize,
        /// Rows of so many tokens.
        at_limit: usize,
    },
    /// The model starts from somebody's adapter.
    Adapter {
        /// Where it was.
        path: &'a Path,
        /// Its largest rank.
        rank: usize,
        /// Layers it is on.
        layers: usize,
        /// Whether its head fits this task; otherwise the head is new.
        head: bool,
    },
    /// Something that a person should know of the data, in a sentence.
    Remark(&'a str),
    /// An optimizer step.
    Step {
        /// Number of the step, from 1.
        step: u64,
        /// Number of the epoch, from 1.
        epoch: u32,
        /// Mean loss over the step's rows.
        loss: f64,
        /// Norm of all gradients together before clipping.
        grad_norm: f64,
        /// Learning rate.
        lr: f64,
        /// The rank that was trained; `None` for `full`, and for all ranks at once.
        rank: Option<usize>,
        /// Rows of the step.
        rows: usize,
        /// Tokens of the step.
        tokens: usize,
    },
    /// The last step of an epoch is done.
    EpochEnd {
        /// Number of the epoch, from 1.
        epoch: u32,
        /// Mean loss of its rows.
        loss: f64,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps done.
        step: u64,
        /// The file.
        path: &'a Path,
    },
    /// The model is evaluated at so many ranks, on so many rows each.
    Evaluating {
        /// Ranks.
        ranks: usize,
        /// Rows.
        rows: usize,
    },
    /// So many more rows are evaluated.
    EvaluatedRows(usize),
    /// One rank is evaluated.
    Evaluated {
        /// The rank.
        rank: RankName,
        /// Its metrics.
        scores: &'a Scores,
    },
    /// The run is over and its record written.
    Finished {
        /// The record.
        record: &'a Record,
    },
    /// One of several runs starts.
    Experiment {
        /// Its number among them, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// What it is, in words.
        name: &'a str,
    },
    /// One of several runs ended with an error; the next one follows.
    ExperimentFailed {
        /// What it is, in words.
        name: &'a str,
        /// Why.
        error: &'a crate::Error,
    },
    /// One of several runs is not for us: another process is at it, or has ended it meanwhile.
    ExperimentElsewhere {
        /// What it is, in words.
        name: &'a str,
        /// Who is at it, in words; `None` once its record is there.
        by: Option<&'a str>,
    },
    /// A pre-training has news.
    Pretrain(PretrainEvent<'a>),
}

/// Something that happened in a pre-training.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum PretrainEvent<'a> {
    /// Text, tokenizer and model are there; training starts.
    Started {
        /// The settings.
        settings: &'a PretrainSettings,
        /// The model directory.
        dir: &'a Path,
        /// What the text holds.
        text: &'a TextFacts,
        /// Tokens of the vocabulary, which a short text keeps below what was asked for.
        vocab_size: usize,
        /// Weights of the model.
        parameters: usize,
        /// Steps that were done before (0 unless resumed).
        done: u64,
    },
    /// An optimizer step.
    Step {
        /// Number of the step, from 1.
        step: u64,
        /// Mean loss over the hidden tokens.
        loss: f64,
        /// Norm of all gradients together before clipping.
        grad_norm: f64,
        /// Learning rate.
        lr: f64,
        /// Tokens of the step.
        tokens: usize,
    },
    /// The held-out texts are evaluated.
    Evaluated(&'a Evaluation),
    /// The run is over and its record written.
    Finished {
        /// The record.
        record: &'a PretrainRecord,
    },
}

/// Watches a run, and may ask it to stop.
pub trait Observer {
    /// Called as things happen.
    fn event(&mut self, event: &Event<'_>);

    /// Whether the run should stop: it finishes its step, writes a checkpoint and returns.
    fn should_stop(&self) -> bool {
        false
    }
}

/// Watches nothing.
impl Observer for () {
    fn event(&mut self, _event: &Event<'_>) {}
}

/// Watches several runs that may go on side by side.
///
/// Each run has an observer of its own, which sees [`Event::Experiment`] first and [`Event::ExperimentFailed`] last if it
/// comes to that, or [`Event::ExperimentElsewhere`] alone. An [`Observer`] in a [`Mutex`] watches all runs at once, and cannot tell the steps of one from those of
/// another.
pub trait Observers: Sync {
    /// An observer for a run that is about to start; called on the thread of the run.
    fn of_run(&self) -> Box<dyn Observer + Send + '_>;

    /// Whether no further run should start. What is running asks its own observer.
    fn should_stop(&self) -> bool {
        false
    }
}

/// Watches nothing.
impl Observers for () {
    fn of_run(&self) -> Box<dyn Observer + Send + '_> {
        Box::new(())
    }
}

/// One observer for all runs, which is told of one event at a time.
impl<O: Observer + Send> Observers for Mutex<O> {
    fn of_run(&self) -> Box<dyn Observer + Send + '_> {
        Box::new(Locked(self))
    }

    fn should_stop(&self) -> bool {
        Locked(self).should_stop()
    }
}

struct Locked<'a, O>(&'a Mutex<O>);

impl<O: Observer> Observer for Locked<'_, O> {
    fn event(&mut self, event: &Event<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }

    fn should_stop(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).should_stop()
    }
}
