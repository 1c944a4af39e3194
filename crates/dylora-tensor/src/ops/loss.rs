//! The losses, with their gradients at once.

use super::{by_float, check_indices, expect_shape};
use crate::cpu::loss;
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// How cross-entropy is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Label smoothing, 0 to 1: this share of the target is spread over all classes.
    pub smoothing: f64,
    /// Rows with this target count nothing.
    pub ignore: Option<i32>,
    /// Factor on the sum over rows; 1 / rows gives the mean.
    pub weight: f64,
}

/// Weighted sum of the cross-entropies of logits `[n, c]` against classes `[n]` i32: the loss `[1]` and, where wanted,
/// its gradient `[n, c]`.
///
/// # Errors
/// If shapes or types do not fit, or a class is not in 0..c.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    settings: &CrossEntropy,
    gradient: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    const OP: &str = "cross_entropy";
    let (n, c) = (logits.num_rows(), logits.width());
    expect_shape(OP, targets, &[n])?;
    logits.device().steps().check_weight(OP, settings.weight)?;
    if let Device::Cuda(cuda) = logits.device() {
        return cuda::cross_entropy(cuda, logits, targets, settings, gradient);
    }
    by_float!(OP, logits, T => {
        let (values, classes) = (logits.read::<T>(OP)?, targets.read::<i32>(OP)?);
        for (position, class) in classes.iter().enumerate() {
            if Some(*class) != settings.ignore {
                check_indices(OP, &[*class], c).map_err(|_| Error::Index {
                    op: OP,
                    index: i64::from(*class),
                    position,
                    limit: c,
                })?;
            }
        }
        let dlogits = gradient
            .then(|| Tensor::target::<T>(OP, None, logits.device(), logits.shape()).map(|(t, _)| t))
            .transpose()?;
        let value = {
            let mut guard = dlogits.as_ref().map(|t| t.write_guard::<T>(OP)).transpose()?;
            loss::cross_entropy(
                &values,
                &classes,
                settings.ignore,
                settings.smoothing,
                settings.weight,
                guard.as_mut().map(|g| g.slice()),
            )
        };
        Ok((Tensor::from_slice(logits.device(), &[value], &[1])?, dlogits))
    })
}

/// Weighted sum of squared differences of predictions (n elements) and targets `[n]`: the loss `[1]` and, where wanted,
/// its gradient.
///
/// # Errors
/// If the number or type of elements differs.
pub fn mse(prediction: &Tensor, target: &Tensor, weight: f64, gradient: bool) -> Result<(Tensor, Option<Tensor>)> {
    const OP: &str = "mse";
    if prediction.len() != target.len() {
        return Err(Error::shape(OP, prediction.shape(), target.shape()));
    }
    prediction.device().steps().check_weight(OP, weight)?;
    if let Device::Cuda(cuda) = prediction.device() {
        return cuda::mse(cuda, prediction, target, weight, gradient);
    }
    by_float!(OP, prediction, T => {
        let (p, t) = (prediction.read::<T>(OP)?, target.read::<T>(OP)?);
        let dp = gradient
            .then(|| Tensor::target::<T>(OP, None, prediction.device(), prediction.shape()).map(|(t, _)| t))
            .transpose()?;
        let value = {
            let mut guard = dp.as_ref().map(|t| t.write_guard::<T>(OP)).transpose()?;
            loss::mse(&p, &t, weight, guard.as_mut().map(|g| g.slice()))
        };
        Ok((Tensor::from_slice(prediction.device(), &[value], &[1])?, dp))
    })
}
