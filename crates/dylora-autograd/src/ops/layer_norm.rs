//! Layer normalisation of s = dropout(x) + residual: with n = (s - mean) rstd, y = n gamma + beta.
//!
//! ds = rstd (g - mean(g) - n mean(g ∘ n)) with g = dy ∘ gamma; dresidual = ds, dx = ds ∘ mask,
//! dgamma = Σ dy ∘ n, dbeta = Σ dy. Kept: s, mean and rstd.

use dylora_tensor::ops::{self as kernels, NormGradients};
use dylora_tensor::{Dropout, Result, Tensor};

use crate::op::{Backward, Op};
use crate::param::Weight;
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    x: Input,
    residual: Input,
    dropout: Option<Dropout>,
    sum: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Weight,
    beta: Weight,
}

/// Layer normalisation of `dropout(x) + residual` over rows of x `[n, d]`; gamma and beta are `[d]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn layer_norm(
    tape: &mut Tape,
    x: &Var,
    residual: Option<&Var>,
    dropout: Option<Dropout>,
    gamma: &Weight,
    beta: &Weight,
    eps: f64,
) -> Result<Var> {
    bias_layer_norm(tape, x, None, residual, dropout, [gamma, beta], eps)
}

/// Layer normalisation of `dropout(x + bias) + residual`; the bias, where there is one, does not learn.
///
/// # Errors
/// If shapes or types do not fit.
pub fn bias_layer_norm(
    tape: &mut Tape,
    x: &Var,
    bias: Option<&Tensor>,
    residual: Option<&Var>,
    dropout: Option<Dropout>,
    [gamma, beta]: [&Weight; 2],
    eps: f64,
) -> Result<Var> {
    let input = tape.input(x)?;
    let residual_input = residual.map_or(Ok(Input(None)), |r| tape.input(r))?;
    let (at, values) = (residual.map(|r| &r.value), [gamma.value(), beta.value()]);
    let n = match bias {
        Some(bias) => kernels::bias_layer_norm(&x.value, bias, at, dropout, values, eps)?,
        None => kernels::layer_norm(&x.value, at, dropout, values[0], values[1], eps)?,
    };
    let wanted = input.wanted() || residual_input.wanted() || gamma.trained().is_some() || beta.trained().is_some();
    Ok(tape.push(n.y, wanted, || {
        Op::LayerNorm(Record {
            x: input,
            residual: residual_input,
            dropout,
            sum: n.sum,
            mean: n.mean,
            rstd: n.rstd,
            gamma: gamma.clone(),
            beta: beta.clone(),
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.sum, &self.mean, &self.rstd]
    }

    fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        let (dresidual, dx) = kernels::layer_norm_gradient(
            &dy,
            &self.sum,
            &self.mean,
            &self.rstd,
            self.gamma.value(),
            self.dropout,
            NormGradients {
                residual: self.residual.wanted(),
                x: self.x.wanted(),
                dgamma: self.gamma.trained().map(|p| p.grad()),
                dbeta: self.beta.trained().map(|p| p.grad()),
            },
        )?;
        if let Some(dresidual) = dresidual {
            sink.add(self.residual, dresidual)?;
        }
        dx.map_or(Ok(()), |dx| sink.add(self.x, dx))
    }
}
