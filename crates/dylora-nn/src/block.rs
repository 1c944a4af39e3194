//! One transformer block: self-attention, then the feed-forward part, each followed by its norm (post-norm).

use dylora_autograd::ops::{self, Gelu};
use dylora_autograd::tensor::Segments;
use dylora_autograd::{SliceCell, Var};

use crate::attention::SelfAttention;
use crate::config::EncoderConfig;
use crate::ctx::Ctx;
use crate::dylora::{AdaptedLinear, AdapterSettings};
use crate::error::Result;
use crate::method::Target;
use crate::norm::LayerNorm;
use crate::scope::Scope;

/// A block of BERT or RoBERTa.
#[derive(Clone, Debug)]
pub struct Block {
    pub(crate) attention: SelfAttention,
    pub(crate) intermediate: AdaptedLinear,
    pub(crate) output: AdaptedLinear,
    activation: Gelu,
    norm: LayerNorm,
    hidden_dropout: f64,
}

impl Block {
    pub(crate) fn new(
        scope: &Scope<'_, '_>,
        config: &EncoderConfig,
        adapter: Option<&AdapterSettings>,
        slice: &SliceCell,
    ) -> Result<Self> {
        let (d, m) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, size, target| AdaptedLinear::new(&scope.at(name), size, target, adapter, slice);
        Ok(Block {
            attention: SelfAttention::new(&scope.at("attention"), config, adapter, slice)?,
            intermediate: linear("intermediate.dense", (m, d), Target::Intermediate)?,
            output: linear("output.dense", (d, m), Target::Output)?,
            activation: config.activation,
            norm: LayerNorm::new(&scope.at("output.LayerNorm"), d, config.layer_norm_eps)?,
            hidden_dropout: config.hidden_dropout,
        })
    }

    /// Every layer that can have an adapter, which is about to be changed: nothing computed from their weights is kept.
    pub(crate) fn linears_mut(&mut self) -> [&mut AdaptedLinear; 6] {
        let attention = &mut self.attention;
        let [query, key, value] = attention.projections.apart_mut();
        [
            query,
            key,
            value,
            &mut attention.output,
            &mut self.intermediate,
            &mut self.output,
        ]
    }

    /// The sizes of its linear layers: query, key, value, attention output, intermediate, output.
    pub(crate) fn sizes(config: &EncoderConfig) -> [(usize, usize); 6] {
        let (d, m) = (config.hidden_size, config.intermediate_size);
        [(d, d), (d, d), (d, d), (d, d), (m, d), (d, m)]
    }

    /// Its linear layers, in the order of [`Block::sizes`].
    pub(crate) fn linears(&self) -> [&AdaptedLinear; 6] {
        let a = &self.attention;
        let [query, key, value] = [&a.projections.query, &a.projections.key, &a.projections.value];
        [query, key, value, &a.output, &self.intermediate, &self.output]
    }

    /// The block's result for the rows `from` of each sequence, which attend to all rows x.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, ctx: &mut Ctx<'_>, from: &Var, queries: &Segments, x: &Var, keys: &Segments) -> Result<Var> {
        let x = self.attention.forward(ctx, from, queries, x, keys)?;
        let (hidden, bias) = self.intermediate.forward_unbiased(ctx, &x)?;
        let hidden = match bias {
            Some(bias) => ops::bias_gelu(ctx.tape, &hidden, bias, self.activation)?,
            None => ops::gelu(ctx.tape, &hidden, self.activation)?,
        };
        let (out, bias) = self.output.forward_unbiased(ctx, &hidden)?;
        let dropout = ctx.next_dropout(self.hidden_dropout)?;
        self.norm.forward_biased(ctx, &out, bias, Some(&x), dropout)
    }
}
