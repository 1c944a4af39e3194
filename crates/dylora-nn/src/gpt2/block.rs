//! One block of GPT-2: norm, attention and residual, then norm, feed-forward part and residual (pre-norm).

use dylora_autograd::ops::{self, AttentionArgs, Gelu};
use dylora_autograd::tensor::{Segments, Tensor};
use dylora_autograd::{SliceCell, Var};

use super::config::Gpt2Config;
use super::input_major::input_major;
use crate::ctx::{Ctx, Selected};
use crate::dylora::{AdaptedLinear, AdapterSettings};
use crate::error::{Error, Result};
use crate::method::Target;
use crate::norm::LayerNorm;
use crate::scope::{Init, Scope};

/// A block; the thirds of the published `attn.c_attn` are layers of their own, each with its own adapter.
#[derive(Clone, Debug)]
pub struct Gpt2Block {
    norm_1: LayerNorm,
    pub(super) query: AdaptedLinear,
    pub(super) key: AdaptedLinear,
    pub(super) value: AdaptedLinear,
    attention_output: AdaptedLinear,
    norm_2: LayerNorm,
    intermediate: AdaptedLinear,
    output: AdaptedLinear,
    activation: Gelu,
    pub(super) num_heads: usize,
    pub(super) scale: f64,
    attention_dropout: f64,
    residual_dropout: f64,
}

impl Gpt2Block {
    pub(super) fn new(
        scope: &Scope<'_, '_>,
        index: usize,
        config: &Gpt2Config,
        adapter: Option<&AdapterSettings>,
        slice: &SliceCell,
    ) -> Result<Self> {
        let (d, m) = (config.hidden_size, config.intermediate_size);
        // What is added to the hidden states starts smaller the more blocks add to them.
        let residual = Init::Scaled(1.0 / ((2 * config.num_layers) as f64).sqrt());
        let one = |name: &str, size, init, target| -> Result<AdaptedLinear> {
            let scope = scope.at(name);
            let base = scope.input_major(&[""], size, init)?.pop();
            let base = base.ok_or_else(|| Error::setting("model", "a layer without parts"))?;
            AdaptedLinear::over(base, &scope, size, target, adapter, slice)
        };
        let stacked = scope.at("attn.c_attn");
        let names = ["query", "key", "value"];
        let mut thirds = stacked.input_major(&names, (d, d), Init::Normal)?.into_iter();
        let mut third = |name: &str, target| -> Result<AdaptedLinear> {
            let base = thirds.next();
            let base = base.ok_or_else(|| Error::setting("model", "c_attn has three thirds"))?;
            AdaptedLinear::over(base, &stacked.at(name), (d, d), target, adapter, slice)
        };
        let head_size = (d / config.num_heads) as f64;
        let mut scale = if config.scale_attention {
            1.0 / head_size.sqrt()
        } else {
            1.0
        };
        if config.scale_by_layer {
            scale /= (index + 1) as f64;
        }
        Ok(Gpt2Block {
            norm_1: LayerNorm::new(&scope.at("ln_1"), d, config.layer_norm_eps)?,
            query: third("query", Target::Query)?,
            key: third("key", Target::Key)?,
            value: third("value", Target::Value)?,
            attention_output: one("attn.c_proj", (d, d), residual, Target::AttentionOutput)?,
            norm_2: LayerNorm::new(&scope.at("ln_2"), d, config.layer_norm_eps)?,
            intermediate: one("mlp.c_fc", (m, d), Init::Normal, Target::Intermediate)?,
            output: one("mlp.c_proj", (d, m), residual, Target::Output)?,
            activation: config.activation,
            num_heads: config.num_heads,
            scale,
            attention_dropout: config.attention_dropout,
            residual_dropout: config.residual_dropout,
        })
    }

    /// The block's result for x `[tokens, d]`, or, where `read` is given, for those rows alone, which are the last ones of
    /// their sequences.
    pub(super) fn forward(
        &self,
        ctx: &mut Ctx<'_>,
        x: &Var,
        segments: &Segments,
        read: Option<&Selected>,
    ) -> Result<Var> {
        let (x, from, normed) = self.read(ctx, x, read)?;
        let queries = read.map_or(segments, |read| &read.segments);
        let q = self.query.forward(ctx, &from)?;
        let k = self.key.forward(ctx, &normed)?;
        let v = self.value.forward(ctx, &normed)?;
        self.after_projections(ctx, &x, [&q, &k, &v], queries, segments)
    }

    /// The rows that go on, the same normalised, and all rows normalised.
    pub(super) fn read(&self, ctx: &mut Ctx<'_>, x: &Var, read: Option<&Selected>) -> Result<(Var, Var, Var)> {
        let normed = self.norm_1.forward(ctx, x, None, None)?;
        Ok(match read {
            None => (x.clone(), normed.clone(), normed),
            Some(read) => (
                ops::gather_rows(ctx.tape, x, &read.rows)?,
                ops::gather_rows(ctx.tape, &normed, &read.rows)?,
                normed,
            ),
        })
    }

    pub(super) fn after_projections(
        &self,
        ctx: &mut Ctx<'_>,
        x: &Var,
        [q, k, v]: [&Var; 3],
        queries: &Segments,
        keys: &Segments,
    ) -> Result<Var> {
        let args = AttentionArgs {
            queries,
            keys,
            num_heads: self.num_heads,
            scale: self.scale,
            causal: true,
            dropout: ctx.next_dropout(self.attention_dropout)?,
        };
        let context = ops::attention(ctx.tape, q, k, v, &args)?;
        self.after_attention(ctx, x, &context)
    }

    /// What follows attention, for the rows x that asked.
    pub(super) fn after_attention(&self, ctx: &mut Ctx<'_>, x: &Var, context: &Var) -> Result<Var> {
        let out = self.attention_output.forward(ctx, context)?;
        let x = self.residual(ctx, x, &out)?;
        let normed = self.norm_2.forward(ctx, &x, None, None)?;
        let hidden = self.intermediate.forward(ctx, &normed)?;
        let hidden = ops::gelu(ctx.tape, &hidden, self.activation)?;
        let out = self.output.forward(ctx, &hidden)?;
        self.residual(ctx, &x, &out)
    }

    /// x + dropout(out).
    fn residual(&self, ctx: &mut Ctx<'_>, x: &Var, out: &Var) -> Result<Var> {
        let dropout = ctx.next_dropout(self.residual_dropout)?;
        let out = ops::dropout(ctx.tape, out, dropout)?;
        Ok(ops::add(ctx.tape, x, &out)?)
    }

    /// The layers' weights at a rank under their published keys below the block's, stored input-major.
    pub(super) fn published(&self, rank: usize) -> Result<Vec<(&'static str, Tensor)>> {
        let layers: [(&str, &str, Vec<&AdaptedLinear>); 4] = [
            (
                "attn.c_attn.weight",
                "attn.c_attn.bias",
                vec![&self.query, &self.key, &self.value],
            ),
            ("attn.c_proj.weight", "attn.c_proj.bias", vec![&self.attention_output]),
            ("mlp.c_fc.weight", "mlp.c_fc.bias", vec![&self.intermediate]),
            ("mlp.c_proj.weight", "mlp.c_proj.bias", vec![&self.output]),
        ];
        let mut named = Vec::new();
        for (weight, bias, parts) in layers {
            let merged = parts.iter().map(|part| part.merged(rank)).collect::<Result<Vec<_>>>()?;
            let biases: Vec<Tensor> = parts.iter().map(|part| part.base.bias.value().clone()).collect();
            named.push((weight, input_major(&merged)?));
            named.push((bias, input_major(&biases)?));
        }
        Ok(named)
    }
}
