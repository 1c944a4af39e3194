//! A linear layer with a low-rank adapter that works at every rank.
//!
//! h = W0 x + s B[:, :b] A[:b] x for the rank b of the step, with s = alpha / b (DyLoRA, equation 5) unless another
//! [`ScaleRule`] is asked for. The slice says which ranks learn; whatever they are, the scale at a rank is the same in
//! training and in evaluation.

use dylora_autograd::ops::{self, Lora};
use dylora_autograd::tensor::{Device, Tensor};
use dylora_autograd::{Parameter, SliceCell, Var, Weight};

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::flop::Factors;
use crate::linear::Linear;
use crate::method::{AdapterInit, ScaleRule, Target};
use crate::scope::Scope;

/// The adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSettings {
    /// The largest rank, r.
    pub rank: usize,
    /// alpha in the scale.
    pub alpha: f64,
    /// The scale at each rank.
    pub scale: ScaleRule,
    /// The layers of each block that get an adapter.
    pub targets: Vec<Target>,
    /// Dropout on the adapter's input.
    pub dropout: f64,
    /// How A starts.
    pub init: AdapterInit,
}

impl AdapterSettings {
    /// Rank r on query and value, as in the paper.
    pub fn query_value(rank: usize, alpha: f64) -> Self {
        AdapterSettings {
            rank,
            alpha,
            scale: ScaleRule::default(),
            targets: vec![Target::Query, Target::Value],
            dropout: 0.0,
            init: AdapterInit::KaimingUniform,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::setting("rank", "must be at least 1"));
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return Err(Error::setting(
                "alpha",
                format!("{} is not a positive number", self.alpha),
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting("dropout", format!("{} is not in 0..1", self.dropout)));
        }
        if self.targets.is_empty() {
            return Err(Error::setting("targets", "names no layer"));
        }
        Ok(())
    }
}

/// A and B of one layer.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// A (W_dw in the paper), `[r, d]`.
    pub a: Parameter,
    /// B (W_up), `[m, r]`.
    pub b: Parameter,
    /// alpha.
    pub alpha: f64,
    /// The scale at each rank.
    pub scale: ScaleRule,
    /// Dropout on the input.
    pub dropout: f64,
}

impl Adapter {
    /// The factor at rank `b`.
    pub fn scale_at(&self, b: usize) -> f64 {
        self.scale.at(self.alpha, b, self.a.value().shape()[0])
    }

    /// The path at the rank of the step.
    pub(crate) fn lora(&self, ctx: &Ctx<'_>) -> Lora<'_> {
        Lora {
            a: &self.a,
            b: &self.b,
            slice: ctx.slice.clone(),
            scale: self.scale_at(ctx.slice.read),
        }
    }

    /// `s B[:, :b] A[:b]` with the scale s at rank b, `[m, d]` row-major, in f64.
    ///
    /// # Errors
    /// If the rank is not in 1..=r, or inside a step.
    pub fn product(&self, rank: usize) -> Result<Vec<f64>> {
        let (r, d) = (self.a.value().shape()[0], self.a.value().width());
        if rank == 0 || rank > r {
            return Err(Error::setting("rank", format!("{rank} is not in 1..={r}")));
        }
        let (a, b) = (self.a.value().to_f64_vec()?, self.b.value().to_f64_vec()?);
        let scale = self.scale_at(rank);
        let mut product = vec![0.0; b.len() / r * d];
        for (row, b) in product.chunks_exact_mut(d).zip(b.chunks_exact(r)) {
            for (b, a) in b[..rank].iter().zip(a.chunks_exact(d)) {
                for (p, a) in row.iter_mut().zip(a) {
                    *p += scale * b * a;
                }
            }
        }
        Ok(product)
    }
}

/// A linear layer, with or without an adapter, or factorised.
#[derive(Clone, Debug)]
pub struct AdaptedLinear {
    /// W0 and bias; of a factorised layer P and bias.
    pub base: Linear,
    /// The other factor, Q, and the gates between the two, in a model that is pruned while it learns.
    pub factors: Option<Factors>,
    /// The adapter.
    pub adapter: Option<Adapter>,
}

impl AdaptedLinear {
    /// The layer at `scope`, with an adapter if `target` is among the settings'.
    pub(crate) fn new(
        scope: &Scope<'_, '_>,
        (m, d): (usize, usize),
        target: Target,
        settings: Option<&AdapterSettings>,
        slice: &SliceCell,
    ) -> Result<Self> {
        if let Some((base, factors)) = scope.factors(m, d)? {
            return Ok(AdaptedLinear {
                base,
                factors: Some(factors),
                adapter: None,
            });
        }
        let base = Linear::base(scope, m, d)?;
        Self::over(base, scope, (m, d), target, settings, slice)
    }

    /// An adapter over a layer that exists, if `target` is among the settings'; its factors are named after `scope`.
    pub(crate) fn over(
        base: Linear,
        scope: &Scope<'_, '_>,
        (m, d): (usize, usize),
        target: Target,
        settings: Option<&AdapterSettings>,
        slice: &SliceCell,
    ) -> Result<Self> {
        let adapter = settings
            .filter(|s| s.targets.contains(&target))
            .map(|s| -> Result<Adapter> {
                let (a, b) = scope.adapter(m, d, s.rank, s.init, slice)?;
                Ok(Adapter {
                    a,
                    b,
                    alpha: s.alpha,
                    scale: s.scale,
                    dropout: s.dropout,
                })
            })
            .transpose()?;
        Ok(AdaptedLinear {
            base,
            factors: None,
            adapter,
        })
    }

    /// x `[n, d]` to `[n, m]` at the rank of the step.
    ///
    /// # Errors
    /// If shapes do not fit or the rank is not in 1..=r.
    pub fn forward(&self, ctx: &mut Ctx<'_>, x: &Var) -> Result<Var> {
        if let Some(factors) = &self.factors {
            let low = factors.forward(ctx, x)?;
            return self.base.forward(ctx, &low);
        }
        let Some(adapter) = &self.adapter else {
            return self.base.forward(ctx, x);
        };
        let lora = adapter.lora(ctx);
        match ctx.next_dropout(adapter.dropout)? {
            None => {
                let (weight, bias) = (&self.base.weight, &self.base.bias);
                Ok(ops::lora_linear(ctx.tape, x, weight, Some(bias), &lora)?)
            }
            // The base reads x itself, so the two paths are computed apart.
            dropout => {
                let base = self.base.forward(ctx, x)?;
                let dropped = ops::dropout(ctx.tape, x, dropout)?;
                let low = ops::low_rank(ctx.tape, &dropped, &lora)?;
                Ok(ops::add(ctx.tape, &base, &low)?)
            }
        }
    }

    /// x W0ᵀ and the bias that is still to be added, where the device gains by leaving that to what follows; otherwise
    /// the whole layer and no bias.
    pub(crate) fn forward_unbiased(&self, ctx: &mut Ctx<'_>, x: &Var) -> Result<(Var, Option<&Tensor>)> {
        match (&self.adapter, &self.base.bias) {
            (None, Weight::Frozen(bias)) if self.factors.is_none() && ops::defers_bias(bias.device()) => {
                Ok((ops::linear(ctx.tape, x, &self.base.weight, None)?, Some(bias)))
            }
            _ => Ok((self.forward(ctx, x)?, None)),
        }
    }

    /// Its matrices: W0, or P and Q.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Weight> {
        std::iter::once(&self.base.weight).chain(self.factors.as_ref().map(|factors| &factors.q))
    }

    /// The layer without the components whose gates are closed; itself where it is not factorised.
    ///
    /// # Errors
    /// Inside a step.
    pub(crate) fn pruned(&self) -> Result<Self> {
        let Some(factors) = &self.factors else {
            return Ok(self.clone());
        };
        let (base, factors) = factors.pruned(&self.base)?;
        Ok(AdaptedLinear {
            base,
            factors: Some(factors),
            adapter: None,
        })
    }

    /// `W0 + s B[:, :b] A[:b]` with the scale s at rank b, or W0 where there is no adapter, or P diag(z) Q.
    ///
    /// # Errors
    /// If the rank is not in 1..=r, or inside a step.
    pub fn merged(&self, rank: usize) -> Result<Tensor> {
        let base = self.base.weight.value();
        if let Some(factors) = &self.factors {
            return factors.product(base);
        }
        let Some(adapter) = &self.adapter else {
            return Ok(base.clone());
        };
        let mut values = base.to_f64_vec()?;
        for (v, p) in values.iter_mut().zip(adapter.product(rank)?) {
            *v += p;
        }
        // Rounded on the host, because a GPU holds no f64.
        let sum = Tensor::from_vec(&Device::cpu(), values, base.shape())?.to_dtype(base.dtype())?;
        Ok(sum.to_device(base.device())?)
    }
}
