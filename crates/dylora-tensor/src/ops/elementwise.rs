//! Operations on every element by itself.

use super::{by_float, expect_shape, same_shape};
use crate::cpu::elementwise;
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Dropout;
use crate::step::check_dropout;
use crate::tensor::Tensor;

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// x Φ(x) with the error function (BERT, RoBERTa).
    Erf,
    /// The tanh form (GPT-2).
    Tanh,
}

/// Elementwise operation of one input.
macro_rules! unary {
    ($op:expr, $x:expr, |$cuda:ident| $on_cuda:expr, |$xs:ident, $ys:ident| $body:expr) => {{
        if let Device::Cuda($cuda) = $x.device() {
            return $on_cuda;
        }
        by_float!($op, $x, T => {
            let $xs = $x.read::<T>($op)?;
            Tensor::make::<T>($op, $x.device(), $x.shape(), |$ys| {
                $body;
                Ok(())
            })
        })
    }};
}

/// Elementwise operation of two inputs.
macro_rules! binary {
    ($op:expr, $x:expr, $y:expr, |$cuda:ident| $on_cuda:expr, |$xs:ident, $ys:ident, $zs:ident| $body:expr) => {{
        same_shape($op, $x, $y)?;
        if let Device::Cuda($cuda) = $x.device() {
            return $on_cuda;
        }
        by_float!($op, $x, T => {
            let ($xs, $ys) = ($x.read::<T>($op)?, $y.read::<T>($op)?);
            Tensor::make::<T>($op, $x.device(), $x.shape(), |$zs| {
                $body;
                Ok(())
            })
        })
    }};
}

/// GELU of every element.
///
/// # Errors
/// If x is not of floating-point type.
pub fn gelu(kind: Gelu, x: &Tensor) -> Result<Tensor> {
    unary!("gelu", x, |cuda| cuda::gelu(cuda, kind, x), |xs, y| {
        elementwise::gelu_forward(kind, &xs, y)
    })
}

/// dx = dy gelu'(x).
///
/// # Errors
/// If shapes or types differ.
pub fn gelu_gradient(kind: Gelu, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    binary!(
        "gelu_gradient",
        x,
        dy,
        |cuda| cuda::gelu_gradient(cuda, kind, x, dy),
        |xs, dys, dx| elementwise::gelu_backward(kind, &xs, &dys, dx)
    )
}

/// tanh of every element.
///
/// # Errors
/// If x is not of floating-point type.
pub fn tanh(x: &Tensor) -> Result<Tensor> {
    unary!(
        "tanh",
        x,
        |cuda| cuda::tanh(cuda, x),
        |xs, y| elementwise::tanh_forward(&xs, y)
    )
}

/// dx = dy (1 - y²) with y = tanh(x).
///
/// # Errors
/// If shapes or types differ.
pub fn tanh_gradient(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    binary!(
        "tanh_gradient",
        y,
        dy,
        |cuda| cuda::tanh_gradient(cuda, y, dy),
        |ys, dys, dx| elementwise::tanh_backward(&ys, &dys, dx)
    )
}

/// Every element times its factor of the dropout mask; also the gradient, applied to dy.
///
/// # Errors
/// If x is not of floating-point type.
pub fn dropout(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    check_dropout("dropout", x.device(), Some(&dropout))?;
    unary!("dropout", x, |cuda| cuda::dropout(cuda, x, &dropout), |xs, y| {
        elementwise::dropout_apply(&dropout, &xs, x.width(), y)
    })
}

/// The sum of two tensors.
///
/// # Errors
/// If shapes or types differ.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    binary!("add", x, y, |cuda| cuda::add(cuda, x, y), |xs, ys, z| elementwise::add(
        &xs, &ys, z
    ))
}

/// target += source.
///
/// # Errors
/// If shapes or types differ, or both share memory.
pub fn add_into(source: &Tensor, target: &Tensor) -> Result<()> {
    const OP: &str = "add_into";
    same_shape(OP, source, target)?;
    if let Device::Cuda(cuda) = target.device() {
        return cuda::add_into(cuda, source, target);
    }
    by_float!(OP, source, T => {
        let values = source.read::<T>(OP)?;
        elementwise::add_into(&values, target.write_guard::<T>(OP)?.slice());
        Ok(())
    })
}

/// Sets all elements of all tensors to zero; one launch for dozens of tensors on a GPU, where they are f32.
///
/// # Errors
/// As [`Tensor::fill_zero`].
pub fn zero_many(tensors: &[&Tensor]) -> Result<()> {
    if let Some(Device::Cuda(cuda)) = tensors.first().map(|t| t.device()) {
        return cuda::zero_many(cuda, tensors);
    }
    tensors.iter().try_for_each(|t| t.fill_zero())
}

/// Every element of x times the one element of `factor`.
///
/// # Errors
/// If `factor` has more than one element or the types differ.
pub fn scale_by(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    const OP: &str = "scale_by";
    expect_shape(OP, factor, &[1])?;
    if let Device::Cuda(cuda) = x.device() {
        return cuda::scale_by(cuda, x, factor);
    }
    by_float!(OP, x, T => {
        let f = factor.read::<T>(OP)?[0];
        let xs = x.read::<T>(OP)?;
        Tensor::make::<T>(OP, x.device(), x.shape(), |y| {
            for (y, x) in y.iter_mut().zip(xs.iter()) {
                *y = f * *x;
            }
            Ok(())
        })
    })
}
