//! GELU behind a frozen bias: y = gelu(x + bias), dx = dy gelu'(x + bias); x is kept.

use dylora_tensor::ops::{self as kernels, Gelu};
use dylora_tensor::{Result, Tensor};

use crate::op::{Backward, Op};
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    input: Input,
    kind: Gelu,
    x: Tensor,
    bias: Tensor,
}

/// GELU of x `[n, d]` + bias `[d]`, which does not learn.
///
/// # Errors
/// If shapes or types do not fit.
pub fn bias_gelu(tape: &mut Tape, x: &Var, bias: &Tensor, kind: Gelu) -> Result<Var> {
    let input = tape.input(x)?;
    let value = kernels::bias_gelu(kind, &x.value, bias)?;
    Ok(tape.push(value, input.wanted(), || {
        Op::BiasGelu(Record {
            input,
            kind,
            x: x.value.clone(),
            bias: bias.clone(),
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.x]
    }

    fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        let dx = kernels::bias_gelu_gradient(self.kind, &self.x, &self.bias, &dy)?;
        sink.add(self.input, dx)
    }
}
