//! The residual stream of a pre-norm block: what a layer gives is added, and the sum is normalised for the next layer. On a
//! GPU one pass over memory does both, forward and backward.

use super::biased::biased;
use super::elementwise::{add, add_into, dropout as apply};
use super::norm::{NormGradients, Normalised, layer_norm, layer_norm_gradient};
use super::{expect_shape, same_shape};
use crate::cuda;
use crate::device::Device;
use crate::error::Result;
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// s = x + dropout(out + bias) and its layer normalisation y = (s - mean) rstd gamma + beta, for rows of x and out `[n, d]`;
/// s is the result's `sum`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn residual_norm(
    x: &Tensor,
    out: &Tensor,
    bias: Option<&Tensor>,
    dropout: Option<Dropout>,
    [gamma, beta]: [&Tensor; 2],
    eps: f64,
) -> Result<Normalised> {
    const OP: &str = "residual_norm";
    same_shape(OP, x, out)?;
    for vector in bias.into_iter().chain([gamma, beta]) {
        expect_shape(OP, vector, &[x.width()])?;
    }
    if let Device::Cuda(cuda) = x.device() {
        return cuda::layer_norm(cuda, out, bias, Some(x), dropout.as_ref(), [gamma, beta], eps);
    }
    let mut out = bias.map_or_else(|| Ok(out.clone()), |bias| biased(OP, out, bias))?;
    if let Some(dropout) = dropout {
        out = apply(&out, dropout)?;
    }
    layer_norm(&add(x, &out)?, None, None, gamma, beta, eps)
}

/// The gradients of [`residual_norm`], of x and of out (one tensor where there is no dropout), from that of y and, in
/// `above`, that of s from elsewhere. In `into`, `residual` stands for x and `x` for out.
///
/// # Errors
/// If shapes or types do not fit.
pub fn residual_norm_gradient(
    dy: &Tensor,
    above: Option<Tensor>,
    [sum, mean, rstd]: [&Tensor; 3],
    gamma: &Tensor,
    dropout: Option<Dropout>,
    into: NormGradients<'_>,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    const OP: &str = "residual_norm_gradient";
    same_shape(OP, dy, sum)?;
    expect_shape(OP, gamma, &[sum.width()])?;
    above.as_ref().map_or(Ok(()), |above| same_shape(OP, above, sum))?;
    if let Device::Cuda(cuda) = dy.device() {
        return cuda::residual_norm_gradient(
            cuda,
            dy,
            above.as_ref(),
            [sum, mean, rstd],
            gamma,
            dropout.as_ref(),
            into,
        );
    }
    let plain = NormGradients {
        residual: false,
        x: into.residual || into.x,
        ..into
    };
    let (_, ds) = layer_norm_gradient(dy, sum, mean, rstd, gamma, None, plain)?;
    if let (Some(ds), Some(above)) = (&ds, &above) {
        add_into(above, ds)?;
    }
    let dout = match (ds.as_ref().filter(|_| into.x), dropout) {
        (Some(ds), Some(dropout)) => Some(apply(ds, dropout)?),
        (ds, _) => ds.cloned(),
    };
    Ok((ds.filter(|_| into.residual), dout))
}
