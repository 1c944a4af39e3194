//! The losses with their gradients; the loss itself is f32.

use super::module::Source;
use super::{Cuda, int, kind, launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::CrossEntropy;
use crate::tensor::Tensor;

/// Fails for classes that the host is known to have written and that do not exist.
pub(super) fn check_targets(op: &'static str, targets: &Tensor, c: usize, settings: &CrossEntropy) -> Result<()> {
    if settings.ignore.is_none() {
        return super::check_known(op, targets, c);
    }
    if let Some((_, greatest)) = targets.known_bounds()
        && usize::try_from(greatest).is_ok_and(|g| g >= c)
        && settings.ignore != Some(greatest)
    {
        return Err(Error::Index {
            op,
            index: i64::from(greatest),
            position: 0,
            limit: c,
        });
    }
    Ok(())
}

pub(crate) fn cross_entropy(
    cuda: &Cuda,
    logits: &Tensor,
    targets: &Tensor,
    settings: &CrossEntropy,
    gradient: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    const OP: &str = "cross_entropy";
    let (n, c, dtype) = (logits.num_rows(), logits.width(), logits.dtype());
    check_targets(OP, targets, c, settings)?;
    let kind = kind(OP, dtype)?;
    let new = |dtype, shape: &[usize]| Tensor::on_cuda(OP, cuda, dtype, shape);
    let (rows, total) = (new(DType::F32, &[n])?, new(DType::F32, &[1])?);
    let dlogits = gradient.then(|| new(dtype, logits.shape())).transpose()?;
    let lp = logits.cuda_pointer(OP, cuda, dtype)?;
    let tp = targets.cuda_pointer(OP, cuda, DType::I32)?;
    let gp = super::optional(OP, cuda, dlogits.as_ref(), dtype)?;
    let (rp, sp) = (
        rows.cuda_pointer(OP, cuda, DType::F32)?,
        total.cuda_pointer(OP, cuda, DType::F32)?,
    );
    let (has, ignore) = (i32::from(settings.ignore.is_some()), settings.ignore.unwrap_or(0));
    let (smoothing, weight) = (settings.smoothing as f32, settings.weight as f32);
    let (classes, count) = (int(OP, c)?, int(OP, n)?);
    let live = cuda.live_weight(OP, settings.weight)?;
    let threads = if c <= 64 { 32 } else { 256 };
    // SAFETY: parameters as in loss.cu; logits and gradient are [n, c], targets and rows [n].
    unsafe {
        let kernel = (Source::Loss, kind, "cross_entropy");
        launch!(
            cuda,
            kernel,
            (n, 1, 1),
            threads,
            0,
            lp,
            tp,
            rp,
            gp,
            classes,
            has,
            ignore,
            smoothing,
            weight,
            live
        )?;
        launch!(cuda, (Source::Loss, kind, "sum_all"), (1, 1, 1), 256, 0, rp, sp, count)?;
    }
    Ok((total, dlogits))
}

pub(crate) fn mse(
    cuda: &Cuda,
    prediction: &Tensor,
    target: &Tensor,
    weight: f64,
    gradient: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    const OP: &str = "mse";
    let dtype = prediction.dtype();
    let total = Tensor::on_cuda(OP, cuda, DType::F32, &[1])?;
    let dp = gradient
        .then(|| Tensor::on_cuda(OP, cuda, dtype, prediction.shape()))
        .transpose()?;
    let pp = prediction.cuda_pointer(OP, cuda, dtype)?;
    let tp = target.cuda_pointer(OP, cuda, DType::F32)?;
    let (sp, gp) = (
        total.cuda_pointer(OP, cuda, DType::F32)?,
        super::optional(OP, cuda, dp.as_ref(), dtype)?,
    );
    let live = cuda.live_weight(OP, weight)?;
    let (n, weight) = (int(OP, prediction.len())?, weight as f32);
    let kernel = (Source::Loss, kind(OP, dtype)?, "mse");
    // SAFETY: parameters as in loss.cu; prediction, target and gradient have n elements.
    unsafe { launch!(cuda, kernel, (1, 1, 1), 256, 0, pp, tp, sp, gp, n, weight, live)? };
    Ok((total, dp))
}
