//! What decoding asks of logits.

use half::bf16;

use super::{by_float, matrix};
use crate::cpu::decode as kernel;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The likeliest classes of each row of logits, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct TopClasses {
    /// How many there are of each row.
    pub k: usize,
    /// The classes, k a row, likeliest first.
    pub classes: Vec<i32>,
    /// The logarithms of their probabilities, k a row.
    pub scores: Vec<f32>,
}

/// The `k` (at most all) largest of ln softmax for each row of logits `[n, c]`. The classes `banned[i]` of row i keep their
/// share of the probability but come last, with a score of -inf.
///
/// The result is on the host because it decides what is computed next; a device's logits are copied there.
///
/// # Errors
/// If `k` is 0, there are not as many lists as rows, or inside a step.
pub fn top_log_softmax(logits: &Tensor, banned: &[Vec<i32>], k: usize) -> Result<TopClasses> {
    const OP: &str = "top_log_softmax";
    let (n, c) = matrix(OP, logits)?;
    let k = k.min(c);
    if k == 0 || banned.len() != n {
        return Err(Error::invalid(
            OP,
            format!("{k} of {c} classes, {} lists for {n} rows", banned.len()),
        ));
    }
    let mut top = TopClasses {
        k,
        classes: vec![0; n * k],
        scores: vec![0.0; n * k],
    };
    if let Device::Cuda(_) = logits.device() {
        let values: Vec<f32> = match logits.dtype() {
            DType::F32 => logits.to_vec()?,
            _ => logits.to_vec::<bf16>()?.into_iter().map(bf16::to_f32).collect(),
        };
        kernel::top_log_softmax(&values, c, banned, k, &mut top.classes, &mut top.scores);
        return Ok(top);
    }
    logits.device().check_host_read(OP)?;
    by_float!(OP, logits, T => {
        kernel::top_log_softmax(&logits.read::<T>(OP)?, c, banned, k, &mut top.classes, &mut top.scores);
        Ok(top)
    })
}
