//! The loop of a run, whatever it trains: steps, checkpoints, evaluation, record.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dylora_nn::tensor::{Purpose, Stream, Tensor};
use dylora_nn::{AdamW, save_tensors};
use rand::seq::SliceRandom;

use crate::checkpoint::{Position, load_state, save_state};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::record::{CodeVersion, RECORD_FORMAT, RankScores, Record, Timing, TracedStep};
use crate::run_dir::RunDir;
use crate::settings::TrainSettings;
use crate::tensorboard::EventLog;
use crate::train::{Outcome, RunOptions};
use crate::trainer::Submitted;

/// A model in training with the rows that it learns from: what the loop asks of it.
///
/// Its whole state is the trained tensors, the optimizer's moments and the number of steps done.
pub(crate) trait Job {
    /// The run's settings.
    fn settings(&self) -> &TrainSettings;

    /// Writes down what the run is, see [`RunDir::begin`].
    ///
    /// # Errors
    /// If a file cannot be read or written.
    fn begin(&self, run: &RunDir) -> Result<()>;

    /// Tells what a person should know of the data before the first step.
    fn announce(&self, observer: &mut dyn Observer);

    /// Training rows.
    fn rows(&self) -> usize;

    /// Tokens of an epoch.
    fn tokens(&self) -> usize;

    /// Begins one optimizer step over these rows; also gives its tokens.
    ///
    /// # Errors
    /// [`Error::Diverged`]; what the model reports.
    fn submit(&mut self, rows: &[usize]) -> Result<(Submitted, usize)>;

    /// Says that so many steps were done before.
    fn set_done(&mut self, done: u64);

    /// Trained tensors by name.
    fn trained(&self) -> Vec<(String, Tensor)>;

    /// The optimizer.
    fn optimizer(&self) -> &AdamW;

    /// The optimizer, to restore its state.
    fn optimizer_mut(&mut self) -> &mut AdamW;

    /// Trained numbers that the model uses at a rank; of a pruned model those that remain.
    ///
    /// # Errors
    /// If a GPU fails.
    fn num_trainable(&self, rank: usize) -> Result<usize>;

    /// Where it runs, in words.
    fn device(&self) -> String;

    /// Metrics at every rank of [`TrainSettings::ranks`]; `None` if the observer asked to stop.
    ///
    /// # Errors
    /// What the model or a metric reports; a file of the run that cannot be written.
    fn evaluate(&self, run: &RunDir, options: &RunOptions, observer: &mut dyn Observer) -> Result<Option<Evaluated>>;
}

/// What an evaluation found.
pub(crate) struct Evaluated {
    /// Metrics at every rank.
    pub(crate) ranks: Vec<RankScores>,
    /// What a person must know to read them, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// Steps of an epoch over so many rows.
pub(crate) fn steps_per_epoch(settings: &TrainSettings, rows: usize) -> u64 {
    rows.div_ceil(settings.batch_size) as u64
}

/// Steps of a run over so many rows.
pub(crate) fn total_steps(settings: &TrainSettings, rows: usize) -> u64 {
    steps_per_epoch(settings, rows) * u64::from(settings.epochs)
}

/// The order of the training rows in an epoch (from 0): a function of the seed alone, so a run can go on anywhere.
pub(crate) fn epoch_order(seed: u64, epoch: u32, rows: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut Stream::new(seed, Purpose::Order).at(epoch));
    order
}

/// Where a run is that was taken up again; its job is brought there.
///
/// # Errors
/// If the checkpoint is damaged or of another model.
pub(crate) fn restore(job: &mut dyn Job, run: &RunDir) -> Result<Position> {
    let trained = job.trained();
    let stored: Option<Position> = load_state(&run.checkpoint(), &trained, job.optimizer_mut())?;
    let mut position = stored.unwrap_or_default();
    job.set_done(position.step);
    position.resumed += 1;
    Ok(position)
}

/// Trains from `position` to the end, evaluates, and writes the record.
///
/// # Errors
/// [`Error::Diverged`]; a file that cannot be written; what the evaluation reports.
pub(crate) fn run(
    mut job: Box<dyn Job>,
    run: &RunDir,
    mut position: Position,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let settings = job.settings().clone();
    let rows = job.rows();
    let (per_epoch, steps) = (steps_per_epoch(&settings, rows), total_steps(&settings, rows));
    let mut log = EventLog::begin(run.path(), position.step, steps)?;
    job.announce(observer);
    observer.event(&Event::Started {
        settings: &settings,
        run: run.path(),
        steps,
        done: position.step,
        rows,
        tokens: job.tokens(),
    });
    let mut begun = None;
    while position.step < steps {
        let epoch = (position.step / per_epoch) as u32;
        let order = epoch_order(settings.seed, epoch, rows);
        let skip = (position.step % per_epoch) as usize;
        for rows in order.chunks(settings.batch_size).skip(skip) {
            let started = Instant::now();
            let next = Begun::new(&mut *job, rows, epoch + 1)?;
            let at = position.step + 1 + u64::from(begun.is_some());
            let epoch_ends = at.is_multiple_of(per_epoch);
            let due = options
                .checkpoint_every
                .is_some_and(|every| at.is_multiple_of(every.max(1)));
            // A GPU has this step to work on while the one before is reported.
            if let Some(before) = begun.replace(next) {
                before.end(&mut position, steps, &mut log, observer)?;
            }
            let done = begun.as_ref().is_some_and(|begun| begun.submitted.is_done());
            if epoch_ends || due || done {
                end(&mut begun, &mut position, steps, &mut log, observer)?;
            }
            let stop = observer.should_stop() && at < steps;
            if stop {
                end(&mut begun, &mut position, steps, &mut log, observer)?;
            }
            position.seconds += started.elapsed().as_secs_f64();
            if epoch_ends {
                let loss = position.loss.end_epoch();
                observer.event(&Event::EpochEnd { epoch: epoch + 1, loss });
            }
            if epoch_ends || stop || due {
                log.flush()?;
                save_state(&run.checkpoint(), job.trained(), job.optimizer(), &position)?;
                observer.event(&Event::Checkpoint {
                    step: position.step,
                    path: &run.checkpoint(),
                });
            }
            if stop {
                return Ok(Outcome::Interrupted {
                    step: position.step,
                    of: steps,
                });
            }
        }
    }
    finish(&*job, run, position, log, options, observer)
}

/// A step that was begun.
struct Begun {
    submitted: Submitted,
    rows: usize,
    tokens: usize,
    epoch: u32,
}

/// Errors say the epoch that they belong to.
fn in_epoch<T>(result: Result<T>, epoch: u32) -> Result<T> {
    result.map_err(|error| match error {
        Error::Diverged { what, value, step, .. } => Error::Diverged {
            what,
            value,
            step,
            epoch: Some(epoch),
        },
        other => other,
    })
}

impl Begun {
    fn new(job: &mut dyn Job, rows: &[usize], epoch: u32) -> Result<Self> {
        let (submitted, tokens) = in_epoch(job.submit(rows), epoch)?;
        Ok(Begun {
            submitted,
            rows: rows.len(),
            tokens,
            epoch,
        })
    }

    /// Waits for the step, counts it among `steps` and tells of it.
    fn end(self, position: &mut Position, steps: u64, log: &mut EventLog, observer: &mut dyn Observer) -> Result<()> {
        let Begun {
            rows, tokens, epoch, ..
        } = self;
        let report = in_epoch(self.submitted.report(), epoch)?;
        position.step += 1;
        position.loss.add(report.loss, rows);
        let traced = TracedStep {
            step: position.step,
            loss: report.loss,
            lr: report.lr,
            rank: report.rank,
            rows,
        };
        position.trace.add(&mut position.open, steps, &traced);
        log.step(position.step, &report)?;
        position.rows += rows as u64;
        position.tokens += tokens as u64;
        observer.event(&Event::Step {
            step: position.step,
            epoch,
            loss: report.loss,
            grad_norm: report.grad_norm,
            lr: report.lr,
            rank: report.rank,
            rows,
            tokens,
        });
        Ok(())
    }
}

/// Ends the step that was begun, if there is one.
fn end(
    begun: &mut Option<Begun>,
    position: &mut Position,
    steps: u64,
    log: &mut EventLog,
    observer: &mut dyn Observer,
) -> Result<()> {
    let Some(begun) = begun.take() else { return Ok(()) };
    begun.end(position, steps, log, observer)
}

fn finish(
    job: &dyn Job,
    run: &RunDir,
    position: Position,
    mut log: EventLog,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let steps = position.step;
    save_tensors(&run.adapter(), &job.trained(), &[])?;
    let started = Instant::now();
    let Some(evaluated) = job.evaluate(run, options, observer)? else {
        return Ok(Outcome::Interrupted { step: steps, of: steps });
    };
    let settings = job.settings().clone();
    let per_second = |count: u64| count as f64 / position.seconds.max(f64::MIN_POSITIVE);
    let record = Record {
        format: RECORD_FORMAT,
        code: CodeVersion::current(),
        device: job.device(),
        train_rows: job.rows(),
        steps,
        trainable: settings
            .ranks()
            .iter()
            .map(|rank| job.num_trainable(rank.unwrap_or(0)))
            .collect::<Result<_>>()?,
        ranks: evaluated.ranks,
        notes: evaluated.notes,
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
        trace: position.trace,
        settings,
    };
    log.metrics(steps, &record.ranks)?;
    run.write_record(&record)?;
    // The record and the trained tensors hold all that a finished run is asked for; moments are twice their size.
    let _ = std::fs::remove_file(run.checkpoint());
    observer.event(&Event::Finished { record: &record });
    Ok(Outcome::Finished(Box::new(record)))
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
