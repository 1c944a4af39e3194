//! What follows a frozen linear layer, with the layer's bias: on a GPU one pass over memory less than a bias of its own.

use super::elementwise::{Gelu, gelu, gelu_gradient};
use super::norm::{Normalised, layer_norm};
use super::{by_float, expect_shape, same_shape};
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// Whether a frozen bias is better added by the operation behind its layer on this device.
pub fn defers_bias(device: &Device) -> bool {
    matches!(device, Device::Cuda(_))
}

/// x + bias; CPU only.
pub(super) fn biased(op: &'static str, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    by_float!(op, x, T => {
        let (xs, bias) = (x.read::<T>(op)?, bias.read::<T>(op)?);
        Tensor::make::<T>(op, x.device(), x.shape(), |out| {
            out.copy_from_slice(&xs);
            crate::cpu::elementwise::bias_add(&bias, out);
            Ok(())
        })
    })
}

/// GELU of x + bias for x `[n, d]`, bias `[d]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn bias_gelu(kind: Gelu, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    const OP: &str = "bias_gelu";
    expect_shape(OP, bias, &[x.width()])?;
    match x.device() {
        Device::Cuda(cuda) => cuda::bias_gelu(cuda, kind, x, bias),
        Device::Cpu(_) => gelu(kind, &biased(OP, x, bias)?),
    }
}

/// dx = dy gelu'(x + bias).
///
/// # Errors
/// If shapes or types do not fit.
pub fn bias_gelu_gradient(kind: Gelu, x: &Tensor, bias: &Tensor, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "bias_gelu_gradient";
    expect_shape(OP, bias, &[x.width()])?;
    same_shape(OP, x, dy)?;
    match x.device() {
        Device::Cuda(cuda) => cuda::bias_gelu_gradient(cuda, kind, x, bias, dy),
        Device::Cpu(_) => gelu_gradient(kind, &biased(OP, x, bias)?, dy),
    }
}

/// [`layer_norm`] of x + bias: s = dropout(x + bias) + residual is normalised.
///
/// # Errors
/// If shapes or types do not fit.
pub fn bias_layer_norm(
    x: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    dropout: Option<Dropout>,
    [gamma, beta]: [&Tensor; 2],
    eps: f64,
) -> Result<Normalised> {
    const OP: &str = "bias_layer_norm";
    for vector in [bias, gamma, beta] {
        expect_shape(OP, vector, &[x.width()])?;
    }
    residual.map_or(Ok(()), |residual| same_shape(OP, residual, x))?;
    match x.device() {
        Device::Cuda(cuda) => cuda::layer_norm(cuda, x, Some(bias), residual, dropout.as_ref(), [gamma, beta], eps),
        Device::Cpu(_) => layer_norm(&biased(OP, x, bias)?, residual, dropout, gamma, beta, eps),
    }
}
