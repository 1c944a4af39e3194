//! A pre-norm block's residual stream s = x + dropout(out + bias) and its layer normalisation y, made together.
//!
//! Two records, one for each value: the formulas are those of [`add`](super::add), [`dropout`](super::dropout) and
//! [`layer_norm`](super::layer_norm). y's comes last, so it goes first in the backward pass, when all else that read s has
//! given its gradient: it takes that, adds its own, and hands both inputs theirs. s's own record is for a loss that does not
//! depend on y. Kept: s, its mean and inverse deviation.

use dylora_tensor::ops::{self as kernels, NormGradients};
use dylora_tensor::{Dropout, Result, Tensor};

use crate::op::{Backward, Op};
use crate::param::Weight;
use crate::sink::{GradSink, Input};
use crate::tape::Tape;
use crate::var::Var;

#[derive(Debug)]
pub(crate) struct Record {
    x: Input,
    out: Input,
    dropout: Option<Dropout>,
}

#[derive(Debug)]
pub(crate) struct NormRecord {
    stream: Input,
    x: Input,
    out: Input,
    dropout: Option<Dropout>,
    sum: Tensor,
    mean: Tensor,
    rstd: Tensor,
    gamma: Weight,
    beta: Weight,
}

/// s = x + dropout(out + bias) for x and out `[n, d]`, and the layer normalisation of its rows; the bias, where there is one,
/// does not learn.
///
/// # Errors
/// If shapes or types do not fit.
pub fn residual_norm(
    tape: &mut Tape,
    x: &Var,
    out: &Var,
    bias: Option<&Tensor>,
    dropout: Option<Dropout>,
    [gamma, beta]: [&Weight; 2],
    eps: f64,
) -> Result<(Var, Var)> {
    let (x_input, out_input) = (tape.input(x)?, tape.input(out)?);
    let values = [gamma.value(), beta.value()];
    let n = kernels::residual_norm(&x.value, &out.value, bias, dropout, values, eps)?;
    let wanted = x_input.wanted() || out_input.wanted();
    let stream = tape.push(n.sum.clone(), wanted, || {
        Op::Residual(Record {
            x: x_input,
            out: out_input,
            dropout,
        })
    });
    let at = tape.input(&stream)?;
    let wanted = wanted || gamma.trained().is_some() || beta.trained().is_some();
    let normed = tape.push(n.y, wanted, || {
        Op::ResidualNorm(NormRecord {
            stream: at,
            x: x_input,
            out: out_input,
            dropout,
            sum: n.sum,
            mean: n.mean,
            rstd: n.rstd,
            gamma: gamma.clone(),
            beta: beta.clone(),
        })
    });
    Ok((stream, normed))
}

impl Backward for Record {
    fn saved(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn backward(self, ds: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        sink.add(self.x, ds.clone())?;
        if !self.out.wanted() {
            return Ok(());
        }
        let dout = match self.dropout {
            Some(dropout) => kernels::dropout(&ds, dropout)?,
            None => ds,
        };
        sink.add(self.out, dout)
    }
}

impl Backward for NormRecord {
    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.sum, &self.mean, &self.rstd]
    }

    fn backward(self, dy: Tensor, sink: &mut GradSink<'_>) -> Result<()> {
        let above = sink.take(self.stream);
        let (dx, dout) = kernels::residual_norm_gradient(
            &dy,
            above,
            [&self.sum, &self.mean, &self.rstd],
            self.gamma.value(),
            self.dropout,
            NormGradients {
                residual: self.x.wanted(),
                x: self.out.wanted(),
                dgamma: self.gamma.trained().map(|p| p.grad()),
                dbeta: self.beta.trained().map(|p| p.grad()),
            },
        )?;
        if let Some(dx) = dx {
            sink.add(self.x, dx)?;
        }
        dout.map_or(Ok(()), |dout| sink.add(self.out, dout))
    }
}
