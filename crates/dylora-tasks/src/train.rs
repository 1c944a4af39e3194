//! A whole run: read, train, checkpoint, evaluate, record; and taking up one that was stopped.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dylora_nn::tensor::{Purpose, Stream};
use rand::seq::SliceRandom;

use crate::checkpoint::{self, Position};
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::pack::{PackedBatch, pack};
use crate::prepare::{Prepared, RunData};
use crate::progress::{Event, Observer};
use crate::record::{CodeVersion, RECORD_FORMAT, Record, Timing};
use crate::run_dir::RunDir;
use crate::settings::TrainSettings;
use crate::trainer::Trainer;

/// What does not change the result of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Steps between checkpoints, besides those at the end of every epoch.
    pub checkpoint_every: Option<u64>,
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
/// that cannot be written (all before the first step), or [`Error::Diverged`]. After the last, the checkpoint of the last
/// finished epoch is kept.
pub fn train(
    settings: &TrainSettings,
    dir: &Path,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    train_on(settings, dir, options, observer, load)
}

/// What a run reads for itself, where it shares it with no other.
fn load(settings: &TrainSettings) -> Result<Arc<RunData>> {
    RunData::load(settings).map(Arc::new)
}

/// [`train`] on data that `load` gives for the run's settings.
pub(crate) fn train_on(
    settings: &TrainSettings,
    dir: &Path,
    options: RunOptions,
    observer: &mut dyn Observer,
    load: impl FnOnce(&TrainSettings) -> Result<Arc<RunData>>,
) -> Result<Outcome> {
    settings.validate()?;
    let run = RunDir::create(dir)?;
    match load(settings).and_then(|data| Session::new(settings, data)) {
        Ok(session) => {
            run.begin(settings, &session.data.corpus.task)?;
            session.run(&run, Position::default(), options, observer)
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
/// If there is no run, its settings differ from the given ones (the first difference is named), or as [`train`].
pub fn resume(
    dir: &Path,
    settings: Option<&TrainSettings>,
    options: RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    resume_on(dir, settings, options, observer, load)
}

/// [`resume`] on data that `load` gives for the run's settings.
pub(crate) fn resume_on(
    dir: &Path,
    settings: Option<&TrainSettings>,
    options: RunOptions,
    observer: &mut dyn Observer,
    load: impl FnOnce(&TrainSettings) -> Result<Arc<RunData>>,
) -> Result<Outcome> {
    let run = RunDir::open(dir)?;
    let own = run.settings()?;
    if let Some((name, ours, theirs)) = settings.and_then(|wanted| own.difference(wanted)) {
        return Err(Error::file(
            dir,
            format!("the run was started with {name} {ours} and cannot go on with {name} {theirs}"),
        ));
    }
    if run.is_finished() {
        return Ok(Outcome::Finished(Box::new(run.record()?)));
    }
    run.sweep()?;
    own.validate()?;
    let mut session = Session::new(&own, load(&own)?)?;
    let position = checkpoint::load(&run.checkpoint(), &mut session.trainer)?;
    session.run(&run, position, options, observer)
}

/// Everything a run needs in memory.
struct Session {
    settings: TrainSettings,
    data: Arc<RunData>,
    trainer: Trainer,
    steps_per_epoch: u64,
    steps: u64,
}

impl Session {
    fn new(settings: &TrainSettings, data: Arc<RunData>) -> Result<Self> {
        let mut config = data.config.clone();
        if let Some(dropout) = settings.dropout {
            config = config.with_dropout(dropout);
        }
        let corpus = &data.corpus;
        let classifier = Classifier::new(
            &config,
            corpus.task.head,
            settings.adapter().as_ref(),
            Some(&settings.model),
            settings.precision,
            settings.seed,
        )?;
        let steps_per_epoch = corpus.train.len().div_ceil(settings.batch_size) as u64;
        let steps = steps_per_epoch * u64::from(settings.epochs);
        let trainer = Trainer::new(classifier, settings, steps)?;
        Ok(Session {
            settings: settings.clone(),
            data,
            trainer,
            steps_per_epoch,
            steps,
        })
    }

    /// Trains from `position` to the end, evaluates, and writes the record.
    fn run(
        mut self,
        run: &RunDir,
        mut position: Position,
        options: RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        observer.event(&Event::Started {
            settings: &self.settings,
            run: run.path(),
            steps: self.steps,
            done: position.step,
            rows: self.data.corpus.train.len(),
            tokens: self.data.corpus.train.tokens(),
        });
        while position.step < self.steps {
            let epoch = (position.step / self.steps_per_epoch) as u32;
            let order = epoch_order(self.settings.seed, epoch, self.data.corpus.train.len());
            let skip = (position.step % self.steps_per_epoch) as usize;
            for rows in order.chunks(self.settings.batch_size).skip(skip) {
                let started = Instant::now();
                self.step(rows, epoch + 1, &mut position, observer)?;
                position.seconds += started.elapsed().as_secs_f64();
                let epoch_ends = position.step.is_multiple_of(self.steps_per_epoch);
                if epoch_ends {
                    let loss = position.loss.end_epoch();
                    observer.event(&Event::EpochEnd { epoch: epoch + 1, loss });
                }
                let stop = observer.should_stop() && position.step < self.steps;
                let due = options
                    .checkpoint_every
                    .is_some_and(|every| position.step.is_multiple_of(every.max(1)));
                if epoch_ends || stop || due {
                    checkpoint::save(&run.checkpoint(), &self.trainer, &position)?;
                    observer.event(&Event::Checkpoint {
                        step: position.step,
                        path: &run.checkpoint(),
                    });
                }
                if stop {
                    return Ok(Outcome::Interrupted {
                        step: position.step,
                        of: self.steps,
                    });
                }
            }
        }
        self.finish(run, position, observer)
    }

    fn step(&mut self, rows: &[usize], epoch: u32, position: &mut Position, observer: &mut dyn Observer) -> Result<()> {
        let batches = self.pack(rows)?;
        let report = self.trainer.step(&batches).map_err(|error| match error {
            Error::Diverged { what, value, step, .. } => Error::Diverged {
                what,
                value,
                step,
                epoch: Some(epoch),
            },
            other => other,
        })?;
        let tokens = batches.iter().map(PackedBatch::tokens).sum();
        position.step += 1;
        position.loss.add(report.loss, rows.len());
        position.rows += rows.len() as u64;
        position.tokens += tokens as u64;
        observer.event(&Event::Step {
            step: position.step,
            epoch,
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr: report.lr,
            rank: report.rank,
            rows: rows.len(),
            tokens,
        });
        Ok(())
    }

    fn pack(&self, rows: &[usize]) -> Result<Vec<PackedBatch>> {
        let Prepared { encoded, labels } = &self.data.corpus.train;
        pack(
            encoded,
            labels,
            rows,
            self.trainer.classifier.position_offset(),
            self.settings.token_budget,
        )
    }

    fn finish(self, run: &RunDir, position: Position, observer: &mut dyn Observer) -> Result<Outcome> {
        checkpoint::save_trained(&run.adapter(), &self.trainer.classifier)?;
        let started = Instant::now();
        let ranks = self.settings.ranks();
        let scores = evaluate(
            &self.trainer.classifier,
            &self.data.corpus.task,
            &self.data.corpus.eval,
            &ranks,
            self.settings.token_budget,
            observer,
        )?;
        let model = &self.trainer.classifier.model;
        let per_second = |count: u64| count as f64 / position.seconds.max(f64::MIN_POSITIVE);
        let record = Record {
            format: RECORD_FORMAT,
            code: CodeVersion::current(),
            device: self.trainer.classifier.device().describe(),
            train_rows: self.data.corpus.train.len(),
            steps: self.steps,
            trainable: ranks
                .iter()
                .map(|rank| model.num_trainable(rank.unwrap_or(0)))
                .collect(),
            ranks: scores,
            timing: Timing {
                train_seconds: position.seconds,
                eval_seconds: started.elapsed().as_secs_f64(),
                rows_per_second: per_second(position.rows),
                tokens_per_second: per_second(position.tokens),
                resumed: position.resumed,
                finished_unix: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
            },
            loss: position.loss,
            settings: self.settings,
        };
        run.write_record(&record)?;
        // The record and the trained tensors hold all that a finished run is asked for; moments are twice their size.
        let _ = std::fs::remove_file(run.checkpoint());
        observer.event(&Event::Finished { record: &record });
        Ok(Outcome::Finished(Box::new(record)))
    }
}

/// The order of the training rows in an epoch (from 0): a function of the seed alone, so a run can go on anywhere.
pub fn epoch_order(seed: u64, epoch: u32, rows: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut Stream::new(seed, Purpose::Order).at(epoch));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_all_rows_in_its_own_order() {
        let (first, second) = (epoch_order(10, 0, 50), epoch_order(10, 1, 50));
        assert_ne!(first, second);
        assert_ne!(first, epoch_order(11, 0, 50));
        assert_eq!(first, epoch_order(10, 0, 50));
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..50).collect::<Vec<_>>());
        }
    }
}
