//! z = clamp(s (high - low) + low, 0, 1), s = sigmoid((ln u - ln(1 - u) + log α) / β) for a uniform u of the step;
//! dlog α = dz (high - low) s (1 - s) / β where z was not cut. u is drawn again, not stored.

use std::ops::Range;

use dylora_tensor::ops::HardConcrete;
use dylora_tensor::{Draw, Result, Tensor, ops as kernels};

use crate::op::{Backward, Op};
use crate::param::Parameter;
use crate::sink::GradSink;
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    log_alpha: Parameter,
    range: Range<usize>,
    distribution: HardConcrete,
    draw: Draw,
}

/// Drawn gates `[range]` of those parameters log α `[gates]`: the reparameterised sample whose gradient trains them.
///
/// # Errors
/// If the range leaves the parameters, or the draw is not the running pass' own.
pub fn hard_concrete(
    tape: &mut Tape,
    log_alpha: &Parameter,
    range: Range<usize>,
    distribution: &HardConcrete,
    draw: Draw,
) -> Result<Var> {
    let value = kernels::hard_concrete(&log_alpha.value().rows(range.clone())?, distribution, draw)?;
    Ok(tape.push(value, true, || {
        Op::HardConcrete(Record {
            log_alpha: log_alpha.clone(),
            range,
            distribution: *distribution,
            draw,
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn backward(self, dy: Tensor, _sink: &mut GradSink<'_>) -> Result<()> {
        let value = self.log_alpha.value().rows(self.range.clone())?;
        let gradient = self.log_alpha.grad().rows(self.range)?;
        kernels::hard_concrete_gradient(&value, &self.distribution, self.draw, &dy, &gradient)
    }
}
