//! A linear layer with a low-rank path: y = x Wᵀ + bias + s h B[:, ..b]ᵀ with h = x A[..b]ᵀ and s a factor, alpha / b unless told otherwise.
//!
//! With dh = s dy B[:, ..b]: dx = dy W + dh A[..b] over all b ranks read, but dA[w] = dh[:, w]ᵀ x and
//! dB[:, w] = s dyᵀ h[:, w] only for the ranks w that learn. Kept: x and h (x is shared by layers that read it).
//! Source: DyLoRA, equations 5 to 9.

use std::ops::Range;

use dylora_tensor::ops::{self as kernels, LowRank, LowRankGradients};
use dylora_tensor::{Result, Tensor};

use crate::op::{Backward, Op};
use crate::param::{Parameter, Weight};
use crate::sink::{GradSink, Input};
use crate::slice::RankSlice;
use crate::tape::Tape;
use crate::var::Var;

/// A low-rank path and the slice of it that a step uses.
#[derive(Clone, Debug)]
pub struct Lora<'a> {
    /// A (down projection), `[r, d]`.
    pub a: &'a Parameter,
    /// B (up projection), `[m, r]`.
    pub b: &'a Parameter,
    /// What is read and what learns.
    pub slice: RankSlice,
    /// The factor s on the product.
    pub scale: f64,
}

#[derive(Debug)]
pub(crate) struct Record {
    input: Input,
    x: Tensor,
    h: Tensor,
    base: Option<Weight>,
    bias: Option<Parameter>,
    a: Parameter,
    b: Parameter,
    rank: usize,
    write: Range<usize>,
    scale: f64,
}

/// A linear layer plus its low-rank path: x `[n, d]`, W `[m, d]`, bias `[m]`; the result is `[n, m]`.
///
/// # Errors
/// If shapes or types do not fit, or the rank is not in 1..=r.
pub fn lora_linear(tape: &mut Tape, x: &Var, weight: &Weight, bias: Option<&Weight>, lora: &Lora<'_>) -> Result<Var> {
    record(tape, x, Some((weight, bias)), lora)
}

/// The low-rank path alone: scale (x A[..b]ᵀ) B[:, ..b]ᵀ.
///
/// # Errors
/// If shapes or types do not fit, or the rank is not in 1..=r.
pub fn low_rank(tape: &mut Tape, x: &Var, lora: &Lora<'_>) -> Result<Var> {
    record(tape, x, None, lora)
}

fn record(tape: &mut Tape, x: &Var, base: Option<(&Weight, Option<&Weight>)>, lora: &Lora<'_>) -> Result<Var> {
    let input = tape.input(x)?;
    let low = LowRank {
        a: lora.a.value(),
        b: lora.b.value(),
        rank: lora.slice.read,
        scale: lora.scale,
    };
    let values = base.map(|(weight, bias)| (weight.value(), bias.map(Weight::value)));
    let (value, h) = kernels::lora_linear(&x.value, values, &low)?;
    Ok(tape.push(value, true, || {
        Op::LoraLinear(Record {
            input,
            x: x.value.clone(),
            h,
            base: base.map(|(weight, _)| weight.clone()),
            bias: base.and_then(|(_, bias)| bias).and_then(Weight::trained).cloned(),
            a: lora.a.clone(),
            b: lora.b.clone(),
            rank: lora.slice.read,
            write: lora.slice.write.clone(),
            scale: lora.scale,
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.x, &self.h]
    }

    fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        if let Some(bias) = &self.bias {
            kernels::column_sum_into(&dy, bias.grad())?;
        }
        if let Some(weight) = self.base.as_ref().and_then(Weight::trained) {
            kernels::linear_weight_gradient(&dy, &self.x, weight.grad())?;
        }
        let dx = kernels::lora_linear_gradient(
            &dy,
            &self.x,
            &self.h,
            self.base.as_ref().map(Weight::value),
            &LowRank {
                a: self.a.value(),
                b: self.b.value(),
                rank: self.rank,
                scale: self.scale,
            },
            LowRankGradients {
                da: Some(self.a.grad()),
                db: Some(self.b.grad()),
                write: self.write,
                dx: self.input.wanted().then(|| sink.take(self.input)),
            },
        )?;
        if let Some(dx) = dx {
            sink.put(self.input, dx);
        }
        Ok(())
    }
}
