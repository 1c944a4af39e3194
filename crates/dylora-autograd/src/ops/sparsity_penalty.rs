//! L = λ₁ (s - t) + λ₂ (s - t)², s = 1 - Σ shareᵢ σ(log αᵢ + shift);
//! dlog αᵢ = -(λ₁ + 2 λ₂ (s - t)) shareᵢ σ (1 - σ), dλ₁ = s - t, dλ₂ = (s - t)², each times dL. s - t is kept.

use dylora_tensor::ops::{HardConcrete, SparsityPenalty};
use dylora_tensor::{Result, Tensor, ops as kernels};

use crate::op::{Backward, Op};
use crate::param::Parameter;
use crate::sink::GradSink;
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    log_alpha: Parameter,
    lambda: Parameter,
    shares: Tensor,
    target: f64,
    distribution: HardConcrete,
    excess: Tensor,
}

/// The augmented Lagrangian of the expected sparsity of gates log α `[k]`, whose components have these shares `[k]` of all
/// prunable numbers, against a target, with multipliers λ `[2]`; the result is `[1]`. Gates descend on it, multipliers ascend.
///
/// # Errors
/// If shapes or types do not fit, or inside a pass of a step, which would keep its first target.
pub fn sparsity_penalty(
    tape: &mut Tape,
    log_alpha: &Parameter,
    lambda: &Parameter,
    shares: &Tensor,
    target: f64,
    distribution: &HardConcrete,
) -> Result<Var> {
    let args = SparsityPenalty {
        log_alpha: log_alpha.value(),
        shares,
        lambda: lambda.value(),
        target,
        distribution: *distribution,
    };
    let (value, excess) = kernels::sparsity_penalty(&args)?;
    Ok(tape.push(value, true, || {
        Op::SparsityPenalty(Record {
            log_alpha: log_alpha.clone(),
            lambda: lambda.clone(),
            shares: shares.clone(),
            target,
            distribution: *distribution,
            excess,
        })
    }))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.excess]
    }

    fn backward(self, dy: Tensor, _sink: &mut GradSink<'_>) -> Result<()> {
        let args = SparsityPenalty {
            log_alpha: self.log_alpha.value(),
            shares: &self.shares,
            lambda: self.lambda.value(),
            target: self.target,
            distribution: self.distribution,
        };
        let (gates, multipliers) = (self.log_alpha.grad(), self.lambda.grad());
        kernels::sparsity_penalty_gradient(&args, &self.excess, &dy, gates, multipliers)
    }
}
