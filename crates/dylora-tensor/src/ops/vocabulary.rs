//! Cross-entropy over a vocabulary: logits x Wᵀ are made, and their gradient is used up, for some rows at a time.

use super::elementwise::add;
use super::linear::{linear, linear_input_gradient, linear_weight_gradient};
use super::loss::{CrossEntropy, cross_entropy};
use super::{expect_shape, matrix};
use crate::cuda;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Rows of a table of `classes` rows that is to be the weight of [`linear_cross_entropy`]: a GPU's products gain by rows of
/// logits that begin at a multiple of 16 bytes.
pub fn vocabulary_rows(device: &Device, classes: usize) -> usize {
    match device {
        Device::Cpu(_) => classes,
        Device::Cuda(_) => classes.next_multiple_of(8),
    }
}

/// Rows of logits that should exist at the same time: on the CPU enough for an efficient product (64 MiB in f32 for any
/// number of classes), on a GPU enough for one that fills it (512 MiB in bf16).
pub fn logit_rows(device: &Device, classes: usize) -> usize {
    let logits: usize = match device {
        Device::Cpu(_) => 1 << 24,
        Device::Cuda(_) => 1 << 28,
    };
    (logits / classes.max(1)).max(1)
}

/// What [`linear_cross_entropy`] gives.
#[derive(Debug)]
pub struct VocabularyLoss {
    /// The loss, `[1]`.
    pub loss: Tensor,
    /// Its gradient in x, `[n, d]`, where wanted.
    pub dx: Option<Tensor>,
}

/// [`cross_entropy`] of x `[n, d]` times the first `classes` rows of `weight` `[c, d]`, c at least `classes`, with targets
/// `[n]` i32. At most `rows` rows of logits exist at a time. Gradients are those of the loss itself: of x where `dx`; that of
/// the weight, which then has no further rows, is added to `dw`.
///
/// # Errors
/// If `rows` is 0, there is no row at all, shapes or types do not fit, or a class is not in 0..`classes`.
#[allow(clippy::too_many_arguments)]
pub fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    classes: usize,
    targets: &Tensor,
    settings: &CrossEntropy,
    rows: usize,
    dx: bool,
    dw: Option<&Tensor>,
) -> Result<VocabularyLoss> {
    const OP: &str = "linear_cross_entropy";
    let ((c, d), n) = (matrix(OP, weight)?, x.num_rows());
    if rows == 0 || n == 0 {
        return Err(Error::invalid(OP, format!("{n} rows in chunks of {rows}")));
    }
    if classes == 0 || classes > c || (dw.is_some() && classes < c) {
        return Err(Error::invalid(
            OP,
            format!("{classes} classes with a weight of {c} rows"),
        ));
    }
    expect_shape(OP, targets, &[n])?;
    if x.width() != d {
        return Err(Error::shape(OP, x.shape(), weight.shape()));
    }
    dw.map_or(Ok(()), |dw| expect_shape(OP, dw, weight.shape()))?;
    if let Device::Cuda(cuda) = x.device() {
        return cuda::linear_cross_entropy(cuda, x, weight, classes, targets, settings, rows, dx, dw);
    }
    let weight = weight.rows(0..classes)?;
    let dx = dx
        .then(|| Tensor::zeros(x.device(), x.dtype(), x.shape()))
        .transpose()?;
    let wanted = dx.is_some() || dw.is_some();
    let mut total: Option<Tensor> = None;
    for start in (0..n).step_by(rows) {
        let range = start..n.min(start + rows);
        let part = x.rows(range.clone())?;
        let logits = linear(&part, &weight, None)?;
        let (loss, gradient) = cross_entropy(&logits, &targets.rows(range.clone())?, settings, wanted)?;
        if let Some(gradient) = gradient {
            if let Some(dx) = &dx {
                dx.rows(range)?
                    .copy_from(&linear_input_gradient(&gradient, &weight, None)?)?;
            }
            if let Some(dw) = dw {
                linear_weight_gradient(&gradient, &part, dw)?;
            }
        }
        total = Some(match total {
            None => loss,
            Some(sum) => add(&sum, &loss)?,
        });
    }
    let loss = total.ok_or_else(|| Error::invalid(OP, "no rows"))?;
    Ok(VocabularyLoss { loss, dx })
}
