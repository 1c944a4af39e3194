//! Layer normalisation.

use super::elementwise::{by_row, column_sums};
use super::module::Source;
use super::{Cuda, Drop, int, kind, launch, optional, vector};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{NormGradients, Normalised};
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// The kernels for a width: a warp keeps a row in registers, 256 elements a piece. `vec` says that rows are aligned; where
/// there are `many`, warps take fewer registers so that more of them run.
fn kernels(op: &'static str, d: usize, vec: i32, many: bool) -> Result<(&'static str, &'static str)> {
    match (d, d.div_ceil(256)) {
        (768, _) if vec != 0 && many => Ok(("norm_forward_768_many", "norm_backward_768")),
        (768, _) if vec != 0 => Ok(("norm_forward_768", "norm_backward_768")),
        (1024, _) if vec != 0 && many => Ok(("norm_forward_1024_many", "norm_backward_1024")),
        (1024, _) if vec != 0 => Ok(("norm_forward_1024", "norm_backward_1024")),
        (_, 0..=1) => Ok(("norm_forward_1", "norm_backward_1")),
        (_, 2) => Ok(("norm_forward_2", "norm_backward_2")),
        (_, 3) => Ok(("norm_forward_3", "norm_backward_3")),
        (_, 4) => Ok(("norm_forward_4", "norm_backward_4")),
        (_, 5..=16) => Ok(("norm_forward_16", "norm_backward_16")),
        _ => Err(Error::Unsupported {
            op,
            what: format!("a width of {d} (4096 is the most)"),
        }),
    }
}

pub(crate) fn layer_norm(
    cuda: &Cuda,
    x: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    dropout: Option<&Dropout>,
    [gamma, beta]: [&Tensor; 2],
    eps: f64,
) -> Result<Normalised> {
    const OP: &str = "layer_norm";
    let (n, d, dtype) = (x.num_rows(), x.width(), x.dtype());
    let kind = kind(OP, dtype)?;
    let plain = residual.is_none() && dropout.is_none() && bias.is_none();
    let new = |dtype, shape: &[usize]| Tensor::on_cuda(OP, cuda, dtype, shape);
    let sum = if plain { None } else { Some(new(dtype, x.shape())?) };
    let (y, mean, rstd) = (new(dtype, x.shape())?, new(DType::F32, &[n])?, new(DType::F32, &[n])?);
    let (xp, yp) = (x.cuda_pointer(OP, cuda, dtype)?, y.cuda_pointer(OP, cuda, dtype)?);
    let (rp, sp) = (
        optional(OP, cuda, residual, dtype)?,
        optional(OP, cuda, sum.as_ref(), dtype)?,
    );
    let shift = optional(OP, cuda, bias, DType::F32)?;
    let f32s = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
    let (gp, bp, mp, tp) = (f32s(gamma)?, f32s(beta)?, f32s(&mean)?, f32s(&rstd)?);
    let (drop, vec) = (
        Drop::new(OP, cuda, dropout)?,
        vector(d, &[xp, yp, rp, sp, gp, bp, shift]),
    );
    let kernel = (
        Source::Norm,
        kind,
        kernels(OP, d, vec, n > 16 * cuda.multiprocessors())?.0,
    );
    let (rows, columns, eps) = (int(OP, n)?, int(OP, d)?, eps as f32);
    // SAFETY: parameters as in norm.cu; matrices are [n, d], gamma and beta [d], mean and rstd [n].
    unsafe {
        launch!(
            cuda,
            kernel,
            by_row(n),
            256,
            0,
            xp,
            shift,
            rp,
            gp,
            bp,
            eps,
            drop,
            sp,
            yp,
            mp,
            tp,
            rows,
            columns,
            vec
        )?;
    }
    Ok(Normalised {
        y,
        sum: sum.unwrap_or_else(|| x.clone()),
        mean,
        rstd,
    })
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_gradient(
    cuda: &Cuda,
    dy: &Tensor,
    sum: &Tensor,
    mean: &Tensor,
    rstd: &Tensor,
    gamma: &Tensor,
    dropout: Option<&Dropout>,
    into: NormGradients<'_>,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    const OP: &str = "layer_norm_gradient";
    let (n, d, dtype) = (dy.num_rows(), dy.width(), dy.dtype());
    let kind = kind(OP, dtype)?;
    if into.dgamma.is_some() || into.dbeta.is_some() {
        column_sums(OP, cuda, dy, Some([sum, mean, rstd]), into.dbeta, into.dgamma)?;
    }
    let new = |wanted: bool| wanted.then(|| Tensor::on_cuda(OP, cuda, dtype, dy.shape())).transpose();
    // Without dropout both gradients are the gradient of the sum.
    let dresidual = new(into.residual || (into.x && dropout.is_none()))?;
    let dx = new(into.x && dropout.is_some())?;
    if dresidual.is_some() || dx.is_some() {
        let (dyp, sp) = (dy.cuda_pointer(OP, cuda, dtype)?, sum.cuda_pointer(OP, cuda, dtype)?);
        let f32s = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
        let (mp, tp, gp) = (f32s(mean)?, f32s(rstd)?, f32s(gamma)?);
        let (rp, xp) = (
            optional(OP, cuda, dresidual.as_ref(), dtype)?,
            optional(OP, cuda, dx.as_ref(), dtype)?,
        );
        let (drop, vec) = (Drop::new(OP, cuda, dropout)?, vector(d, &[dyp, sp, gp, rp, xp]));
        let kernel = (Source::Norm, kind, kernels(OP, d, vec, false)?.1);
        let (rows, columns) = (int(OP, n)?, int(OP, d)?);
        // SAFETY: parameters as in norm.cu; matrices are [n, d], gamma [d], mean and rstd [n].
        unsafe {
            launch!(
                cuda,
                kernel,
                by_row(n),
                256,
                0,
                dyp,
                sp,
                mp,
                tp,
                gp,
                drop,
                rp,
                xp,
                rows,
                columns,
                vec
            )?;
        }
    }
    let dx = if into.x { dx.or_else(|| dresidual.clone()) } else { None };
    Ok((dresidual.filter(|_| into.residual), dx))
}
