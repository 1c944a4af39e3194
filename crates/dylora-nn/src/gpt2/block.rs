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
use crate::projections::Projections;
use crate::scope::{Init, Scope};

/// Hidden states between blocks, `[tokens, d]`: the sum of all that was added so far, and the same as the next norm leaves it.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) x: Var,
    pub(super) normed: Var,
}

/// A block; the thirds of the published `attn.c_attn` are layers of their own, each with its own adapter.
#[derive(Clone, Debug)]
pub struct Gpt2Block {
    pub(super) norm_1: LayerNorm,
    pub(super) projections: Projections,
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
            projections: Projections::new(
                third("query", Target::Query)?,
                third("key", Target::Key)?,
                third("value", Target::Value)?,
                d / config.num_heads,
            )?,
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

    /// The stream behind the block, normalised for what reads it next: of all rows, or, where `read` is given, of those rows
    /// alone, which are the last ones of their sequences.
    pub(super) fn forward(
        &self,
        ctx: &mut Ctx<'_>,
        stream: &Stream,
        segments: &Segments,
        read: Option<&Selected>,
        next: &LayerNorm,
    ) -> Result<Stream> {
        let asking = self.read(ctx, stream, read)?;
        let queries = read.map_or(segments, |read| &read.segments);
        let args = AttentionArgs {
            queries,
            keys: segments,
            num_heads: self.num_heads,
            scale: self.scale,
            causal: true,
            dropout: None,
        };
        let apart = read.map(|_| &asking.normed);
        let dropout = self.attention_dropout;
        let context = self.projections.attend(ctx, apart, &stream.normed, args, dropout)?;
        self.after_attention(ctx, &asking.x, &context, next)
    }

    /// The rows that go on.
    pub(super) fn read(&self, ctx: &mut Ctx<'_>, stream: &Stream, read: Option<&Selected>) -> Result<Stream> {
        Ok(match read {
            None => stream.clone(),
            Some(read) => Stream {
                x: ops::gather_rows(ctx.tape, &stream.x, &read.rows)?,
                normed: ops::gather_rows(ctx.tape, &stream.normed, &read.rows)?,
            },
        })
    }

    /// What follows attention, for the rows x that asked.
    pub(super) fn after_attention(
        &self,
        ctx: &mut Ctx<'_>,
        x: &Var,
        context: &Var,
        next: &LayerNorm,
    ) -> Result<Stream> {
        let (out, bias) = self.attention_output.forward_unbiased(ctx, context)?;
        let dropout = ctx.next_dropout(self.residual_dropout)?;
        let (x, normed) = self.norm_2.after_residual(ctx, x, &out, bias, dropout)?;
        let (hidden, bias) = self.intermediate.forward_unbiased(ctx, &normed)?;
        let hidden = match bias {
            Some(bias) => ops::bias_gelu(ctx.tape, &hidden, bias, self.activation)?,
            None => ops::gelu(ctx.tape, &hidden, self.activation)?,
        };
        let (out, bias) = self.output.forward_unbiased(ctx, &hidden)?;
        let dropout = ctx.next_dropout(self.residual_dropout)?;
        let (x, normed) = next.after_residual(ctx, &x, &out, bias, dropout)?;
        Ok(Stream { x, normed })
    }

    /// The layers' weights at a rank under their published keys below the block's, stored input-major.
    pub(super) fn published(&self, rank: usize) -> Result<Vec<(&'static str, Tensor)>> {
        let layers: [(&str, &str, Vec<&AdaptedLinear>); 4] = [
            (
                "attn.c_attn.weight",
                "attn.c_attn.bias",
                vec![&self.projections.query, &self.projections.key, &self.projections.value],
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
