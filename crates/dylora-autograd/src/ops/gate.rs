//! y = x ∘ z with z the same for every row; dx = dy ∘ z, dz = Σ over rows of x ∘ dy. x is kept only if z wants a gradient.

use dylora_tensor::{Result, Tensor, ops as kernels};

use crate::op::{Backward, Op};
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    x: Input,
    z: Input,
    /// What the gradient of z needs.
    values: Option<Tensor>,
    /// What that of x needs.
    gates: Option<Tensor>,
}

/// x `[n, k]` with column j times element j of z `[k]`: gates on the components of a factorised matrix.
///
/// # Errors
/// If shapes or types do not fit.
pub fn gate(tape: &mut Tape, x: &Var, z: &Var) -> Result<Var> {
    let (input, gates) = (tape.input(x)?, tape.input(z)?);
    let value = kernels::gate(&x.value, &z.value)?;
    Ok(tape.push(value, input.wanted() || gates.wanted(), || {
        Op::Gate(Record {
            x: input,
            z: gates,
            values: gates.wanted().then(|| x.value.clone()),
            gates: input.wanted().then(|| z.value.clone()),
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        self.values.iter().chain(&self.gates).collect()
    }

    fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        if let Some(x) = &self.values {
            sink.add(self.z, kernels::gate_gradient(x, &dy)?)?;
        }
        if let Some(z) = &self.gates {
            sink.add(self.x, kernels::gate(&dy, z)?)?;
        }
        Ok(())
    }
}
