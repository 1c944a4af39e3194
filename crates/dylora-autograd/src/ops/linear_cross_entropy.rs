//! Cross-entropy of logits x Wᵀ that never exist as a whole: they are made, and their gradient is used up, for some rows
//! at a time.
//!
//! With G = dloss/dlogits of a chunk of rows: dx = G W for its rows, dW += Gᵀ x. Both are computed with the value, while
//! the chunk's logits are at hand; the backward pass only scales them by the gradient of the loss. Kept: dx `[n, d]` and,
//! where W is trained, dW `[c, d]`, where the logits would be `[n, c]`.

use dylora_tensor::ops::{self as kernels, CrossEntropy};
use dylora_tensor::{Error, Result, Tensor};

use crate::op::{Backward, Op};
use crate::param::{Parameter, Weight};
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    input: Input,
    dx: Option<Tensor>,
    weight: Option<(Parameter, Tensor)>,
}

/// Cross-entropy of x `[n, d]` times W `[c, d]` transposed against classes `[n]` i32; the loss is `[1]`. At most `rows`
/// rows of logits exist at a time.
///
/// # Errors
/// If `rows` is 0, there is no row at all, shapes or types do not fit, or a class is not in 0..c.
pub fn linear_cross_entropy(
    tape: &mut Tape,
    x: &Var,
    weight: &Weight,
    targets: &Tensor,
    settings: &CrossEntropy,
    rows: usize,
) -> Result<Var> {
    const OP: &str = "linear_cross_entropy";
    let input = tape.input(x)?;
    let x = &x.value;
    let n = x.num_rows();
    if rows == 0 || n == 0 {
        return Err(Error::invalid(OP, format!("{n} rows in chunks of {rows}")));
    }
    if targets.shape() != [n] {
        return Err(Error::shape(OP, targets.shape(), &[n]));
    }
    let recording = tape.is_recording();
    let like = |t: &Tensor| Tensor::zeros(t.device(), t.dtype(), t.shape());
    let dx = (input.wanted() && recording).then(|| like(x)).transpose()?;
    let trained = weight.trained().filter(|_| recording);
    let trained = trained
        .map(|parameter| Ok::<_, Error>((parameter.clone(), like(parameter.grad())?)))
        .transpose()?;
    let wanted = dx.is_some() || trained.is_some();
    let mut total: Option<Tensor> = None;
    for start in (0..n).step_by(rows) {
        let range = start..n.min(start + rows);
        let part = x.rows(range.clone())?;
        let logits = kernels::linear(&part, weight.value(), None)?;
        let (loss, gradient) = kernels::cross_entropy(&logits, &targets.rows(range.clone())?, settings, wanted)?;
        if let Some(gradient) = gradient {
            if let Some(dx) = &dx {
                let made = kernels::linear_input_gradient(&gradient, weight.value(), None)?;
                dx.rows(range)?.copy_from(&made)?;
            }
            if let Some((_, dw)) = &trained {
                kernels::linear_weight_gradient(&gradient, &part, dw)?;
            }
        }
        total = Some(match total {
            None => loss,
            Some(sum) => kernels::add(&sum, &loss)?,
        });
    }
    let total = total.ok_or_else(|| Error::invalid(OP, "no rows"))?;
    Ok(tape.push(total, wanted, || {
        Op::LinearCrossEntropy(Record {
            input,
            dx,
            weight: trained,
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        self.dx.iter().chain(self.weight.as_ref().map(|(_, dw)| dw)).collect()
    }

    fn backward(self, dloss: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        if let Some((parameter, dw)) = &self.weight {
            kernels::add_into(&kernels::scale_by(dw, &dloss)?, parameter.grad())?;
        }
        match &self.dx {
            Some(dx) => sink.add(self.input, kernels::scale_by(dx, &dloss)?),
            None => Ok(()),
        }
    }
}
