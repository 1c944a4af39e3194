//! One optimizer step after another: draw a rank, run the micro-batches, clip, update.

use dylora_nn::autograd::Tape;
use dylora_nn::tensor::{Device, Later, StepCache, StepKey, Tensor};
use dylora_nn::{AdamW, Ctx, Gates};

use crate::classifier::Classifier;
use crate::course::{Course, KIND_TRAIN, check_finite, once_a_step, optimizer};
use crate::error::{Error, Result};
use crate::pack::PackedBatch;
use crate::pass::Rows;
use crate::settings::TrainSettings;

/// A kind of work, as [`KIND_TRAIN`] is.
const KIND_PENALTY: u8 = 9;

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss over the rows; for the summation objective, its expectation over the ranks.
    pub loss: f64,
    /// Norm of all gradients together before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// The rank that was trained; `None` for `full` and `flop`, and for all ranks at once.
    pub rank: Option<usize>,
}

/// A model in training. Its whole state is the trained tensors, the optimizer's moments and the number of steps done:
/// everything random is a function of seed and step.
pub struct Trainer {
    /// The model.
    pub classifier: Classifier,
    /// The optimizer.
    pub optimizer: AdamW,
    course: Course,
    cache: StepCache,
    /// Whether batches are filled up, so that few graphs serve all of them.
    filled: bool,
    pruning: Option<Pruning>,
    loss: Tensor,
    losses: Tensor,
}

/// The schedule of the sparsity that the method `flop` asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pruning {
    /// The sparsity of the factors at the end.
    target: f64,
    /// Steps over which it rises from 0.
    warmup: u64,
}

impl Pruning {
    /// The sparsity asked for once so many steps are done.
    fn target(&self, done: u64) -> f64 {
        self.target * (done as f64 / self.warmup.max(1) as f64).min(1.0)
    }
}

/// A step that the device has been given. A GPU may not have carried it out yet.
#[derive(Debug)]
pub struct Submitted {
    /// What is known of the loss.
    pub(crate) loss: f64,
    /// What is to be added to it.
    pub(crate) losses: Vec<Later>,
    /// Clipping factor and norm.
    pub(crate) grad_norm: Later,
    pub(crate) lr: f64,
    pub(crate) rank: Option<usize>,
    /// From 1.
    pub(crate) step: u64,
}

impl Submitted {
    /// Whether the step has been carried out.
    pub fn is_done(&self) -> bool {
        self.grad_norm.is_here()
    }

    /// Waits for the step and says what it did.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradients are not numbers; what a GPU reports about its work.
    pub fn report(self) -> Result<StepReport> {
        let Submitted { lr, rank, step, .. } = self;
        let mut loss = self.loss;
        for more in self.losses {
            loss = more.wait()?.iter().fold(loss, |sum, value| sum + value);
        }
        check_finite("loss", loss, step)?;
        let grad_norm = self.grad_norm.wait()?.get(1).copied().unwrap_or(f64::NAN);
        check_finite("gradient norm", grad_norm, step)?;
        Ok(StepReport {
            loss,
            grad_norm,
            lr,
            rank,
        })
    }
}

/// Passes of a step whose losses are read at once.
const PASSES: usize = 64;

impl Trainer {
    /// A trainer at step 0 of `total`.
    ///
    /// # Errors
    /// If the settings are not usable.
    pub fn new(classifier: Classifier, settings: &TrainSettings, total: u64) -> Result<Self> {
        let mut optimizer = optimizer(&classifier.model.parameters(), settings)?;
        let pruning = match classifier.model.gates() {
            None => None,
            Some(gates) => {
                let (gate, lambda) = settings.gate_rates(total);
                optimizer.set_rate(Gates::LOG_ALPHA, gate)?;
                // The multipliers ascend, so that the penalty is at its largest for them.
                optimizer.set_rate(Gates::LAMBDA, -lambda)?;
                Some(Pruning {
                    target: gates.target(settings.target_sparsity),
                    warmup: (settings.sparsity_warmup * total as f64).ceil() as u64,
                })
            }
        };
        Ok(Trainer {
            pruning,
            optimizer,
            course: Course::new(settings, total, classifier.model.rank())?,
            filled: matches!(classifier.device(), Device::Cuda(_)),
            cache: StepCache::new(classifier.device()),
            loss: classifier.scalars(1)?,
            losses: classifier.scalars(PASSES)?,
            classifier,
        })
    }

    /// Runs every pass by itself from now on, where a GPU would replay recorded ones: the same numbers, more slowly.
    pub fn without_graphs(&mut self) {
        self.cache = StepCache::eager(self.classifier.device());
    }

    /// Optimizer steps done.
    pub fn done(&self) -> u64 {
        self.course.done
    }

    /// Says that so many steps were done before; the moments and tensors are the caller's to restore.
    pub fn set_done(&mut self, done: u64) {
        self.course.done = done;
    }

    /// One optimizer step over the rows of `batches`, at the rank that seed and step give.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradients are not numbers; what the model reports.
    pub fn step(&mut self, batches: &[PackedBatch]) -> Result<StepReport> {
        self.submit(batches)?.report()
    }

    /// [`Trainer::step`] without waiting for a GPU: what the step did is known later. A GPU that is given the next step
    /// before that is never idle.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn submit(&mut self, batches: &[PackedBatch]) -> Result<Submitted> {
        let rank = self.course.draw()?;
        self.submit_at(rank, batches)
    }

    /// One optimizer step at a given rank. `None` is the largest one; the summation objective, `full` and `flop` take no notice.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_at(&mut self, rank: Option<usize>, batches: &[PackedBatch]) -> Result<StepReport> {
        self.submit_at(rank, batches)?.report()
    }

    fn submit_at(&mut self, rank: Option<usize>, batches: &[PackedBatch]) -> Result<Submitted> {
        let rows: usize = batches.iter().map(PackedBatch::sequences).sum();
        if rows == 0 {
            return Err(Error::argument("batches", "a step without rows"));
        }
        let turn = self.course.turn(rank);
        let mut draws = Some(self.course.draws()?);
        self.optimizer.zero_grad()?;
        let (mut loss, mut unread) = (0.0, 0);
        for batch in batches {
            let (labels, rows_read) = (self.classifier.labels(batch)?, Rows::new(batch, self.filled)?);
            let mut inputs = rows_read.inputs(self.classifier.limits()).to_vec();
            inputs.push(labels.input());
            let [tokens, sequences, longest] = rows_read.sizes();
            let key = StepKey {
                kind: KIND_TRAIN,
                tokens,
                sequences,
                longest,
                read: 0,
            };
            for (slice, probability) in &turn.slices {
                self.classifier.model.slice().set(slice.clone());
                let weight = probability / rows as f64;
                let mut values = self.course.values(slice, draws.take(), weight);
                let Trainer {
                    classifier,
                    cache,
                    loss: last,
                    ..
                } = self;
                cache.pass(key, &inputs, &mut values, &mut |pass| -> Result<()> {
                    let mut tape = Tape::new();
                    let mut ctx = Ctx {
                        tape: &mut tape,
                        slice: slice.clone(),
                        dropout: pass.dropout.take(),
                    };
                    let logits = classifier.model.forward(&mut ctx, &rows_read.build(&pass.inputs)?)?;
                    pass.dropout = ctx.dropout.take();
                    let targets = pass.inputs.last().map(|tensor| labels.targets(tensor));
                    let targets = targets.ok_or_else(|| Error::argument("inputs", "no labels"))?;
                    let loss = targets.loss(&mut tape, &logits, weight)?;
                    last.copy_from(loss.value())?;
                    Ok(tape.backward(&loss)?)
                })?;
                // The next pass draws on where this one stopped.
                draws = values.dropout;
                self.losses.rows(unread..unread + 1)?.copy_from(&self.loss)?;
                unread += 1;
                if unread == PASSES {
                    loss = self.read_losses(loss, &mut unread)?;
                }
            }
        }
        // Before the update: a checkpoint never holds what such a loss would make of the weights. A GPU would stand still
        // meanwhile; there the update itself leaves the weights alone where the gradients are not numbers.
        if matches!(self.classifier.device(), Device::Cpu(_)) {
            loss = self.read_losses(loss, &mut unread)?;
            check_finite("loss", loss, self.course.done + 1)?;
        }
        self.classifier.model.slice().set(turn.whole());
        let target = self.pruning.map(|pruning| pruning.target(self.course.done));
        let Trainer {
            classifier,
            optimizer,
            cache,
            course,
            ..
        } = self;
        if let (Some(gates), Some(target)) = (classifier.model.gates(), target) {
            // Once a step, whatever the passes are: the loss is their mean, the penalty has no rows.
            cache.run(once_a_step(KIND_PENALTY), &mut || -> Result<()> {
                let mut tape = Tape::new();
                let penalty = gates.penalty(&mut tape, target)?;
                Ok(tape.backward(&penalty)?)
            })?;
        }
        course.update(&turn, cache, optimizer)?;
        let losses = match unread {
            0 => Vec::new(),
            _ => vec![self.losses.rows(0..unread)?.to_host_later()?],
        };
        self.course.end(&turn, &self.optimizer, loss, losses)
    }

    /// `loss` and the losses of the passes since the last reading.
    fn read_losses(&self, loss: f64, unread: &mut usize) -> Result<f64> {
        let values = self.losses.rows(0..*unread)?.to_f64_vec()?;
        *unread = 0;
        Ok(values.iter().fold(loss, |sum, value| sum + value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_sparsity_rises_in_a_line_and_stays() {
        let pruning = Pruning {
            target: 0.7,
            warmup: 40,
        };
        let asked: Vec<f64> = [0, 10, 40, 90].map(|done| pruning.target(done)).to_vec();
        assert_eq!(asked, [0.0, 0.7 * 0.25, 0.7, 0.7]);
        let at_once = Pruning { target: 0.7, warmup: 0 };
        assert_eq!((at_once.target(0), at_once.target(1)), (0.0, 0.7));
    }
}
