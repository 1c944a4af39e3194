//! The residual stream of a pre-norm block.

use super::elementwise::{by_row, column_sums};
use super::module::Source;
use super::{Cuda, Drop, int, kind, launch, optional, vector};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::NormGradients;
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// The kernel for a width; a warp takes a row, 256 elements a piece.
fn backward(op: &'static str, d: usize) -> Result<&'static str> {
    match d.div_ceil(256) {
        0..=1 => Ok("residual_norm_backward_1"),
        2 => Ok("residual_norm_backward_2"),
        3 => Ok("residual_norm_backward_3"),
        4 => Ok("residual_norm_backward_4"),
        5..=8 => Ok("residual_norm_backward_8"),
        9..=16 => Ok("residual_norm_backward_16"),
        _ => Err(Error::Unsupported {
            op,
            what: format!("a width of {d} (4096 is the most)"),
        }),
    }
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn residual_norm_gradient(
    cuda: &Cuda,
    dy: &Tensor,
    above: Option<&Tensor>,
    [sum, mean, rstd]: [&Tensor; 3],
    gamma: &Tensor,
    dropout: Option<&Dropout>,
    into: NormGradients<'_>,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    const OP: &str = "residual_norm_gradient";
    let (n, d, dtype) = (dy.num_rows(), dy.width(), dy.dtype());
    let kind = kind(OP, dtype)?;
    if into.dgamma.is_some() || into.dbeta.is_some() {
        column_sums(OP, cuda, dy, Some([sum, mean, rstd]), into.dbeta, into.dgamma)?;
    }
    let new = |wanted: bool| wanted.then(|| Tensor::on_cuda(OP, cuda, dtype, dy.shape())).transpose();
    // Without dropout both gradients are the gradient of the sum.
    let dx = new(into.residual || (into.x && dropout.is_none()))?;
    let dout = new(into.x && dropout.is_some())?;
    if dx.is_some() || dout.is_some() {
        let (dyp, sp) = (dy.cuda_pointer(OP, cuda, dtype)?, sum.cuda_pointer(OP, cuda, dtype)?);
        let f32s = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
        let (mp, tp, gp) = (f32s(mean)?, f32s(rstd)?, f32s(gamma)?);
        let at = |t: Option<&Tensor>| optional(OP, cuda, t, dtype);
        let (ap, xp, op) = (at(above)?, at(dx.as_ref())?, at(dout.as_ref())?);
        let kernel = (Source::Residual, kind, backward(OP, d)?);
        let (drop, vec) = (Drop::new(OP, cuda, dropout)?, vector(d, &[dyp, ap, sp, gp, xp, op]));
        let (rows, columns) = (int(OP, n)?, int(OP, d)?);
        // SAFETY: parameters as in residual.cu; matrices are [n, d], gamma [d], mean and rstd [n].
        unsafe {
            launch!(
                cuda,
                kernel,
                by_row(n),
                256,
                0,
                dyp,
                ap,
                sp,
                mp,
                tp,
                gp,
                drop,
                xp,
                op,
                rows,
                columns,
                vec
            )?;
        }
    }
    let dout = if into.x { dout.or_else(|| dx.clone()) } else { None };
    Ok((dx.filter(|_| into.residual), dout))
}
