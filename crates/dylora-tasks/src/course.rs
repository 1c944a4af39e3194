//! What the optimizer steps of a run have in common, whatever the model: rank, learning rate, random numbers, the values of
//! their passes, the update. All of it is a function of the settings, the seed and the number of steps done.

use dylora_nn::autograd::{Parameter, RankSlice};
use dylora_nn::tensor::{Draws, Later, PassRanks, PassValues, Purpose, StepCache, StepKey, Stream};
use dylora_nn::{AdamW, AdamWForm, AdamWSettings, LinearWarmup, Method, Objective, RankSampler, ScaleRule};

use crate::error::{Error, Result};
use crate::settings::{Optimizer, TrainSettings};
use crate::trainer::Submitted;

/// Kinds of work that a device tells apart.
pub(crate) const KIND_TRAIN: u8 = 0;
const KIND_UPDATE: u8 = 1;

/// The steps of a run.
pub(crate) struct Course {
    schedule: LinearWarmup,
    clip: Option<f64>,
    method: Method,
    objective: Objective,
    /// The adapters' rank.
    largest: usize,
    sampler: Option<RankSampler>,
    ranks: Stream,
    dropout: Stream,
    alpha: f64,
    scale: ScaleRule,
    /// Steps done.
    pub(crate) done: u64,
}

/// What one step trains, and how fast.
pub(crate) struct Turn {
    /// Slices with their weights in the loss.
    pub(crate) slices: Vec<(RankSlice, f64)>,
    /// The rank to report.
    rank: Option<usize>,
    lr: f64,
}

impl Course {
    /// The course of `total` steps over adapters of rank `largest`, at its beginning.
    ///
    /// # Errors
    /// If the settings are not usable.
    pub(crate) fn new(settings: &TrainSettings, total: u64, largest: usize) -> Result<Self> {
        Ok(Course {
            schedule: LinearWarmup {
                peak: settings.lr,
                warmup: settings.warmup(total),
                total,
            },
            clip: (settings.clip > 0.0).then_some(settings.clip),
            method: settings.method,
            objective: settings.objective,
            largest,
            sampler: settings.method.is_dynamic().then(|| settings.sampler()).transpose()?,
            ranks: Stream::new(settings.seed, Purpose::Rank),
            dropout: Stream::new(settings.seed, Purpose::Dropout),
            alpha: settings.alpha,
            scale: settings.scale,
            done: 0,
        })
    }

    /// The rank that seed and step give; `None` where none is drawn.
    pub(crate) fn draw(&self) -> Result<Option<usize>> {
        let index = step_index(self.done)?;
        let sampler = self.sampler.as_ref();
        Ok(sampler.map(|sampler| sampler.draw(&mut self.ranks.at(index))))
    }

    /// The step at a rank; `None` is the largest one.
    pub(crate) fn turn(&self, rank: Option<usize>) -> Turn {
        let (slices, rank) = slices(self.method, self.objective, self.sampler.as_ref(), self.largest, rank);
        Turn {
            slices,
            rank,
            lr: self.schedule.lr(self.done),
        }
    }

    /// Where the step's dropout draws from.
    pub(crate) fn draws(&self) -> Result<Draws> {
        Ok(self.dropout.draws(step_index(self.done)?))
    }

    /// The values of a pass at a slice.
    pub(crate) fn values(&self, slice: &RankSlice, dropout: Option<Draws>, weight: f64) -> PassValues {
        PassValues {
            dropout,
            ranks: (!self.method.learns_base()).then(|| PassRanks {
                read: slice.read,
                write: slice.write.clone(),
                scale: self.scale.at(self.alpha, slice.read, self.largest),
            }),
            weight,
        }
    }

    /// Clips and updates.
    pub(crate) fn update(&self, turn: &Turn, cache: &mut StepCache, optimizer: &mut AdamW) -> Result<()> {
        cache.run(once_a_step(KIND_UPDATE), &mut || -> Result<()> {
            Ok(optimizer.step(turn.lr, self.clip)?)
        })?;
        Ok(())
    }

    /// Counts the step.
    pub(crate) fn end(&mut self, turn: &Turn, optimizer: &AdamW, loss: f64, losses: Vec<Later>) -> Result<Submitted> {
        self.done += 1;
        Ok(Submitted {
            loss,
            losses,
            grad_norm: optimizer.grad_norm_later()?,
            lr: turn.lr,
            rank: turn.rank,
            step: self.done,
        })
    }
}

impl Turn {
    /// The ranks that the step changes.
    pub(crate) fn whole(&self) -> RankSlice {
        whole(&self.slices)
    }
}

/// The key of work that does not depend on a batch.
pub(crate) fn once_a_step(kind: u8) -> StepKey {
    StepKey {
        kind,
        tokens: 0,
        sequences: 0,
        longest: 0,
        read: 0,
    }
}

/// The optimizer that settings ask for.
pub(crate) fn optimizer(parameters: &[Parameter], settings: &TrainSettings) -> Result<AdamW> {
    Ok(AdamW::new(
        parameters,
        AdamWSettings {
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.epsilon,
            weight_decay: settings.weight_decay,
            form: match settings.optimizer {
                Optimizer::Torch => AdamWForm::Torch,
                Optimizer::HuggingFace4 => AdamWForm::HuggingFace4,
            },
            update: settings.update,
        },
    )?)
}

/// What is run in a step of adapters of rank `largest`: slices with their weights in the loss, and the rank to report.
fn slices(
    method: Method,
    objective: Objective,
    sampler: Option<&RankSampler>,
    largest: usize,
    rank: Option<usize>,
) -> (Vec<(RankSlice, f64)>, Option<usize>) {
    match (sampler, objective) {
        (Some(sampler), Objective::Summation) => {
            let slice = |rank| (method.slice(rank, largest), sampler.probability(rank));
            (
                sampler
                    .ranks()
                    .map(slice)
                    .filter(|(_, probability)| *probability > 0.0)
                    .collect(),
                None,
            )
        }
        _ => {
            let rank = rank.unwrap_or(largest);
            (
                vec![(method.slice(rank, largest), 1.0)],
                (!method.learns_base()).then_some(rank),
            )
        }
    }
}

/// Refuses to go on after `step` (from 1) with something that is not a number.
pub(crate) fn check_finite(what: &'static str, value: f64, step: u64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::Diverged {
        what,
        value,
        step,
        epoch: None,
    })
}

/// The ranks that any of the slices changes.
fn whole(slices: &[(RankSlice, f64)]) -> RankSlice {
    let read = slices.iter().map(|(slice, _)| slice.read).max().unwrap_or(0);
    let first = slices.iter().map(|(slice, _)| slice.write.start).min().unwrap_or(0);
    let last = slices.iter().map(|(slice, _)| slice.write.end).max().unwrap_or(0);
    RankSlice {
        read,
        write: first..last,
    }
}

/// A step's place in the random streams.
fn step_index(step: u64) -> Result<u32> {
    u32::try_from(step).map_err(|_| Error::argument("--epochs", "more than 2^32 steps"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_update_of_a_sum_covers_every_slice() {
        let slices: Vec<_> = (2..=4).map(|b| (RankSlice::only(b), 0.3)).collect();
        assert_eq!(whole(&slices), RankSlice { read: 4, write: 1..4 });
        assert_eq!(whole(&[(RankSlice::prefix(3), 1.0)]), RankSlice::prefix(3));
    }
}
