//! An encoder with a classification head: the model of every GLUE task.

use dylora_autograd::tensor::{DType, Device, Tensor};
use dylora_autograd::{Parameter, RankSlice, SliceCell, Var, Weight};

use crate::block::Block;
use crate::checkpoint::Checkpoint;
use crate::config::EncoderConfig;
use crate::ctx::{Ctx, Inputs};
use crate::dylora::{AdaptedLinear, AdapterSettings};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::flop::{FlopSettings, Gates};
use crate::head::ClassificationHead;
use crate::scope::{Source, WEIGHT_P, WEIGHT_Q};

/// A sequence classifier (or, with one label, a regressor).
#[derive(Clone, Debug)]
pub struct SequenceClassifier {
    encoder: Encoder,
    head: ClassificationHead,
    slice: SliceCell,
    rank: usize,
    gates: Option<Gates>,
    weights: Vec<(String, Weight)>,
}

impl SequenceClassifier {
    /// Builds a model.
    ///
    /// With `adapter` the base is frozen, adapters and head learn; without it every weight learns. Weights come from
    /// `source`, or are random where there is none; what the checkpoint lacks of a head is new. New weights are drawn
    /// from the streams of `seed`.
    ///
    /// # Errors
    /// If the settings are not usable, or the checkpoint does not fit; every offending key is named.
    pub fn new(
        device: &Device,
        dtype: DType,
        config: &EncoderConfig,
        num_labels: usize,
        adapter: Option<&AdapterSettings>,
        source: Option<&Checkpoint>,
        seed: u64,
    ) -> Result<Self> {
        if let Some(adapter) = adapter {
            adapter.validate()?;
        }
        Self::build((device, dtype), config, num_labels, (adapter, None), source, seed)
    }

    /// Builds a model whose encoder's linear layers are factorised and gated, see [`FlopSettings`]. Every weight learns. The
    /// factors are those of the checkpoint's matrices, or random.
    ///
    /// # Errors
    /// As [`SequenceClassifier::new`].
    pub fn factorised(
        device: &Device,
        dtype: DType,
        config: &EncoderConfig,
        num_labels: usize,
        settings: &FlopSettings,
        source: Option<&Checkpoint>,
        seed: u64,
    ) -> Result<Self> {
        settings.validate()?;
        Self::build(
            (device, dtype),
            config,
            num_labels,
            (None, Some(settings)),
            source,
            seed,
        )
    }

    fn build(
        (device, dtype): (&Device, DType),
        config: &EncoderConfig,
        num_labels: usize,
        (adapter, flop): (Option<&AdapterSettings>, Option<&FlopSettings>),
        source: Option<&Checkpoint>,
        seed: u64,
    ) -> Result<Self> {
        if num_labels == 0 {
            return Err(Error::setting("num_labels", "must be at least 1"));
        }
        let rank = adapter.map_or(0, |a| a.rank);
        let slice = SliceCell::new(RankSlice::full(rank));
        let mut weights = Source::new(
            device,
            dtype,
            source,
            config.family.into(),
            adapter.is_none(),
            config.initializer_range,
            seed,
        );
        if let Some(flop) = flop {
            let sizes = (0..config.num_layers).flat_map(|_| Block::sizes(config));
            weights.factorise(sizes.collect(), flop)?;
        }
        let root = weights.root();
        let encoder = Encoder::new(&root.at(config.family.prefix()), config, adapter, &slice)?;
        let head = ClassificationHead::new(&root, config, num_labels)?;
        drop(root);
        Ok(SequenceClassifier {
            encoder,
            head,
            slice,
            rank,
            gates: weights.gates(),
            weights: weights.finish()?.weights,
        })
    }

    /// Logits `[sequences, num_labels]`.
    ///
    /// # Errors
    /// If the inputs do not fit the model or the rank is not in 1..=r.
    pub fn forward(&self, ctx: &mut Ctx<'_>, inputs: &Inputs) -> Result<Var> {
        if self.rank > 0 {
            self.check_rank(ctx.slice.read)?;
        }
        let x = self.encoder.first_tokens(ctx, inputs)?;
        self.head.forward(ctx, &x)
    }

    fn check_rank(&self, rank: usize) -> Result<()> {
        match rank {
            0 => Err(Error::setting("rank", "0 is not a rank; the smallest is 1")),
            b if b > self.rank => Err(Error::setting(
                "rank",
                format!("{b} is above the adapters' rank {}", self.rank),
            )),
            _ => Ok(()),
        }
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Everything that learns, in the order of the model; names are checkpoint keys.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.weights.iter().filter_map(|(_, w)| w.trained().cloned()).collect()
    }

    /// A and B of every adapter.
    pub fn adapter_parameters(&self) -> Vec<Parameter> {
        self.parameters().into_iter().filter(|p| p.mask().is_some()).collect()
    }

    /// The parameters of the head.
    pub fn head_parameters(&self) -> Vec<Parameter> {
        let is_head = |name: &str| name.starts_with("classifier.") || name.starts_with("bert.pooler.");
        self.parameters().into_iter().filter(|p| is_head(p.name())).collect()
    }

    /// The frozen weights with their keys.
    pub fn frozen(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.weights.iter().filter_map(|(name, weight)| match weight {
            Weight::Frozen(value) => Some((name.as_str(), value)),
            Weight::Trained(_) => None,
        })
    }

    /// The largest rank; 0 without adapters.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The gates of a factorised model.
    pub fn gates(&self) -> Option<&Gates> {
        self.gates.as_ref()
    }

    /// A factorised model as it is evaluated: without the components whose gates are closed, the values of the others in
    /// their factors, which learn no more. A model that is not factorised is only copied.
    ///
    /// # Errors
    /// Inside a step.
    pub fn pruned(&self) -> Result<Self> {
        let mut model = self.clone();
        for linear in model.encoder.blocks.iter_mut().flat_map(Block::linears_mut) {
            let pruned = linear.pruned()?;
            for (old, new) in linear.matrices().zip(pruned.matrices()) {
                relist(&mut model.weights, old, new);
            }
            *linear = pruned;
        }
        model.drop_gates();
        Ok(model)
    }

    /// Numbers that learn, and once a factorised model is pruned those of the factors that remain: with embeddings and head
    /// the size of the whole model, as FLOP's paper counts parameters. Gates are no part of it, their values go into the
    /// factors. Of other models, [`SequenceClassifier::num_trainable`].
    ///
    /// # Errors
    /// Inside a step.
    pub fn num_remaining(&self, rank: usize) -> Result<usize> {
        if let Some(gates) = &self.gates {
            let (remaining, own) = (gates.remaining()?, gates.log_alpha().len() + gates.lambda().len());
            return Ok(self.num_trainable(rank) - own - remaining.of_factors + remaining.numbers);
        }
        let layers = self.encoder.blocks.iter().flat_map(Block::linears);
        let factors = layers.filter(|linear| linear.factors.is_some());
        let numbers: usize = factors.flat_map(AdaptedLinear::matrices).map(|m| m.value().len()).sum();
        Ok(self.num_trainable(rank) + numbers)
    }

    fn drop_gates(&mut self) {
        self.gates = None;
        self.weights
            .retain(|(name, _)| ![Gates::LOG_ALPHA, Gates::LAMBDA].contains(&name.as_str()));
    }

    /// The slice that gradients and updates are limited to, shared by all adapters.
    pub fn slice(&self) -> &SliceCell {
        &self.slice
    }

    /// Trained values in use at a rank: rows of A, columns of B, and everything else that learns.
    pub fn num_trainable(&self, rank: usize) -> usize {
        self.parameters()
            .iter()
            .map(|p| match p.mask() {
                Some(_) => p.len() / self.rank.max(1) * rank.min(self.rank),
                None => p.len(),
            })
            .sum()
    }

    /// Everything that learns, by key, as stored in checkpoints.
    pub fn named_trained(&self) -> Vec<(String, Tensor)> {
        self.parameters()
            .iter()
            .map(|p| (p.name().to_owned(), p.value().clone()))
            .collect()
    }

    /// Restores what [`SequenceClassifier::named_trained`] gave. Keys that begin with one of `others` are another's.
    ///
    /// # Errors
    /// If keys are missing, unexpected or misshapen (all are named, and nothing is changed), or the file cannot be read.
    pub fn load_trained(&self, checkpoint: &Checkpoint, others: &[&str]) -> Result<()> {
        checkpoint.restore(&self.named_trained(), others)
    }

    /// The weights of a plain model that equals this one at a rank, by their published keys: adapters are added to their
    /// layers. Saved, this is a checkpoint like any other. Without adapters the rank is of no account.
    ///
    /// # Errors
    /// If the rank is not in 1..=r.
    pub fn merge(&self, rank: usize) -> Result<Vec<(String, Tensor)>> {
        let weights = self.merged(rank)?.weights.into_iter();
        Ok(weights.map(|(name, weight)| (name, weight.value().clone())).collect())
    }

    /// A plain model that equals this one at a rank: adapters are added to their layers, factors multiplied without the
    /// components whose gates are closed, and all other weights are shared with this model. Without adapters the rank is of no account.
    ///
    /// # Errors
    /// If the rank is not in 1..=r, or inside a step.
    pub fn merged(&self, rank: usize) -> Result<Self> {
        if self.rank > 0 {
            self.check_rank(rank)?;
        }
        let mut model = self.clone();
        for linear in model.encoder.blocks.iter_mut().flat_map(Block::linears_mut) {
            if linear.adapter.is_none() && linear.factors.is_none() {
                continue;
            }
            let value = Weight::Frozen(linear.merged(rank)?);
            relist(&mut model.weights, &linear.base.weight, &value);
            linear.base.weight = value;
            (linear.adapter, linear.factors) = (None, None);
        }
        // A factorised layer has one matrix again, under its published key.
        for (name, _) in &mut model.weights {
            if let Some(stem) = name.strip_suffix(WEIGHT_P) {
                *name = format!("{stem}weight");
            }
        }
        model.weights.retain(|(name, _)| !name.ends_with(WEIGHT_Q));
        model.drop_gates();
        let is_factor = |weight: &Weight| weight.trained().is_some_and(|p| p.mask().is_some());
        model.weights.retain(|(_, weight)| !is_factor(weight));
        (model.rank, model.slice) = (0, SliceCell::new(RankSlice::full(0)));
        Ok(model)
    }
}

/// Puts another weight in the place of a listed one.
fn relist(weights: &mut [(String, Weight)], old: &Weight, new: &Weight) {
    let place = weights.iter_mut().find(|(_, w)| w.value().shares_memory(old.value()));
    if let Some((_, listed)) = place {
        *listed = new.clone();
    }
}
