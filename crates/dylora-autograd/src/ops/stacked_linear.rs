//! A frozen linear layer with low-rank paths on some of its columns: y = x Wᵀ + bias, to which a path adds
//! s (z A[..b]ᵀ) B[:, ..b]ᵀ on its columns, with z = x or a dropout of x that is the path's own. The gradients of a path are
//! those of [`lora_linear`](super::lora_linear); dx is the sum over all columns. Kept: x and the paths' z A[..b]ᵀ; masks are
//! drawn again.

use std::ops::Range;

use dylora_tensor::ops::{self as kernels, LowRank, StackedPath};
use dylora_tensor::{Dropout, Result, Tensor};

use crate::op::{Backward, Op};
use crate::ops::Lora;
use crate::param::Parameter;
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    input: Input,
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    paths: Vec<(Parameter, Parameter, usize, Option<Dropout>)>,
    rank: usize,
    write: Range<usize>,
    scale: f64,
}

/// x `[n, d]` to `[n, m]` through the frozen W `[m, d]` and bias `[m]`, with low-rank paths that begin at the given columns, each
/// with the dropout of its input.
///
/// # Errors
/// If shapes or types do not fit, or the paths are not all of one rank and scale.
pub fn stacked_linear(
    tape: &mut Tape,
    x: &Var,
    weight: &Tensor,
    bias: &Tensor,
    paths: &[(Lora<'_>, usize, Option<Dropout>)],
) -> Result<Var> {
    let input = tape.input(x)?;
    let list: Vec<StackedPath<'_>> = paths
        .iter()
        .map(|(lora, column, dropout)| StackedPath {
            low: LowRank {
                a: lora.a.value(),
                b: lora.b.value(),
                rank: lora.slice.read,
                scale: lora.scale,
            },
            column: *column,
            dropout: *dropout,
        })
        .collect();
    let (value, h) = kernels::stacked_linear(&x.value, weight, bias, &list)?;
    Ok(tape.push(value, true, || {
        let first = paths.first().map(|(lora, ..)| lora);
        Op::StackedLinear(Record {
            input,
            x: x.value.clone(),
            h,
            weight: weight.clone(),
            paths: paths
                .iter()
                .map(|(lora, column, dropout)| (lora.a.clone(), lora.b.clone(), *column, *dropout))
                .collect(),
            rank: first.map_or(0, |lora| lora.slice.read),
            write: first.map_or(0..0, |lora| lora.slice.write.clone()),
            scale: first.map_or(0.0, |lora| lora.scale),
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.x, &self.h]
    }

    fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        let list: Vec<StackedPath<'_>> = self
            .paths
            .iter()
            .map(|(a, b, column, dropout)| StackedPath {
                low: LowRank {
                    a: a.value(),
                    b: b.value(),
                    rank: self.rank,
                    scale: self.scale,
                },
                column: *column,
                dropout: *dropout,
            })
            .collect();
        let into: Vec<_> = self.paths.iter().map(|(a, b, ..)| (a.grad(), b.grad())).collect();
        let onto = self.input.wanted().then(|| sink.take(self.input));
        let dx =
            kernels::stacked_linear_gradient(&dy, [&self.x, &self.h], &self.weight, &list, &into, self.write, onto)?;
        if let Some(dx) = dx {
            sink.put(self.input, dx);
        }
        Ok(())
    }
}
