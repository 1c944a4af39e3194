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
use crate::flop::{Factors, FlopSettings, GatePlan, Gates, factorise, place};
use crate::gpt2::output_major;
use crate::linear::Linear;
use crate::method::AdapterInit;

/// How a weight starts that no checkpoint gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    Normal,
    /// Normal with this factor on the deviation.
    Scaled(f64),
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

/// How a family's checkpoints name things.
#[derive(Clone, Copy)]
pub(crate) struct Naming {
    /// What stands before the keys of the bare model.
    pub(crate) prefix: &'static str,
    /// Whether a published key (without the prefix) is something that no model of this crate reads.
    pub(crate) unused: fn(&str) -> bool,
}

impl Naming {
    /// A key without the family's prefix, if it has it.
    fn bare<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.prefix)?.strip_prefix('.')
    }
}

impl From<Family> for Naming {
    fn from(family: Family) -> Self {
        fn both(bare: &str) -> bool {
            bare.ends_with("position_ids") || bare.starts_with("lm_head.") || bare.starts_with("cls.")
        }
        Naming {
            prefix: family.prefix(),
            unused: match family {
                Family::Roberta => |bare| both(bare) || bare.starts_with("pooler."),
                Family::Bert => both,
            },
        }
    }
}

/// What stands in place of `weight` in the keys of a factorised layer.
pub(crate) const WEIGHT_P: &str = "weight_p";
pub(crate) const WEIGHT_Q: &str = "weight_q";

/// Gives weights to the model that is being built and keeps a list of them.
pub(crate) struct Source<'a> {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    checkpoint: Option<&'a Checkpoint>,
    naming: Naming,
    train_all: bool,
    factors: Option<GatePlan>,
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
        naming: Naming,
        train_all: bool,
        std: f64,
        seed: u64,
    ) -> Self {
        Source {
            device: device.clone(),
            dtype,
            checkpoint,
            naming,
            train_all,
            factors: None,
            std,
            head: Stream::new(seed, Purpose::Head),
            adapters: Stream::new(seed, Purpose::Init),
            state: RefCell::default(),
        }
    }

    /// Has linear layers of the encoder, which will be asked for in this order, factorised and gated.
    pub(crate) fn factorise(&mut self, layers: Vec<(usize, usize)>, settings: &FlopSettings) -> Result<()> {
        let normal =
            Normal::new(settings.mean(), FlopSettings::STD).map_err(|e| Error::setting("gate_init", e.to_string()))?;
        let values = normal.sample_iter(self.adapters.at(name_hash(Gates::LOG_ALPHA)));
        let constant = |values: Vec<f64>| {
            let len = values.len();
            place(&self.device, self.dtype_of(&[len], true), values, &[len])
        };
        let log_alpha = constant(values.take(Gates::count(&layers)).collect())?;
        self.factors = Some(GatePlan::new(Gates::new(layers, log_alpha, constant)?));
        Ok(())
    }

    /// The gates of a model of factorised layers.
    pub(crate) fn gates(&self) -> Option<Gates> {
        self.factors.as_ref().map(|plan| plan.gates().clone())
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
        let naming = self.naming;
        let mut state = self.state.into_inner();
        if let Some(plan) = &self.factors {
            for parameter in [plan.gates().log_alpha(), plan.gates().lambda()] {
                let weight = Weight::Trained(parameter.clone());
                state.weights.push((parameter.name().to_owned(), weight));
            }
        }
        if let Some(checkpoint) = self.checkpoint {
            for name in checkpoint.names() {
                if !state.used.contains(name) && !(naming.unused)(naming.bare(name).unwrap_or(name)) {
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
        let mut keys = vec![key.to_owned()];
        keys.extend(self.naming.bare(key).map(str::to_owned));
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
        let value = match self.stored(&key, shape, (presence, trained), dtype, &self.source.device)? {
            Some(value) => value,
            // Where a base weight does not fit there will be no model; nothing is allocated for it.
            None if presence == Presence::Required && self.source.checkpoint.is_some() => {
                Tensor::zeros(&self.source.device, dtype, &[0])?
            }
            None => self.initial(&key, shape, init, dtype)?,
        };
        self.register(key, value, decay, trained)
    }

    /// Puts a weight on the list.
    fn register(&self, key: String, value: Tensor, decay: bool, trained: bool) -> Result<Weight> {
        let weight = if trained {
            Weight::Trained(Parameter::new(key.clone(), value, decay)?)
        } else {
            Weight::Frozen(value)
        };
        self.source.state.borrow_mut().weights.push((key, weight.clone()));
        Ok(weight)
    }

    /// The base model's layers `parts` of m outputs and d inputs each, which checkpoints store here as one weight
    /// `[d, parts * m]` and one bias `[parts * m]`. A part named "" has the stored keys.
    pub(crate) fn input_major(&self, parts: &[&str], (m, d): (usize, usize), init: Init) -> Result<Vec<Linear>> {
        let matrices = self.parts("weight", parts, &[d, parts.len() * m], &[m, d], init)?;
        let biases = self.parts("bias", parts, &[parts.len() * m], &[m], Init::Zeros)?;
        let pairs = matrices.into_iter().zip(biases);
        Ok(pairs.map(|(weight, bias)| Linear { weight, bias }).collect())
    }

    fn parts(&self, what: &str, parts: &[&str], whole: &[usize], part: &[usize], init: Init) -> Result<Vec<Weight>> {
        let (source, host, trained) = (self.source, Device::cpu(), self.source.train_all);
        let dtype = source.dtype_of(part, trained);
        // Turned on the host in a type that holds every stored value of ours exactly, then rounded once.
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        // What was stored is only read.
        let stored = self.stored(&self.key(what), whole, (Presence::Required, false), wide, &host)?;
        let values = stored.map(|stored| output_major(&stored, parts.len())).transpose()?;
        let make = |(i, name): (usize, &&str)| {
            let place = if name.is_empty() { self.clone() } else { self.at(name) };
            let key = place.key(what);
            let value = match &values {
                Some(values) => values[i].to_dtype(dtype)?.to_device(&source.device)?,
                None if source.checkpoint.is_some() => Tensor::zeros(&source.device, dtype, &[0])?,
                None => self.initial(&key, part, init, dtype)?,
            };
            self.register(key, value, part.len() > 1, trained)
        };
        parts.iter().enumerate().map(make).collect()
    }

    /// The base model's layer of m outputs and d inputs at this place in two factors with gates, where the model is
    /// factorised. P and Q come from the checkpoint's matrix.
    pub(crate) fn factors(&self, m: usize, d: usize) -> Result<Option<(Linear, Factors)>> {
        let Some(plan) = &self.source.factors else {
            return Ok(None);
        };
        let (gate, k) = (plan.next(m, d)?, m.min(d));
        let (device, dtype) = (&self.source.device, self.source.dtype_of(&[m, k], true));
        let stored = self.stored(
            &self.key("weight"),
            &[m, d],
            (Presence::Required, true),
            DType::F64,
            &Device::cpu(),
        )?;
        let (p, q) = match stored {
            Some(weight) => factorise(&weight)?,
            None if self.source.checkpoint.is_some() => {
                (Tensor::zeros(device, dtype, &[0])?, Tensor::zeros(device, dtype, &[0])?)
            }
            None => {
                // The product of two such factors has the deviation that the matrix would have.
                let init = Init::Scaled((self.source.std / (k as f64).sqrt()).sqrt() / self.source.std);
                let random = |name: &str, shape: &[usize]| self.initial(&self.key(name), shape, init, dtype);
                (random(WEIGHT_P, &[m, k])?, random(WEIGHT_Q, &[k, d])?)
            }
        };
        let give = |name: &str, value: Tensor| {
            let value = value.to_dtype(dtype)?.to_device(device)?;
            self.register(self.key(name), value, true, true)
        };
        let base = Linear {
            weight: give(WEIGHT_P, p)?,
            bias: self.weight("bias", &[m], Init::Zeros, false)?,
        };
        let q = give(WEIGHT_Q, q)?;
        Ok(Some((base, Factors { q, gate: Some(gate) })))
    }

    /// The checkpoint's value; a key that does not match is noted.
    fn stored(
        &self,
        key: &str,
        shape: &[usize],
        (presence, trained): (Presence, bool),
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Tensor>> {
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
        if trained {
            checkpoint.tensor(spelling, dtype, device).map(Some)
        } else {
            checkpoint.lasting(spelling, dtype, device).map(Some)
        }
    }

    fn initial(&self, key: &str, shape: &[usize], init: Init, dtype: DType) -> Result<Tensor> {
        let source = self.source;
        let constant = |value: f64| self.fill(std::iter::repeat(value), shape, dtype);
        match init {
            Init::Zeros => constant(0.0),
            Init::Ones => constant(1.0),
            Init::Normal | Init::Scaled(_) => {
                let factor = if let Init::Scaled(factor) = init { factor } else { 1.0 };
                let normal = Normal::new(0.0, factor * source.std)
                    .map_err(|e| Error::setting("initializer_range", e.to_string()))?;
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
