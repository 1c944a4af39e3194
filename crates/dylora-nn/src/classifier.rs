//! An encoder with a classification head: the model of every GLUE task.

use dylora_autograd::tensor::{DType, Device, Tensor};
use dylora_autograd::{Parameter, RankSlice, SliceCell, Var, Weight};

use crate::block::Block;
use crate::checkpoint::Checkpoint;
use crate::config::EncoderConfig;
use crate::ctx::{Ctx, Inputs};
use crate::dylora::AdapterSettings;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::head::ClassificationHead;
use crate::scope::Source;

/// A sequence classifier (or, with one label, a regressor).
#[derive(Clone, Debug)]
pub struct SequenceClassifier {
    encoder: Encoder,
    head: ClassificationHead,
    slice: SliceCell,
    rank: usize,
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
        if num_labels == 0 {
            return Err(Error::setting("num_labels", "must be at least 1"));
        }
        if let Some(adapter) = adapter {
            adapter.validate()?;
        }
        let rank = adapter.map_or(0, |a| a.rank);
        let slice = SliceCell::new(RankSlice::full(rank));
        let weights = Source::new(
            device,
            dtype,
            source,
            config.family.into(),
            adapter.is_none(),
            config.initializer_range,
            seed,
        );
        let root = weights.root();
        let encoder = Encoder::new(&root.at(config.family.prefix()), config, adapter, &slice)?;
        let head = ClassificationHead::new(&root, config, num_labels)?;
        drop(root);
        Ok(SequenceClassifier {
            encoder,
            head,
            slice,
            rank,
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

    /// A plain model that equals this one at a rank: adapters are added to their layers, and all other weights are shared with
    /// this model. Without adapters the rank is of no account.
    ///
    /// # Errors
    /// If the rank is not in 1..=r, or inside a step.
    pub fn merged(&self, rank: usize) -> Result<Self> {
        if self.rank > 0 {
            self.check_rank(rank)?;
        }
        let mut model = self.clone();
        for linear in model.encoder.blocks.iter_mut().flat_map(Block::linears_mut) {
            if linear.adapter.is_none() {
                continue;
            }
            let value = linear.merged(rank)?;
            let base = linear.base.weight.value();
            if let Some((_, listed)) = model.weights.iter_mut().find(|(_, w)| w.value().shares_memory(base)) {
                *listed = Weight::Frozen(value.clone());
            }
            linear.base.weight = Weight::Frozen(value);
            linear.adapter = None;
        }
        let is_factor = |weight: &Weight| weight.trained().is_some_and(|p| p.mask().is_some());
        model.weights.retain(|(_, weight)| !is_factor(weight));
        (model.rank, model.slice) = (0, SliceCell::new(RankSlice::full(0)));
        Ok(model)
    }
}
