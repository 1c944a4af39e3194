//! Self-attention over packed sequences, with adapters on any of its projections.

use dylora_autograd::ops::{self, AttentionArgs};
use dylora_autograd::tensor::{Segments, Tensor};
use dylora_autograd::{SliceCell, Var, Weight};

use crate::config::EncoderConfig;
use crate::ctx::Ctx;
use crate::dylora::{AdaptedLinear, AdapterSettings};
use crate::error::Result;
use crate::method::Target;
use crate::norm::LayerNorm;
use crate::scope::Scope;

/// Attention, its output projection, and the norm behind it.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    pub(crate) query: AdaptedLinear,
    pub(crate) key: AdaptedLinear,
    pub(crate) value: AdaptedLinear,
    pub(crate) output: AdaptedLinear,
    norm: LayerNorm,
    num_heads: usize,
    scale: f64,
    attention_dropout: f64,
    hidden_dropout: f64,
    stacked: Option<Stacked>,
}

/// Frozen weights of query, key and value one below the other, where the device computes them better at once.
#[derive(Clone, Debug)]
struct Stacked {
    weight: Tensor,
    bias: Tensor,
}

impl Stacked {
    /// None where the layers learn or the device does not gain by it.
    fn new(layers: [&AdaptedLinear; 3], head_dim: usize) -> Result<Option<Self>> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for layer in layers {
            let (Weight::Frozen(weight), Weight::Frozen(bias)) = (&layer.base.weight, &layer.base.bias) else {
                return Ok(None);
            };
            weights.push(weight);
            biases.push(bias);
        }
        let (first, d) = (weights[0], weights[0].width());
        let adapters: Vec<_> = layers.iter().filter_map(|layer| layer.adapter.as_ref()).collect();
        let Some(rank) = adapters.first().map(|adapter| adapter.a.value().shape()[0]) else {
            return Ok(None);
        };
        let stacks = ops::stacks(first.device(), first.dtype(), d, head_dim, rank, adapters.len());
        // The key and value of the last block are stacked alone, and need a path too.
        let late = layers[1..].iter().any(|layer| layer.adapter.is_some());
        if !stacks || !late || adapters.iter().any(|adapter| adapter.dropout > 0.0) {
            return Ok(None);
        }
        let join = |parts: &[&Tensor], shape: &[usize]| -> Result<Tensor> {
            let whole = Tensor::zeros(first.device(), parts[0].dtype(), shape)?;
            for (i, part) in parts.iter().enumerate() {
                whole.rows(i * d..(i + 1) * d)?.copy_from(part)?;
            }
            Ok(whole)
        };
        Ok(Some(Stacked {
            weight: join(&weights, &[3 * d, d])?,
            bias: join(&biases, &[3 * d])?,
        }))
    }
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
            stacked: Stacked::new([&query, &key, &value], config.hidden_size / config.num_heads)?,
            query,
            key,
            value,
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
        let args = |ctx: &mut Ctx<'_>| -> Result<_> {
            Ok(AttentionArgs {
                queries,
                keys,
                num_heads: self.num_heads,
                scale: self.scale,
                causal: false,
                dropout: ctx.next_dropout(self.attention_dropout)?,
            })
        };
        let context = if let Some(stacked) = &self.stacked {
            let apart = (!std::ptr::eq(from, x))
                .then(|| self.query.forward(ctx, from))
                .transpose()?;
            let all = self.project(ctx, stacked, x, if apart.is_some() { 1 } else { 0 })?;
            let args = args(ctx)?;
            ops::stacked_attention(ctx.tape, apart.as_ref(), &all, &args)?
        } else {
            let q = self.query.forward(ctx, from)?;
            let k = self.key.forward(ctx, x)?;
            let v = self.value.forward(ctx, x)?;
            let args = args(ctx)?;
            ops::attention(ctx.tape, &q, &k, &v, &args)?
        };
        let (out, bias) = self.output.forward_unbiased(ctx, &context)?;
        let dropout = ctx.next_dropout(self.hidden_dropout)?;
        self.norm.forward_biased(ctx, &out, bias, Some(from), dropout)
    }

    /// Query, key and value of x side by side, or the later ones of them from `first` on.
    fn project(&self, ctx: &mut Ctx<'_>, stacked: &Stacked, x: &Var, first: usize) -> Result<Var> {
        let d = stacked.weight.width();
        let rows = first * d..3 * d;
        let layers = [&self.query, &self.key, &self.value];
        for adapter in layers[first..].iter().filter_map(|layer| layer.adapter.as_ref()) {
            // A layer by itself asks for a dropout, and those after it shall draw the same bits either way.
            ctx.next_dropout(adapter.dropout)?;
        }
        let paths: Vec<_> = layers[first..]
            .iter()
            .enumerate()
            .filter_map(|(i, layer)| Some((layer.adapter.as_ref()?.lora(ctx), i * d)))
            .collect();
        let (weight, bias) = (stacked.weight.rows(rows.clone())?, stacked.bias.rows(rows)?);
        Ok(ops::stacked_linear(ctx.tape, x, &weight, &bias, &paths)?)
    }
}
