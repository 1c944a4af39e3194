//! Cross-entropy of logits x Wᵀ that never exist as a whole: they are made, and their gradient is used up, for some rows
//! at a time.
//!
//! With G = dloss/dlogits of a chunk of rows: dx = G W for its rows, dW += Gᵀ x. Both are computed with the value, while
//! the chunk's logits are at hand; the backward pass only scales them by the gradient of the loss, where that is not the 1
//! it begins with. Kept: dx `[n, d]` and, where W is trained, dW `[c, d]`, where the logits would be `[n, c]`.

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

/// Cross-entropy of x `[n, d]` times the first `classes` rows of W `[c, d]` transposed against classes `[n]` i32; the loss is
/// `[1]`. At most `rows` rows of logits exist at a time. A W that learns has no rows beyond `classes`.
///
/// # Errors
/// If `rows` is 0, there is no row at all, shapes or types do not fit, or a class is not in 0..`classes`.
pub fn linear_cross_entropy(
    tape: &mut Tape,
    x: &Var,
    weight: &Weight,
    classes: usize,
    targets: &Tensor,
    settings: &CrossEntropy,
    rows: usize,
) -> Result<Var> {
    let input = tape.input(x)?;
    let recording = tape.is_recording();
    let trained = weight.trained().filter(|_| recording);
    let trained = trained
        .map(|parameter| {
            let grad = parameter.grad();
            let dw = Tensor::zeros(grad.device(), grad.dtype(), grad.shape())?;
            Ok::<_, Error>((parameter.clone(), dw))
        })
        .transpose()?;
    let wanted = input.wanted() && recording;
    let dw = trained.as_ref().map(|(_, dw)| dw);
    let made = kernels::linear_cross_entropy(&x.value, weight.value(), classes, targets, settings, rows, wanted, dw)?;
    Ok(tape.push(made.loss, wanted || trained.is_some(), || {
        Op::LinearCrossEntropy(Record {
            input,
            dx: made.dx,
            weight: trained,
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        self.dx.iter().chain(self.weight.as_ref().map(|(_, dw)| dw)).collect()
    }

    fn backward(self, dloss: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        let first = sink.first;
        let scaled = |t: Tensor| if first { Ok(t) } else { kernels::scale_by(&t, &dloss) };
        if let Some((parameter, dw)) = self.weight {
            kernels::add_into(&scaled(dw)?, parameter.grad())?;
        }
        match self.dx {
            Some(dx) => sink.add(self.input, scaled(dx)?),
            None => Ok(()),
        }
    }
}
