//! Layer normalisation, and its gradients.

use super::{by_float, expect_shape, same_shape};
use crate::cpu::norm;
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Dropout;
use crate::step::check_dropout;
use crate::tensor::Tensor;

/// What layer normalisation leaves for its gradient.
#[derive(Clone, Debug)]
pub struct Normalised {
    /// The result, `[n, d]`.
    pub y: Tensor,
    /// What was normalised, `[n, d]`.
    pub sum: Tensor,
    /// Mean of each row, `[n]`.
    pub mean: Tensor,
    /// Inverse standard deviation of each row, `[n]`.
    pub rstd: Tensor,
}

/// y = (s - mean) rstd gamma + beta with s = dropout(x) + residual, for each row of x `[n, d]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn layer_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    dropout: Option<Dropout>,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
) -> Result<Normalised> {
    const OP: &str = "layer_norm";
    let (n, d) = (x.num_rows(), x.width());
    expect_shape(OP, gamma, &[d])?;
    expect_shape(OP, beta, &[d])?;
    if let Some(residual) = residual {
        same_shape(OP, residual, x)?;
    }
    check_dropout(OP, x.device(), dropout.as_ref())?;
    if let Device::Cuda(cuda) = x.device() {
        return cuda::layer_norm(cuda, x, None, residual, dropout.as_ref(), [gamma, beta], eps);
    }
    by_float!(OP, x, T => {
        let new = |shape: &[usize]| Tensor::target::<T>(OP, None, x.device(), shape).map(|(t, _)| t);
        let plain = residual.is_none() && dropout.is_none();
        let sum = if plain { None } else { Some(new(x.shape())?) };
        let (y, mean, rstd) = (new(x.shape())?, new(&[n])?, new(&[n])?);
        {
            let residual = residual.map(|r| r.read::<T>(OP)).transpose()?;
            let mut sum = sum.as_ref().map(|s| s.write_guard::<T>(OP)).transpose()?;
            norm::layer_norm_forward(
                &x.read::<T>(OP)?,
                residual.as_deref(),
                dropout.as_ref(),
                &gamma.read::<T>(OP)?,
                &beta.read::<T>(OP)?,
                eps,
                d,
                sum.as_mut().map(|s| s.slice()),
                y.write_guard::<T>(OP)?.slice(),
                mean.write_guard::<T>(OP)?.slice(),
                rstd.write_guard::<T>(OP)?.slice(),
            );
        }
        Ok(Normalised { y, sum: sum.unwrap_or_else(|| x.clone()), mean, rstd })
    })
}

/// Where the gradients of layer normalisation go.
#[derive(Clone, Copy, Debug, Default)]
pub struct NormGradients<'a> {
    /// Whether the gradient of the residual is wanted.
    pub residual: bool,
    /// Whether the gradient of x is wanted.
    pub x: bool,
    /// dgamma `[d]`, added to.
    pub dgamma: Option<&'a Tensor>,
    /// dbeta `[d]`, added to.
    pub dbeta: Option<&'a Tensor>,
}

/// The gradients of [`layer_norm`]: of the residual and of x (one tensor where there is no dropout).
///
/// # Errors
/// If shapes or types do not fit.
pub fn layer_norm_gradient(
    dy: &Tensor,
    sum: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
    gamma: &Tensor,
    dropout: Option<Dropout>,
    into: NormGradients<'_>,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    const OP: &str = "layer_norm_gradient";
    let d = sum.width();
    same_shape(OP, dy, sum)?;
    expect_shape(OP, gamma, &[d])?;
    check_dropout(OP, dy.device(), dropout.as_ref())?;
    if let Device::Cuda(cuda) = dy.device() {
        return cuda::layer_norm_gradient(cuda, dy, sum, mean, rstd, gamma, dropout.as_ref(), into);
    }
    by_float!(OP, dy, T => {
        let new = |wanted: bool| {
            wanted
                .then(|| Tensor::target::<T>(OP, None, dy.device(), dy.shape()).map(|(t, _)| t))
                .transpose()
        };
        // Without dropout both gradients are the gradient of the sum.
        let dresidual = new(into.residual || (into.x && dropout.is_none()))?;
        let dx = new(into.x && dropout.is_some())?;
        {
            let mut ds = dresidual.as_ref().map(|t| t.write_guard::<T>(OP)).transpose()?;
            let mut dxs = dx.as_ref().map(|t| t.write_guard::<T>(OP)).transpose()?;
            let mut dgamma = into.dgamma.map(|t| t.write_guard::<T>(OP)).transpose()?;
            let mut dbeta = into.dbeta.map(|t| t.write_guard::<T>(OP)).transpose()?;
            norm::layer_norm_backward(
                &sum.read::<T>(OP)?,
                &mean.read::<T>(OP)?,
                &rstd.read::<T>(OP)?,
                &gamma.read::<T>(OP)?,
                &dy.read::<T>(OP)?,
                dropout.as_ref(),
                d,
                ds.as_mut().map(|g| g.slice()),
                dxs.as_mut().map(|g| g.slice()),
                dgamma.as_mut().map(|g| g.slice()),
                dbeta.as_mut().map(|g| g.slice()),
            );
        }
        let dx = if into.x { dx.or_else(|| dresidual.clone()) } else { None };
        Ok((dresidual.filter(|_| into.residual), dx))
    })
}
