//! The two losses: cross-entropy and squared error, as weighted sums over rows.
//!
//! The gradient is computed with the value while the row is at hand; the backward pass only scales it, where the loss is
//! not itself what it begins with.

use dylora_tensor::ops::{self as kernels, CrossEntropy};
use dylora_tensor::{Result, Tensor};

use crate::op::{Backward, Op};
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    input: Input,
    gradient: Tensor,
}

/// The record of [`mse`]; the same as that of [`cross_entropy`].
pub(crate) type MseRecord = Record;

/// Cross-entropy of logits `[n, c]` against classes `[n]` i32; the loss is `[1]`.
///
/// # Errors
/// If shapes or types do not fit, or a class is not in 0..c.
pub fn cross_entropy(tape: &mut Tape, logits: &Var, targets: &Tensor, settings: &CrossEntropy) -> Result<Var> {
    let input = tape.input(logits)?;
    let wanted = input.wanted() && tape.is_recording();
    let (value, gradient) = kernels::cross_entropy(&logits.value, targets, settings, wanted)?;
    Ok(record(tape, input, value, gradient, Op::CrossEntropy))
}

/// `weight` times the sum of squared differences; predictions have n elements, targets are `[n]`; the loss is `[1]`.
///
/// # Errors
/// If the number or type of elements differs.
pub fn mse(tape: &mut Tape, prediction: &Var, targets: &Tensor, weight: f64) -> Result<Var> {
    let input = tape.input(prediction)?;
    let wanted = input.wanted() && tape.is_recording();
    let (value, gradient) = kernels::mse(&prediction.value, targets, weight, wanted)?;
    Ok(record(tape, input, value, gradient, Op::Mse))
}

fn record(tape: &mut Tape, input: Input, value: Tensor, gradient: Option<Tensor>, op: fn(Record) -> Op) -> Var {
    match gradient {
        Some(gradient) => tape.push(value, true, || op(Record { input, gradient })),
        None => tape.constant(&value),
    }
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.gradient]
    }

    fn backward(self, dloss: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        let dx = if sink.first {
            self.gradient
        } else {
            kernels::scale_by(&self.gradient, &dloss)?
        };
        sink.add(self.input, dx)
    }
}
