//! Query, key and value of a block, and the attention they are for. Where the device gains by it, the three products are one.

use dylora_autograd::ops::{self, AttentionArgs};
use dylora_autograd::tensor::Tensor;
use dylora_autograd::{Var, Weight};

use crate::ctx::Ctx;
use crate::dylora::AdaptedLinear;
use crate::error::Result;

/// The three layers, each with its own adapter if it has one.
#[derive(Clone, Debug)]
pub(crate) struct Projections {
    pub(crate) query: AdaptedLinear,
    pub(crate) key: AdaptedLinear,
    pub(crate) value: AdaptedLinear,
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
        if weights.iter().any(|weight| weight.shape() != [d, d]) {
            return Ok(None);
        }
        let adapters: Vec<_> = layers.iter().filter_map(|layer| layer.adapter.as_ref()).collect();
        let Some(rank) = adapters.first().map(|adapter| adapter.a.value().shape()[0]) else {
            return Ok(None);
        };
        let (device, dtype, count) = (first.device(), first.dtype(), adapters.len());
        let dropout = adapters.iter().any(|adapter| adapter.dropout > 0.0);
        let stacks = ops::stacks(device, dtype, d, head_dim, rank, count, dropout);
        // The key and value of the last block are stacked alone, and need a path too.
        let late = layers[1..].iter().any(|layer| layer.adapter.is_some());
        if !stacks || !late {
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

impl Projections {
    pub(crate) fn new(query: AdaptedLinear, key: AdaptedLinear, value: AdaptedLinear, head_dim: usize) -> Result<Self> {
        Ok(Projections {
            stacked: Stacked::new([&query, &key, &value], head_dim)?,
            query,
            key,
            value,
        })
    }

    /// The layers, to change them: from now on each computes by itself.
    pub(crate) fn apart_mut(&mut self) -> [&mut AdaptedLinear; 3] {
        self.stacked = None;
        [&mut self.query, &mut self.key, &mut self.value]
    }

    /// The context `[query tokens, d]` of x `[tokens, d]`, of which all rows ask, or `asking` `[query tokens, d]` in their
    /// place. The settings' dropout is the next one with probability `dropout`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub(crate) fn attend(
        &self,
        ctx: &mut Ctx<'_>,
        asking: Option<&Var>,
        x: &Var,
        mut args: AttentionArgs<'_>,
        dropout: f64,
    ) -> Result<Var> {
        let Some(stacked) = &self.stacked else {
            let q = self.query.forward(ctx, asking.unwrap_or(x))?;
            let k = self.key.forward(ctx, x)?;
            let v = self.value.forward(ctx, x)?;
            args.dropout = ctx.next_dropout(dropout)?;
            return Ok(ops::attention(ctx.tape, &q, &k, &v, &args)?);
        };
        let apart = asking.map(|asking| self.query.forward(ctx, asking)).transpose()?;
        let all = self.project(ctx, stacked, x, usize::from(apart.is_some()))?;
        args.dropout = ctx.next_dropout(dropout)?;
        Ok(ops::stacked_attention(ctx.tape, apart.as_ref(), &all, &args)?)
    }

    /// Query, key and value of x side by side, or the later ones of them from `first` on.
    fn project(&self, ctx: &mut Ctx<'_>, stacked: &Stacked, x: &Var, first: usize) -> Result<Var> {
        let d = stacked.weight.width();
        let rows = first * d..3 * d;
        let layers = [&self.query, &self.key, &self.value];
        let mut paths = Vec::with_capacity(layers.len());
        for (i, layer) in layers[first..].iter().enumerate() {
            if let Some(adapter) = &layer.adapter {
                // Drawn in the order in which the layers by themselves would.
                let dropout = ctx.next_dropout(adapter.dropout)?;
                paths.push((adapter.lora(ctx), i * d, dropout));
            }
        }
        let (weight, bias) = (stacked.weight.rows(rows.clone())?, stacked.bias.rows(rows)?);
        Ok(ops::stacked_linear(ctx.tape, x, &weight, &bias, &paths)?)
    }
}
