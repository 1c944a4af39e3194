//! Where a model's weights come from: a path like a directory, over a checkpoint or an initialiser.
//!
//! Every weight is asked for by its published key. Nothing fails at the first wrong key: all missing, unexpected and
//! misshapen ones are collected and reported together by [`Source::finish`].

use std::cell::RefCell;
use std::collections::HashSet;

use dylora_autograd::tensor::{DType, Device, Purpose, Stream, Tensor};
use dylora_autograd::{GradMask, Parameter, SliceCell, Weight};
use rand_distr::{Distribution, Normal, Uniform};

use crate::checkpoint::Checkpoint;
use crate::config::Family;
use crate::error::{Error, KeyReport, Result};
use crate::method::AdapterInit;

/// How a weight starts that no checkpoint gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    Normal,
    Zeros,
    Ones,
}

/// Whether a weight may be absent from the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    /// Taken if it is there and fits, new otherwise: a head.
    Optional,
}

/// Gives weights to the model that is being built and keeps a list of them.
pub(crate) struct Source<'a> {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    checkpoint: Option<&'a Checkpoint>,
    family: Family,
    train_all: bool,
    std: f64,
    head: Stream,
    adapters: Stream,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    used: HashSet<String>,
    report: KeyReport,
    weights: Vec<(String, Weight)>,
}

/// What a [`Source`] gave out.
pub(crate) struct Given {
    pub(crate) weights: Vec<(String, Weight)>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(
        device: &Device,
        dtype: DType,
        checkpoint: Option<&'a Checkpoint>,
        family: Family,
        train_all: bool,
        std: f64,
        seed: u64,
    ) -> Self {
        Source {
            device: device.clone(),
            dtype,
            checkpoint,
            family,
            train_all,
            std,
            head: Stream::new(seed, Purpose::Head),
            adapters: Stream::new(seed, Purpose::Init),
            state: RefCell::default(),
        }
    }

    /// The type of a weight: what learns is f32 where the model computes in bf16, and so are vectors.
    fn dtype_of(&self, shape: &[usize], trained: bool) -> DType {
        match self.dtype {
            DType::Bf16 if trained || shape.len() < 2 => DType::F32,
            dtype => dtype,
        }
    }

    /// The top of the model.
    pub(crate) fn root(&self) -> Scope<'_, 'a> {
        Scope {
            source: self,
            path: String::new(),
        }
    }

    /// Reports every key that did not match, or hands over the list of weights.
    pub(crate) fn finish(self) -> Result<Given> {
        let mut state = self.state.into_inner();
        if let Some(checkpoint) = self.checkpoint {
            for name in checkpoint.names() {
                if !state.used.contains(name) && !known_unused(self.family, name) {
                    state.report.unexpected.push(name.to_owned());
                }
            }
            if !state.report.is_empty() {
                return Err(Error::Keys {
                    path: checkpoint.path().to_owned(),
                    keys: state.report,
                });
            }
        }
        Ok(Given { weights: state.weights })
    }

    /// The spellings under which a key may stand in a file: prefixed and bare, with old names of norms.
    fn spellings(&self, key: &str) -> Vec<String> {
        let bare = key.strip_prefix(self.family.prefix()).and_then(|k| k.strip_prefix('.'));
        let mut keys = vec![key.to_owned()];
        keys.extend(bare.map(str::to_owned));
        for key in keys.clone() {
            if let Some(stem) = key.strip_suffix("LayerNorm.weight") {
                keys.push(format!("{stem}LayerNorm.gamma"));
            }
            if let Some(stem) = key.strip_suffix("LayerNorm.bias") {
                keys.push(format!("{stem}LayerNorm.beta"));
            }
        }
        keys
    }
}

/// Keys that published checkpoints hold beside what a model of this crate reads.
fn known_unused(family: Family, key: &str) -> bool {
    let bare = key
        .strip_prefix(family.prefix())
        .and_then(|k| k.strip_prefix('.'))
        .unwrap_or(key);
    bare.ends_with("position_ids")
        || bare.starts_with("lm_head.")
        || bare.starts_with("cls.")
        || (family == Family::Roberta && bare.starts_with("pooler."))
}

/// A place in the model.
#[derive(Clone)]
pub(crate) struct Scope<'s, 'a> {
    pub(crate) source: &'s Source<'a>,
    path: String,
}

impl Scope<'_, '_> {
    /// A place below this one.
    pub(crate) fn at(&self, name: &str) -> Self {
        Scope {
            source: self.source,
            path: self.key(name),
        }
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// A weight of the base model: trained only in full fine-tuning.
    pub(crate) fn weight(&self, name: &str, shape: &[usize], init: Init, decay: bool) -> Result<Weight> {
        self.make(name, shape, init, decay, Presence::Required, self.source.train_all)
    }

    /// A weight of the head: always trained.
    pub(crate) fn head_weight(&self, name: &str, shape: &[usize], init: Init, decay: bool) -> Result<Weight> {
        self.make(name, shape, init, decay, Presence::Optional, true)
    }

    fn make(
        &self,
        name: &str,
        shape: &[usize],
        init: Init,
        decay: bool,
        presence: Presence,
        trained: bool,
    ) -> Result<Weight> {
        let key = self.key(name);
        let dtype = self.source.dtype_of(shape, trained);
        let value = match self.stored(&key, shape, presence, dtype)? {
            Some(value) => value,
            // Where a base weight does not fit there will be no model; nothing is allocated for it.
            None if presence == Presence::Required && self.source.checkpoint.is_some() => {
                Tensor::zeros(&self.source.device, dtype, &[0])?
            }
            None => self.initial(&key, shape, init, dtype)?,
        };
        let weight = if trained {
            Weight::Trained(Parameter::new(key.clone(), value, decay)?)
        } else {
            Weight::Frozen(value)
        };
        self.source.state.borrow_mut().weights.push((key, weight.clone()));
        Ok(weight)
    }

    /// The checkpoint's value; a key that does not match is noted.
    fn stored(&self, key: &str, shape: &[usize], presence: Presence, dtype: DType) -> Result<Option<Tensor>> {
        let Some(checkpoint) = self.source.checkpoint else {
            return Ok(None);
        };
        let state = &self.source.state;
        let spellings = self.source.spellings(key);
        let found = spellings.iter().find_map(|s| Some((s, checkpoint.shape(s)?)));
        let Some((spelling, found_shape)) = found else {
            if presence == Presence::Required {
                state.borrow_mut().report.missing.push(key.to_owned());
            }
            return Ok(None);
        };
        state.borrow_mut().used.insert(spelling.clone());
        if found_shape != shape {
            // Another task's head is no error: a new one is made.
            if presence == Presence::Required {
                let misshapen = (key.to_owned(), found_shape.to_vec(), shape.to_vec());
                state.borrow_mut().report.misshapen.push(misshapen);
            }
            return Ok(None);
        }
        checkpoint.tensor(spelling, dtype, &self.source.device).map(Some)
    }

    fn initial(&self, key: &str, shape: &[usize], init: Init, dtype: DType) -> Result<Tensor> {
        let source = self.source;
        let constant = |value: f64| self.fill(std::iter::repeat(value), shape, dtype);
        match init {
            Init::Zeros => constant(0.0),
            Init::Ones => constant(1.0),
            Init::Normal => {
                let normal =
                    Normal::new(0.0, source.std).map_err(|e| Error::setting("initializer_range", e.to_string()))?;
                self.fill(normal.sample_iter(source.head.at(name_hash(key))), shape, dtype)
            }
        }
    }

    /// A tensor of the first values of `values`; they are the same in every precision, up to rounding.
    fn fill(&self, values: impl Iterator<Item = f64>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let source = self.source;
        let values = values.take(shape.iter().product());
        Ok(match dtype {
            DType::F64 => Tensor::from_vec(&source.device, values.collect::<Vec<f64>>(), shape)?,
            _ => Tensor::from_vec(&source.device, values.map(|v| v as f32).collect(), shape)?.to_dtype(dtype)?,
        })
    }

    /// The factors of an adapter on the linear layer at this place: A `[rank, d]` random, B `[m, rank]` zero.
    pub(crate) fn adapter(
        &self,
        m: usize,
        d: usize,
        rank: usize,
        init: AdapterInit,
        slice: &SliceCell,
    ) -> Result<(Parameter, Parameter)> {
        let source = self.source;
        let name = self.key("lora_A.weight");
        let rng = source.adapters.at(name_hash(&name));
        let dtype = source.dtype_of(&[rank, d], true);
        let bound = 1.0 / (d as f64).sqrt();
        let wrong = |e: String| Error::setting("hidden_size", e);
        let a = match init {
            AdapterInit::KaimingUniform => {
                let uniform = Uniform::new_inclusive(-bound, bound).map_err(|e| wrong(e.to_string()))?;
                self.fill(uniform.sample_iter(rng), &[rank, d], dtype)?
            }
            AdapterInit::Gaussian => {
                let normal = Normal::new(0.0, bound).map_err(|e| wrong(e.to_string()))?;
                self.fill(normal.sample_iter(rng), &[rank, d], dtype)?
            }
        };
        let mask = |axis| GradMask {
            axis,
            slice: slice.clone(),
        };
        let a = Parameter::new(name, a, true)?.with_mask(mask(0));
        let zeros = Tensor::zeros(&source.device, dtype, &[m, rank])?;
        let b = Parameter::new(self.key("lora_B.weight"), zeros, true)?.with_mask(mask(1));
        let mut state = source.state.borrow_mut();
        for parameter in [&a, &b] {
            state
                .weights
                .push((parameter.name().to_owned(), Weight::Trained(parameter.clone())));
        }
        Ok((a, b))
    }
}

/// FNV-1a: every name has its own place in a random stream, whatever other weights the model has.
fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
