//! Self-attention over packed sequences, with adapters on any of its projections.

use dylora_autograd::ops::AttentionArgs;
use dylora_autograd::tensor::Segments;
use dylora_autograd::{SliceCell, Var};

use crate::config::EncoderConfig;
use crate::ctx::Ctx;
use crate::dylora::{AdaptedLinear, AdapterSettings};
use crate::error::Result;
use crate::method::Target;
use crate::norm::LayerNorm;
use crate::projections::Projections;
use crate::scope::Scope;

/// Attention, its output projection, and the norm behind it.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    pub(crate) projections: Projections,
    pub(crate) output: AdaptedLinear,
    norm: LayerNorm,
    num_heads: usize,
    scale: f64,
    attention_dropout: f64,
    hidden_dropout: f64,
}

impl SelfAttention {
    pub(crate) fn new(
        scope: &Scope<'_, '_>,
        config: &EncoderConfig,
        adapter: Option<&AdapterSettings>,
        slice: &SliceCell,
    ) -> Result<Self> {
        let size = (config.hidden_size, config.hidden_size);
        let linear = |name: &str, target| AdaptedLinear::new(&scope.at(name), size, target, adapter, slice);
        let (query, key) = (linear("self.query", Target::Query)?, linear("self.key", Target::Key)?);
        let value = linear("self.value", Target::Value)?;
        Ok(SelfAttention {
            projections: Projections::new(query, key, value, config.hidden_size / config.num_heads)?,
            output: linear("output.dense", Target::AttentionOutput)?,
            norm: LayerNorm::new(&scope.at("output.LayerNorm"), config.hidden_size, config.layer_norm_eps)?,
            num_heads: config.num_heads,
            scale: 1.0 / ((config.hidden_size / config.num_heads) as f64).sqrt(),
            attention_dropout: config.attention_dropout,
            hidden_dropout: config.hidden_dropout,
        })
    }

    /// LayerNorm(dropout(output(attention)) + from), where `from` `[query tokens, d]` asks and `x` `[tokens, d]` answers.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, ctx: &mut Ctx<'_>, from: &Var, queries: &Segments, x: &Var, keys: &Segments) -> Result<Var> {
        let args = AttentionArgs {
            queries,
            keys,
            num_heads: self.num_heads,
            scale: self.scale,
            causal: false,
            dropout: None,
        };
        let asking = (!std::ptr::eq(from, x)).then_some(from);
        let context = self.projections.attend(ctx, asking, x, args, self.attention_dropout)?;
        let (out, bias) = self.output.forward_unbiased(ctx, &context)?;
        let dropout = ctx.next_dropout(self.hidden_dropout)?;
        self.norm.forward_biased(ctx, &out, bias, Some(from), dropout)
    }
}
