//! Cross-entropy over a vocabulary: three products and one kernel for each chunk of rows.

use super::elementwise::operand;
use super::gemm::Operand;
use super::module::Source;
use super::{Cuda, cast, int, kind, launch, vector};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::{CrossEntropy, VocabularyLoss};
use crate::tensor::Tensor;

#[allow(clippy::too_many_arguments)]
pub(crate) fn linear_cross_entropy(
    cuda: &Cuda,
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
    super::loss::check_targets(OP, targets, classes, settings)?;
    let (n, d, dtype) = (x.num_rows(), x.width(), x.dtype());
    let kind = kind(OP, dtype)?;
    let weight = cast(cuda, weight, dtype)?;
    let pitch = weight.num_rows();
    // Chunks of nearly one size.
    let chunk = n.div_ceil(n.div_ceil(rows.min(n)));
    let new = |dtype, shape: &[usize]| Tensor::on_cuda(OP, cuda, dtype, shape);
    let (losses, total) = (new(DType::F32, &[n])?, new(DType::F32, &[1])?);
    let logits = new(dtype, &[chunk, pitch])?;
    let dx = dx.then(|| new(dtype, x.shape())).transpose()?;
    let wanted = dx.is_some() || dw.is_some();
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, t.dtype());
    let (lp, tp, rp) = (
        pointer(&logits)?,
        targets.cuda_pointer(OP, cuda, DType::I32)?,
        pointer(&losses)?,
    );
    let vec = vector(pitch, &[lp]);
    let row = pitch * dtype.size();
    // As much as lets two blocks of 512 threads share a multiprocessor, or one.
    let kept = vec == 1 && row <= cuda.shared_limit();
    let shared = if kept { row } else { 0 };
    let (c, width, kept, gradient) = (int(OP, classes)?, int(OP, pitch)?, i32::from(kept), i32::from(wanted));
    let (has, ignore) = (i32::from(settings.ignore.is_some()), settings.ignore.unwrap_or(0));
    let (smoothing, factor) = (settings.smoothing as f32, settings.weight as f32);
    let live = cuda.live_weight(OP, settings.weight)?;
    let table = |transposed| operand(OP, cuda, &weight, transposed);
    for start in (0..n).step_by(chunk) {
        let range = start..n.min(start + chunk);
        let (len, part) = (range.len(), x.rows(range.clone())?);
        let from = operand(OP, cuda, &part, false)?;
        cuda.product(OP, [len, pitch, d], from, table(true)?, dtype, lp, dtype, false)?;
        let (at, out) = (tp + 4 * start as u64, rp + 4 * start as u64);
        let kernel = (Source::Vocabulary, kind, "vocabulary_loss");
        // SAFETY: parameters as in vocabulary.cu; logits are [len, pitch], targets and losses [len] from `start` on, and the
        // shared memory holds a row where it is kept.
        unsafe {
            launch!(
                cuda,
                kernel,
                (len, 1, 1),
                512,
                shared,
                lp,
                at,
                out,
                c,
                width,
                gradient,
                kept,
                has,
                ignore,
                smoothing,
                factor,
                vec,
                live
            )?;
        }
        let made = |transposed| Operand {
            at: lp,
            width: pitch,
            transposed,
        };
        if let Some(dx) = &dx {
            let to = pointer(&dx.rows(range)?)?;
            cuda.product(OP, [len, d, pitch], made(false), table(false)?, dtype, to, dtype, false)?;
        }
        if let Some(dw) = dw {
            let to = dw.cuda_pointer(OP, cuda, DType::F32)?;
            cuda.product(OP, [pitch, d, len], made(true), from, dtype, to, DType::F32, true)?;
        }
    }
    let (sp, count) = (pointer(&total)?, int(OP, n)?);
    // SAFETY: parameters as in loss.cu; there are n losses.
    unsafe { launch!(cuda, (Source::Loss, kind, "sum_all"), (1, 1, 1), 256, 0, rp, sp, count)? };
    Ok(VocabularyLoss { loss: total, dx })
}
