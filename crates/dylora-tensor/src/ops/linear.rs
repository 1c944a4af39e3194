//! The linear layer and its gradients.

use super::{by_float, expect_shape, matrix, with_width};
use crate::cpu::elementwise;
use crate::cpu::gemm::{Mat, product};
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// y = x Wᵀ + bias for x `[n, d]`, W `[m, d]`, bias `[m]`; y `[n, m]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear";
    let (m, d) = matrix(OP, weight)?;
    if x.width() != d {
        return Err(Error::shape(OP, x.shape(), weight.shape()));
    }
    if let Some(bias) = bias {
        expect_shape(OP, bias, &[m])?;
    }
    if let Device::Cuda(cuda) = x.device() {
        return cuda::linear(cuda, x, weight, bias, &with_width(x, m));
    }
    by_float!(OP, x, T => {
        let (xs, ws) = (x.read::<T>(OP)?, weight.read::<T>(OP)?);
        let bias = bias.map(|b| b.read::<T>(OP)).transpose()?;
        Tensor::make::<T>(OP, x.device(), &with_width(x, m), |y| {
            product(y, false, Mat::new(&xs, x.num_rows(), d), Mat::new(&ws, m, d).t(), 1.0);
            if let Some(bias) = bias {
                elementwise::bias_add(&bias, y);
            }
            Ok(())
        })
    })
}

/// dx = dy W for dy `[n, m]`, W `[m, d]`; added to `onto` where given.
///
/// # Errors
/// If shapes or types do not fit.
pub fn linear_input_gradient(dy: &Tensor, weight: &Tensor, onto: Option<Tensor>) -> Result<Tensor> {
    const OP: &str = "linear_input_gradient";
    let (m, d) = matrix(OP, weight)?;
    if dy.width() != m {
        return Err(Error::shape(OP, dy.shape(), weight.shape()));
    }
    if let Device::Cuda(cuda) = dy.device() {
        return cuda::linear_input_gradient(cuda, dy, weight, onto, &with_width(dy, d));
    }
    by_float!(OP, dy, T => {
        let (dys, ws) = (dy.read::<T>(OP)?, weight.read::<T>(OP)?);
        let (dx, accumulate) = Tensor::target::<T>(OP, onto, dy.device(), &with_width(dy, d))?;
        product(
            dx.write_guard::<T>(OP)?.slice(),
            accumulate,
            Mat::new(&dys, dy.num_rows(), m),
            Mat::new(&ws, m, d),
            1.0,
        );
        Ok(dx)
    })
}

/// dW += dyᵀ x for dy `[n, m]`, x `[n, d]`; dW `[m, d]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn linear_weight_gradient(dy: &Tensor, x: &Tensor, dw: &Tensor) -> Result<()> {
    const OP: &str = "linear_weight_gradient";
    let (m, d, n) = (dy.width(), x.width(), x.num_rows());
    if dy.num_rows() != n {
        return Err(Error::shape(OP, dy.shape(), x.shape()));
    }
    expect_shape(OP, dw, &[m, d])?;
    if let Device::Cuda(cuda) = dy.device() {
        return cuda::linear_weight_gradient(cuda, dy, x, dw);
    }
    by_float!(OP, dy, T => {
        let (dys, xs) = (dy.read::<T>(OP)?, x.read::<T>(OP)?);
        let mut dw = dw.write_guard::<T>(OP)?;
        product(dw.slice(), true, Mat::new(&dys, n, m).t(), Mat::new(&xs, n, d), 1.0);
        Ok(())
    })
}

/// db += the sum of the rows of dy `[n, m]`; db `[m]`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn column_sum_into(dy: &Tensor, db: &Tensor) -> Result<()> {
    const OP: &str = "column_sum";
    expect_shape(OP, db, &[dy.width()])?;
    if let Device::Cuda(cuda) = dy.device() {
        return cuda::column_sum_into(cuda, dy, db);
    }
    by_float!(OP, dy, T => {
        let dys = dy.read::<T>(OP)?;
        elementwise::column_sum(&dys, db.write_guard::<T>(OP)?.slice());
        Ok(())
    })
}
