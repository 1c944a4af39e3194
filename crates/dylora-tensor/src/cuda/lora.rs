//! The linear layer with a low-rank path. Launch sizes depend on r, never on the rank of the step.

use std::ops::Range;

use super::elementwise::{chunk_rows, linear, linear_input_gradient};
use super::module::Source;
use super::{Cuda, int, kind, launch, optional, vector};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::{LowRank, LowRankGradients};
use crate::tensor::Tensor;

/// A or B with the strides of its ranks and of its other side: W(k, j) = w[k ks + j js].
struct Factor<'a> {
    tensor: &'a Tensor,
    /// Ranks stored and ranks in use.
    ranks: (usize, usize),
    strides: (usize, usize),
}

impl<'a> Factor<'a> {
    fn a(low: &LowRank<'a>) -> Self {
        let (r, d) = (low.a.num_rows(), low.a.width());
        Factor {
            tensor: low.a,
            ranks: (r, low.rank),
            strides: (d, 1),
        }
    }

    fn b(low: &LowRank<'a>) -> Self {
        let r = low.b.width();
        Factor {
            tensor: low.b,
            ranks: (r, low.rank),
            strides: (1, r),
        }
    }
}

/// out `[n, r]`, f32 = scale x Wᵀ; columns beyond the rank in use are zero.
fn dot(op: &'static str, cuda: &Cuda, x: &Tensor, factor: &Factor<'_>, scale: f64) -> Result<Tensor> {
    let (n, d, (r, b)) = (x.num_rows(), x.width(), factor.ranks);
    let out = Tensor::on_cuda(op, cuda, DType::F32, &[n, r])?;
    let xp = x.cuda_pointer(op, cuda, x.dtype())?;
    let wp = factor.tensor.cuda_pointer(op, cuda, DType::F32)?;
    let at = out.cuda_pointer(op, cuda, DType::F32)?;
    let kernel = (Source::Lora, kind(op, x.dtype())?, "lora_dot");
    let (ks, js) = (int(op, factor.strides.0)?, int(op, factor.strides.1)?);
    let (height, width, r, b) = (int(op, n)?, int(op, d)?, int(op, r)?, int(op, b)?);
    let (scale, vec) = (scale as f32, vector(d, &[xp]));
    let grid = (n.div_ceil(32), 1, 1);
    // SAFETY: parameters as in lora.cu; x is [n, d], the factor has r ranks and d columns, out is [n, r].
    unsafe {
        launch!(
            cuda, kernel, grid, 256, 0, xp, wp, at, height, width, r, b, ks, js, scale, vec
        )?
    };
    Ok(out)
}

/// y = (y if `accumulate`) + bias + scale h W.
#[allow(clippy::too_many_arguments)]
fn outer(
    op: &'static str,
    cuda: &Cuda,
    h: &Tensor,
    factor: &Factor<'_>,
    bias: Option<&Tensor>,
    y: &Tensor,
    scale: f64,
    accumulate: bool,
) -> Result<()> {
    let (n, d, (r, b)) = (y.num_rows(), y.width(), factor.ranks);
    let hp = h.cuda_pointer(op, cuda, DType::F32)?;
    let wp = factor.tensor.cuda_pointer(op, cuda, DType::F32)?;
    let bp = optional(op, cuda, bias, DType::F32)?;
    let yp = y.cuda_pointer(op, cuda, y.dtype())?;
    let kernel = (Source::Lora, kind(op, y.dtype())?, "lora_outer");
    let (ks, js) = (int(op, factor.strides.0)?, int(op, factor.strides.1)?);
    let (height, width, r, b) = (int(op, n)?, int(op, d)?, int(op, r)?, int(op, b)?);
    let (scale, accumulate, vec) = (scale as f32, i32::from(accumulate), vector(d, &[yp, bp]));
    let rows = 32;
    let grid = (d.div_ceil(256), n.div_ceil(rows), 1);
    let rows = int(op, rows)?;
    // SAFETY: parameters as in lora.cu; h is [n, r], y [n, d], the bias [d].
    unsafe {
        launch!(
            cuda, kernel, grid, 256, 0, hp, wp, bp, yp, height, width, r, b, ks, js, scale, accumulate, rows, vec
        )
    }
}

/// The gradient of a factor, for the ranks in `write` alone: G += scale hᵀ x.
#[allow(clippy::too_many_arguments)]
fn reduce(
    op: &'static str,
    cuda: &Cuda,
    h: &Tensor,
    x: &Tensor,
    factor: &Factor<'_>,
    target: &Tensor,
    write: &Range<usize>,
    scale: f64,
) -> Result<()> {
    let (n, d, r) = (x.num_rows(), x.width(), factor.ranks.0);
    if n == 0 || write.is_empty() {
        return Ok(());
    }
    let rows = chunk_rows(n);
    let chunks = n.div_ceil(rows);
    let partial = Tensor::on_cuda(op, cuda, DType::F32, &[chunks, r, d])?;
    let part = partial.cuda_pointer(op, cuda, DType::F32)?;
    let hp = h.cuda_pointer(op, cuda, DType::F32)?;
    let xp = x.cuda_pointer(op, cuda, x.dtype())?;
    let gp = target.cuda_pointer(op, cuda, DType::F32)?;
    let kind = kind(op, x.dtype())?;
    let (ks, js) = (int(op, factor.strides.0)?, int(op, factor.strides.1)?);
    let (first, last) = (int(op, write.start)?, int(op, write.end)?);
    let (height, width, ranks, vec) = (int(op, n)?, int(op, d)?, int(op, r)?, vector(d, &[xp]));
    // SAFETY: parameters as in lora.cu; h is [n, r], x [n, d], and the target has the factor's shape.
    unsafe {
        let kernel = (Source::Lora, kind, "lora_reduce");
        let grid = (d.div_ceil(256), chunks, 1);
        launch!(
            cuda,
            kernel,
            grid,
            256,
            0,
            hp,
            xp,
            part,
            height,
            width,
            ranks,
            int(op, rows)?,
            vec
        )?;
        let kernel = (Source::Lora, kind, "lora_finish");
        let grid = (d.div_ceil(256), r, 1);
        let (chunks, scale) = (int(op, chunks)?, scale as f32);
        launch!(
            cuda, kernel, grid, 256, 0, part, gp, chunks, ranks, width, first, last, ks, js, scale
        )
    }
}

/// y and h `[n, r]`, whose columns beyond the rank in use are zero.
pub(crate) fn lora_linear(
    cuda: &Cuda,
    x: &Tensor,
    base: Option<(&Tensor, Option<&Tensor>)>,
    low: &LowRank<'_>,
    shape: &[usize],
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "lora_linear";
    let h = dot(OP, cuda, x, &Factor::a(low), 1.0)?;
    let y = match base {
        Some((weight, _)) => linear(cuda, x, weight, None, shape)?,
        None => Tensor::on_cuda(OP, cuda, x.dtype(), shape)?,
    };
    let bias = base.and_then(|(_, bias)| bias);
    outer(OP, cuda, &h, &Factor::b(low), bias, &y, low.scale, base.is_some())?;
    Ok((y, h))
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn lora_linear_gradient(
    cuda: &Cuda,
    dy: &Tensor,
    x: &Tensor,
    h: &Tensor,
    weight: Option<&Tensor>,
    low: &LowRank<'_>,
    write: &Range<usize>,
    into: LowRankGradients<'_>,
) -> Result<Option<Tensor>> {
    const OP: &str = "lora_linear_gradient";
    let (a, b) = (Factor::a(low), Factor::b(low));
    if let Some(db) = into.db {
        reduce(OP, cuda, h, dy, &b, db, write, low.scale)?;
    }
    if into.da.is_none() && into.dx.is_none() {
        return Ok(None);
    }
    let dh = dot(OP, cuda, dy, &b, low.scale)?;
    if let Some(da) = into.da {
        reduce(OP, cuda, &dh, x, &a, da, write, 1.0)?;
    }
    let Some(onto) = into.dx else { return Ok(None) };
    let (dx, accumulate) = match weight {
        Some(weight) => (linear_input_gradient(cuda, dy, weight, onto, x.shape())?, true),
        None => Tensor::cuda_target(OP, onto, cuda, dy.dtype(), x.shape())?,
    };
    outer(OP, cuda, &dh, &a, None, &dx, 1.0, accumulate)?;
    Ok(Some(dx))
}
