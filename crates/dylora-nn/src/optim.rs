//! AdamW in both published forms, over whole parameters or only over the ranks of the step.

use std::collections::HashSet;
use std::ops::Range;

use dylora_autograd::Parameter;
use dylora_autograd::tensor::ops::{self as kernels, AdamWHyper, AdamWItem, AdamWRow, AdamWState, Slab};
use dylora_autograd::tensor::{Later, Tensor};

pub use dylora_autograd::tensor::ops::AdamWForm;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, KeyReport, Result};
use crate::method::Update;

/// The settings of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, for parameters that decay at all.
    pub weight_decay: f64,
    /// Which published form.
    pub form: AdamWForm,
    /// What of an adapter is updated.
    pub update: Update,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        AdamWSettings {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            form: AdamWForm::Torch,
            update: Update::Slice,
        }
    }
}

/// AdamW. In `slice` updates every rank index has moments and a step count of its own that move only when its turn
/// comes; in `dense` updates, and for parameters without ranks, there is one count and the whole matrix moves.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    entries: Vec<Entry>,
    /// Clipping factor and norm of the last step, `[2]`.
    clip: Tensor,
}

#[derive(Debug)]
struct Entry {
    parameter: Parameter,
    m: Tensor,
    v: Tensor,
    /// Updates so far: one count for each rank index, or one for all.
    counts: Vec<u64>,
    /// Learning rate in place of the step's.
    rate: Option<f64>,
}

impl AdamW {
    /// The prefix of all keys of [`AdamW::state`].
    pub const STATE_PREFIX: &'static str = "optimizer.";

    /// An optimizer over the given parameters, all moments zero.
    ///
    /// # Errors
    /// If a setting lies outside its domain, there are no parameters, two have one name, or their types differ.
    pub fn new(parameters: &[Parameter], settings: AdamWSettings) -> Result<Self> {
        let AdamWSettings {
            beta1,
            beta2,
            eps,
            weight_decay,
            ..
        } = settings;
        for (name, beta) in [("beta1", beta1), ("beta2", beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::setting(name, format!("{beta} is not in 0..1")));
            }
        }
        for (name, value) in [("eps", eps), ("weight_decay", weight_decay)] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::setting(name, format!("{value} is not a number from 0")));
            }
        }
        let wrong = |message: String| Err(Error::setting("parameters", message));
        let Some(first) = parameters.first().map(Parameter::value) else {
            return wrong("there is nothing to train".to_owned());
        };
        let mut names = HashSet::new();
        let mut entries = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let value = parameter.value();
            if !names.insert(parameter.name()) {
                return wrong(format!("two are called {}", parameter.name()));
            }
            if value.dtype() != first.dtype() {
                return wrong(format!(
                    "{} is {}, others are {}",
                    parameter.name(),
                    value.dtype(),
                    first.dtype()
                ));
            }
            let zeros = || Tensor::zeros(value.device(), value.dtype(), value.shape());
            let counts = match (parameter.mask(), settings.update) {
                (Some(mask), Update::Slice) => value.shape().get(mask.axis).copied().unwrap_or(1),
                _ => 1,
            };
            entries.push(Entry {
                m: zeros()?,
                v: zeros()?,
                counts: vec![0; counts],
                parameter: parameter.clone(),
                rate: None,
            });
        }
        Ok(AdamW {
            settings,
            entries,
            clip: Tensor::zeros(first.device(), first.dtype(), &[2])?,
        })
    }

    /// Gives the parameter called `name` a learning rate of its own, the same in every step. With a negative one it ascends;
    /// such a parameter is neither clipped nor part of the norm.
    ///
    /// # Errors
    /// If the rate is not a number, or there is no such parameter.
    pub fn set_rate(&mut self, name: &str, rate: f64) -> Result<()> {
        let entry = self.entries.iter_mut().find(|e| e.parameter.name() == name);
        match entry {
            _ if !rate.is_finite() => Err(Error::setting("lr", format!("{rate} is not a number"))),
            None => Err(Error::setting("lr", format!("{name} is not among the parameters"))),
            Some(entry) => {
                entry.rate = Some(rate);
                Ok(())
            }
        }
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// If a gradient is being read.
    pub fn zero_grad(&self) -> Result<()> {
        let gradients: Vec<&Tensor> = self.entries.iter().map(|e| e.parameter.grad()).collect();
        Ok(kernels::zero_many(&gradients)?)
    }

    /// One update with learning rate `lr`, after clipping the norm of all gradients together to `max_norm` (a factor of
    /// min(1, max_norm / (norm + 1e-6)) on each).
    ///
    /// # Errors
    /// If the rate is not a number, or the slice leaves the ranks that there are.
    pub fn step(&mut self, lr: f64, max_norm: Option<f64>) -> Result<()> {
        if !lr.is_finite() {
            return Err(Error::setting("lr", format!("{lr} is not a number")));
        }
        let descending = self.entries.iter().filter(|entry| !entry.ascends());
        let gradients: Vec<&Tensor> = descending.map(|entry| entry.parameter.grad()).collect();
        kernels::clip_factor(&gradients, max_norm, &self.clip)?;
        let (mut items, mut free) = (Vec::with_capacity(self.entries.len()), Vec::new());
        for entry in &self.entries {
            let item = entry.item(&self.settings, entry.rate.unwrap_or(lr))?;
            if entry.ascends() { &mut free } else { &mut items }.extend(item);
        }
        kernels::adamw_many(&items, Some(&self.clip))?;
        kernels::adamw_many(&free, None)?;
        for entry in &mut self.entries {
            let moved = entry.moved(self.settings.update);
            for count in entry.counts.get_mut(moved).into_iter().flatten() {
                *count += 1;
            }
        }
        Ok(())
    }

    /// The norm of all gradients together in the last [`AdamW::step`], before clipping.
    ///
    /// # Errors
    /// Inside a step.
    pub fn grad_norm(&self) -> Result<f64> {
        Ok(self.clip.to_f64_vec()?[1])
    }

    /// [`AdamW::grad_norm`] as the second of two elements that are on their way, behind all work given to the device so far.
    ///
    /// # Errors
    /// Inside a step.
    pub fn grad_norm_later(&self) -> Result<Later> {
        Ok(self.clip.to_host_later()?)
    }

    /// The moments of the parameter called `name`, and its step counts (one, or one per rank index).
    pub fn moments(&self, name: &str) -> Option<(&Tensor, &Tensor, &[u64])> {
        self.entries
            .iter()
            .find(|e| e.parameter.name() == name)
            .map(|e| (&e.m, &e.v, e.counts.as_slice()))
    }

    /// Everything but the settings, as tensors: `optimizer.m.<name>`, `optimizer.v.<name>`, and the step counts
    /// `optimizer.count.<name>` (i32).
    ///
    /// # Errors
    /// If a count exceeds what an `i32` holds.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::with_capacity(3 * self.entries.len());
        for entry in &self.entries {
            let counts = entry
                .counts
                .iter()
                .map(|c| i32::try_from(*c).map_err(|_| Error::setting("steps", format!("{c} steps are too many"))))
                .collect::<Result<Vec<_>>>()?;
            let counts = Tensor::from_slice(entry.m.device(), &counts, &[counts.len()])?;
            state.push((entry.key("m"), entry.m.clone()));
            state.push((entry.key("v"), entry.v.clone()));
            state.push((entry.key("count"), counts));
        }
        Ok(state)
    }

    /// Restores what [`AdamW::state`] gave; keys without its prefix are another's.
    ///
    /// # Errors
    /// If keys are missing, unexpected or misshapen (all are named, and nothing is changed), or the file cannot be read.
    pub fn load_state(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let state = self.state()?;
        let theirs = checkpoint.names().filter(|name| name.starts_with(Self::STATE_PREFIX));
        let report = KeyReport::compare(checkpoint, theirs, &state);
        if !report.is_empty() {
            return Err(Error::Keys {
                path: checkpoint.path().to_owned(),
                keys: report,
            });
        }
        for entry in &mut self.entries {
            let counts = checkpoint.integers(&entry.key("count"))?;
            for (kind, tensor) in [("m", &entry.m), ("v", &entry.v)] {
                let stored = checkpoint.tensor(&entry.key(kind), tensor.dtype(), tensor.device())?;
                tensor.copy_from(&stored)?;
            }
            for (count, stored) in entry.counts.iter_mut().zip(counts) {
                *count = u64::try_from(stored).unwrap_or(0);
            }
        }
        Ok(())
    }
}

impl Entry {
    fn key(&self, kind: &str) -> String {
        format!("{}{kind}.{}", AdamW::STATE_PREFIX, self.parameter.name())
    }

    /// Whether it goes up its gradient.
    fn ascends(&self) -> bool {
        self.rate.is_some_and(|rate| rate < 0.0)
    }

    /// The step counts that move in this step.
    fn moved(&self, update: Update) -> Range<usize> {
        match (self.parameter.mask(), update) {
            (Some(mask), Update::Slice) => mask.slab().range,
            _ => 0..1,
        }
    }

    /// This step's update; none where the slice is empty.
    fn item(&self, settings: &AdamWSettings, lr: f64) -> Result<Option<AdamWItem<'_>>> {
        let AdamWSettings {
            beta1,
            beta2,
            eps,
            weight_decay,
            form,
            update,
        } = *settings;
        let value = self.parameter.value();
        let slab = match (self.parameter.mask(), update) {
            (Some(mask), Update::Slice) => mask.slab(),
            _ => Slab::whole(value),
        };
        let Some(counts) = self.counts.get(self.moved(update)) else {
            let message = format!("ranks {:?} leave {}", slab.range, self.parameter.name());
            return Err(Error::setting("slice", message));
        };
        let Some(first) = counts.first().copied() else {
            return Ok(None);
        };
        let row = |count: u64| {
            let t = (count + 1) as f64;
            AdamWRow {
                lr,
                bias1: 1.0 - beta1.powf(t),
                bias2: 1.0 - beta2.powf(t),
            }
        };
        // Ranks that always moved together share one row: the same arithmetic in longer runs.
        let rows: Vec<AdamWRow> = if counts.iter().all(|count| *count == first) {
            vec![row(first)]
        } else {
            counts.iter().map(|count| row(*count)).collect()
        };
        Ok(Some(AdamWItem {
            state: AdamWState {
                value,
                grad: self.parameter.grad(),
                m: &self.m,
                v: &self.v,
            },
            slab,
            rows,
            hyper: AdamWHyper {
                beta1,
                beta2,
                eps,
                decay: if self.parameter.decay() { weight_decay } else { 0.0 },
                form,
            },
        }))
    }
}
