//! Layer normalisation, with the dropout and residual that stand before it in a block.

use dylora_autograd::tensor::{Dropout, Tensor};
use dylora_autograd::{Var, Weight, ops};

use crate::ctx::Ctx;
use crate::error::Result;
use crate::scope::{Init, Scope};

/// Normalises rows to mean 0 and variance 1, then scales and shifts them.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    gamma: Weight,
    beta: Weight,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(scope: &Scope<'_, '_>, width: usize, eps: f64) -> Result<Self> {
        Ok(LayerNorm {
            gamma: scope.weight("weight", &[width], Init::Ones, false)?,
            beta: scope.weight("bias", &[width], Init::Zeros, false)?,
            eps,
        })
    }

    /// LayerNorm(dropout(x) + residual), `[n, width]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, ctx: &mut Ctx<'_>, x: &Var, residual: Option<&Var>, dropout: Option<Dropout>) -> Result<Var> {
        self.forward_biased(ctx, x, None, residual, dropout)
    }

    /// LayerNorm(dropout(x + bias) + residual), with the frozen bias of the layer before it.
    pub(crate) fn forward_biased(
        &self,
        ctx: &mut Ctx<'_>,
        x: &Var,
        bias: Option<&Tensor>,
        residual: Option<&Var>,
        dropout: Option<Dropout>,
    ) -> Result<Var> {
        let weights = [&self.gamma, &self.beta];
        Ok(ops::bias_layer_norm(
            ctx.tape, x, bias, residual, dropout, weights, self.eps,
        )?)
    }

    /// s = x + dropout(out + bias), with the frozen bias of the layer that gave `out`, and LayerNorm(s).
    pub(crate) fn after_residual(
        &self,
        ctx: &mut Ctx<'_>,
        x: &Var,
        out: &Var,
        bias: Option<&Tensor>,
        dropout: Option<Dropout>,
    ) -> Result<(Var, Var)> {
        let weights = [&self.gamma, &self.beta];
        Ok(ops::residual_norm(ctx.tape, x, out, bias, dropout, weights, self.eps)?)
    }
}
