//! The linear layer with low-rank paths: on tensor cores in bf16 at the usual sizes, the plain form otherwise. Launch sizes
//! depend on r, never on the rank of the step.

use std::ops::Range;

use super::elementwise::{chunk_rows, linear, linear_input_gradient, operand};
use super::lora_drop;
use super::module::{Kind, Source};
use super::{Cuda, cast, int, kind, launch, optional, vector};
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
    /// alpha / b, which some of the products take.
    scale: f64,
}

impl<'a> Factor<'a> {
    fn a(low: &LowRank<'a>) -> Self {
        let (r, d) = (low.a.num_rows(), low.a.width());
        Factor {
            tensor: low.a,
            ranks: (r, low.rank),
            strides: (d, 1),
            scale: low.scale,
        }
    }

    fn b(low: &LowRank<'a>) -> Self {
        let r = low.b.width();
        Factor {
            tensor: low.b,
            ranks: (r, low.rank),
            strides: (1, r),
            scale: low.scale,
        }
    }

    fn scaled(&self, scaled: bool) -> f32 {
        if scaled { self.scale as f32 } else { 1.0 }
    }
}

/// out `[n, r]`, f32 = scale x Wᵀ; columns beyond the rank in use are zero.
fn dot(op: &'static str, cuda: &Cuda, x: &Tensor, factor: &Factor<'_>, scaled: bool) -> Result<Tensor> {
    let (n, d, (r, b)) = (x.num_rows(), x.width(), factor.ranks);
    let out = Tensor::on_cuda(op, cuda, DType::F32, &[n, r])?;
    let xp = x.cuda_pointer(op, cuda, x.dtype())?;
    let wp = factor.tensor.cuda_pointer(op, cuda, DType::F32)?;
    let at = out.cuda_pointer(op, cuda, DType::F32)?;
    let kernel = (Source::Lora, kind(op, x.dtype())?, "lora_dot");
    let (ks, js) = (int(op, factor.strides.0)?, int(op, factor.strides.1)?);
    let live = cuda.live_ranks(op, b, factor.scale)?;
    let (scale, vec) = (factor.scaled(scaled), vector(d, &[xp]));
    let (height, width, r, b) = (int(op, n)?, int(op, d)?, int(op, r)?, int(op, b)?);
    let scaled = i32::from(scaled);
    let grid = (n.div_ceil(32), 1, 1);
    // SAFETY: parameters as in lora.cu; x is [n, d], the factor has r ranks and d columns, out is [n, r].
    unsafe {
        launch!(
            cuda, kernel, grid, 256, 0, xp, wp, at, height, width, r, b, ks, js, scale, vec, live, scaled
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
    scaled: bool,
    accumulate: bool,
) -> Result<()> {
    let (n, d, (r, b)) = (y.num_rows(), y.width(), factor.ranks);
    let hp = h.cuda_pointer(op, cuda, DType::F32)?;
    let wp = factor.tensor.cuda_pointer(op, cuda, DType::F32)?;
    let bp = optional(op, cuda, bias, DType::F32)?;
    let yp = y.cuda_pointer(op, cuda, y.dtype())?;
    let kernel = (Source::Lora, kind(op, y.dtype())?, "lora_outer");
    let (ks, js) = (int(op, factor.strides.0)?, int(op, factor.strides.1)?);
    let live = cuda.live_ranks(op, b, factor.scale)?;
    let (height, width, r, b) = (int(op, n)?, int(op, d)?, int(op, r)?, int(op, b)?);
    let (scale, accumulate, vec) = (factor.scaled(scaled), i32::from(accumulate), vector(d, &[yp, bp]));
    let scaled = i32::from(scaled);
    let rows = 32;
    let grid = (d.div_ceil(256), n.div_ceil(rows), 1);
    let rows = int(op, rows)?;
    // SAFETY: parameters as in lora.cu; h is [n, r], y [n, d], the bias [d].
    unsafe {
        launch!(
            cuda, kernel, grid, 256, 0, hp, wp, bp, yp, height, width, r, b, ks, js, scale, accumulate, rows, vec,
            live, scaled
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
    scaled: bool,
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
        let (chunks, scale) = (int(op, chunks)?, factor.scaled(scaled));
        let live = cuda.live_writes(op, factor.ranks.1, write, factor.scale)?;
        let scaled = i32::from(scaled);
        launch!(
            cuda, kernel, grid, 256, 0, part, gp, chunks, ranks, width, first, last, ks, js, scale, live, scaled
        )
    }
}

/// Ranks, and columns on either side, that the tensor core kernels take.
const MOST_RANKS: usize = 8;
const WIDEST: usize = 1024;

/// Whether `count` paths of rank r from `d` columns to `wide` columns each run on tensor cores; with `dropout` each reads
/// x through a dropout of its own.
pub(crate) fn stacks(cuda: &Cuda, dtype: DType, d: usize, wide: usize, r: usize, count: usize, dropout: bool) -> bool {
    let bytes = if dropout {
        lora_drop::tiles_bytes(d, wide, count)
    } else {
        tiles_bytes(d, wide, count, r, 1)
    };
    let fits = |side: usize| side.is_multiple_of(32) && (1..=WIDEST).contains(&side);
    dtype == DType::Bf16
        && (1..=2).contains(&count)
        && (1..=MOST_RANKS).contains(&r)
        && fits(d)
        && fits(wide)
        && bytes <= cuda.shared_limit()
}

/// Shared memory of the gradient kernel: 16 rows of x and of each path's dy for each tile, and of h for two.
fn tiles_bytes(d: usize, wide: usize, count: usize, r: usize, tiles: usize) -> usize {
    tiles * 16 * 2 * (d + 8 + count * (wide + 8)) + 2 * 16 * 4 * count * r
}

/// Paths as kernels take them.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Path {
    factors: [u64; 2],
    gradients: [u64; 2],
    column: i32,
    pad: i32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Paths {
    at: [Path; 2],
}

/// Where the gradients of A and B of a path go.
pub(crate) type PathGradients<'a> = (Option<&'a Tensor>, Option<&'a Tensor>);

pub(super) fn paths_of(
    op: &'static str,
    cuda: &Cuda,
    paths: &[(LowRank<'_>, usize)],
    targets: &[PathGradients<'_>],
) -> Result<Paths> {
    let mut list = Paths::default();
    for (i, (low, column)) in paths.iter().enumerate() {
        let (da, db) = targets.get(i).copied().unwrap_or_default();
        list.at[i] = Path {
            factors: [
                low.a.cuda_pointer(op, cuda, DType::F32)?,
                low.b.cuda_pointer(op, cuda, DType::F32)?,
            ],
            gradients: [optional(op, cuda, da, DType::F32)?, optional(op, cuda, db, DType::F32)?],
            column: int(op, *column)?,
            pad: 0,
        };
    }
    Ok(list)
}

/// y `[n, m]` = x Wᵀ + bias with a low-rank path on each path's columns, and h `[n, paths r]`. All paths have the same
/// sizes, rank and scale.
pub(crate) fn stacked_linear(
    cuda: &Cuda,
    x: &Tensor,
    base: Option<(&Tensor, Option<&Tensor>)>,
    paths: &[(LowRank<'_>, usize)],
    shape: &[usize],
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "stacked_linear";
    let low = paths[0].0;
    let (n, d, r, wide) = (x.num_rows(), x.width(), low.a.num_rows(), low.b.num_rows());
    let y = Tensor::on_cuda(OP, cuda, DType::Bf16, shape)?;
    let h = Tensor::on_cuda(OP, cuda, DType::F32, &[n, paths.len() * r])?;
    let (xp, yp) = (
        x.cuda_pointer(OP, cuda, DType::Bf16)?,
        y.cuda_pointer(OP, cuda, DType::Bf16)?,
    );
    let hp = h.cuda_pointer(OP, cuda, DType::F32)?;
    let bp = optional(OP, cuda, base.and_then(|(_, bias)| bias), DType::F32)?;
    // A block's warps have up to four parts of 16 each of x's columns.
    let (name, warps) = match (paths.len(), d) {
        (1, 0..=768) => ("lora_start_1_12", 12),
        (1, _) => ("lora_start_1_16", 16),
        (_, 0..=768) => ("lora_start_2_12", 12),
        _ => ("lora_start_2_16", 16),
    };
    // Columns of y in units of 32 a warp, as many as shared memory holds B and bias for; the kernel reads from its size how many.
    let all = y.width().div_ceil(32 * warps).max(1);
    let units = all.min(cuda.shared_limit() / (1152 * warps)).max(1);
    let (list, scale) = (paths_of(OP, cuda, paths, &[])?, low.scale as f32);
    let (height, width, m) = (int(OP, n)?, int(OP, d)?, int(OP, y.width())?);
    let (wide, ranks, rank) = (int(OP, wide)?, int(OP, r)?, int(OP, low.rank)?);
    let kernel = (Source::LoraMma, Kind::Bf16, name);
    let grid = (n.div_ceil(16).min(cuda.multiprocessors()), all.div_ceil(units), 1);
    let (threads, bytes) = (32 * warps as u32, 1152 * warps * units);
    let live = cuda.live_ranks(OP, low.rank, low.scale)?;
    // SAFETY: parameters as in lora_mma.cu; x is [n, d], y [n, m], h [n, paths r], A [r, d], B [wide, r].
    unsafe {
        launch!(
            cuda, kernel, grid, threads, bytes, xp, list, bp, yp, hp, height, width, m, wide, ranks, rank, scale, live
        )?
    };
    if let Some((weight, _)) = base {
        let weight = cast(cuda, weight, DType::Bf16)?;
        let (a, b) = (operand(OP, cuda, x, false)?, operand(OP, cuda, &weight, true)?);
        cuda.product(OP, [n, y.width(), d], a, b, DType::Bf16, yp, DType::Bf16, true)?;
    }
    Ok((y, h))
}

/// The gradients of [`stacked_linear`]: dA and dB for the ranks in `write`, dx for all ranks read.
#[allow(clippy::too_many_arguments)]
pub(crate) fn stacked_linear_gradient(
    cuda: &Cuda,
    dy: &Tensor,
    x: &Tensor,
    h: &Tensor,
    weight: Option<&Tensor>,
    paths: &[(LowRank<'_>, usize)],
    targets: &[PathGradients<'_>],
    write: &Range<usize>,
    dx: Option<Option<Tensor>>,
) -> Result<Option<Tensor>> {
    const OP: &str = "stacked_linear_gradient";
    let low = paths[0].0;
    let (n, d, r, wide) = (x.num_rows(), x.width(), low.a.num_rows(), low.b.num_rows());
    let target = dx
        .map(|onto| Tensor::cuda_target(OP, onto, cuda, DType::Bf16, x.shape()))
        .transpose()?;
    if n == 0 {
        return Ok(target.map(|(dx, _)| dx));
    }
    let bf16 = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::Bf16);
    let (dyp, xp, hp) = (bf16(dy)?, bf16(x)?, h.cuda_pointer(OP, cuda, DType::F32)?);
    let to = target.as_ref().map_or(Ok(0), |(dx, _)| bf16(dx))?;
    let onto = i32::from(target.as_ref().is_some_and(|(_, accumulate)| *accumulate));
    // As many blocks as run at a time, each with its share of the rows.
    let chunks = n.div_ceil(16).min(cuda.multiprocessors());
    let partial = Tensor::on_cuda(OP, cuda, DType::F32, &[chunks, 8 * paths.len(), d + wide])?;
    let part = partial.cuda_pointer(OP, cuda, DType::F32)?;
    let (name, gather, most) = match (paths.len(), d.max(wide)) {
        (1, 0..=512) => ("lora_gradient_1_4", "lora_gather_1", 512),
        (1, 513..=768) => ("lora_gradient_1_6", "lora_gather_1", 768),
        (1, _) => ("lora_gradient_1_8", "lora_gather_1", 1024),
        (_, 0..=512) => ("lora_gradient_2_4", "lora_gather_2", 512),
        (_, 513..=768) => ("lora_gradient_2_6", "lora_gather_2", 768),
        _ => ("lora_gradient_2_8", "lora_gather_2", 1024),
    };
    // Room for two tiles and all of A, split; for two tiles; or for one: the kernel reads from the size which.
    let tiles = |tiles| tiles_bytes(d, wide, paths.len(), r, tiles);
    let bytes = [tiles(2) + 32 * paths.len() * most, tiles(2)]
        .into_iter()
        .find(|bytes| *bytes <= cuda.shared_limit())
        .unwrap_or(tiles(1));
    let (list, scale) = (paths_of(OP, cuda, paths, targets)?, low.scale as f32);
    let (height, width, m) = (int(OP, n)?, int(OP, d)?, int(OP, dy.width())?);
    let (columns, ranks, rank) = (int(OP, wide)?, int(OP, r)?, int(OP, low.rank)?);
    let (first, last, count) = (int(OP, write.start)?, int(OP, write.end)?, int(OP, chunks)?);
    let live = cuda.live_writes(OP, low.rank, write, low.scale)?;
    // SAFETY: parameters as in lora_mma.cu; dy is [n, m], x and dx [n, d], h [n, paths r]; gradients have their factors'
    // shapes, and the shares fill `partial`.
    unsafe {
        let kernel = (Source::LoraMma, Kind::Bf16, name);
        launch!(
            cuda,
            kernel,
            (chunks, 1, 1),
            512,
            bytes,
            dyp,
            xp,
            hp,
            list,
            to,
            onto,
            part,
            height,
            width,
            m,
            columns,
            ranks,
            rank,
            scale,
            live
        )?;
        let kernel = (Source::LoraMma, Kind::Bf16, gather);
        let grid = (paths.len() * (d + wide) / 16, 1, 1);
        launch!(
            cuda, kernel, grid, 512, 0, part, list, count, width, columns, ranks, first, last, scale, live
        )?;
    }
    let Some((dx, _)) = target else { return Ok(None) };
    if let Some(weight) = weight {
        let weight = cast(cuda, weight, DType::Bf16)?;
        let (a, b) = (operand(OP, cuda, dy, false)?, operand(OP, cuda, &weight, false)?);
        cuda.product(OP, [n, d, dy.width()], a, b, DType::Bf16, to, DType::Bf16, true)?;
    }
    Ok(Some(dx))
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
    let paths = [(*low, 0)];
    if stacks(cuda, x.dtype(), x.width(), low.b.num_rows(), low.a.num_rows(), 1, false) {
        return stacked_linear(cuda, x, base, &paths, shape);
    }
    let h = dot(OP, cuda, x, &Factor::a(low), false)?;
    let y = match base {
        Some((weight, _)) => linear(cuda, x, weight, None, shape)?,
        None => Tensor::on_cuda(OP, cuda, x.dtype(), shape)?,
    };
    let bias = base.and_then(|(_, bias)| bias);
    outer(OP, cuda, &h, &Factor::b(low), bias, &y, true, base.is_some())?;
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
    if stacks(cuda, x.dtype(), x.width(), low.b.num_rows(), low.a.num_rows(), 1, false) {
        let paths = [(*low, 0)];
        let targets = [(into.da, into.db)];
        return stacked_linear_gradient(cuda, dy, x, h, weight, &paths, &targets, write, into.dx);
    }
    let (a, b) = (Factor::a(low), Factor::b(low));
    if let Some(db) = into.db {
        reduce(OP, cuda, h, dy, &b, db, write, true)?;
    }
    if into.da.is_none() && into.dx.is_none() {
        return Ok(None);
    }
    let dh = dot(OP, cuda, dy, &b, true)?;
    if let Some(da) = into.da {
        reduce(OP, cuda, &dh, x, &a, da, write, false)?;
    }
    let Some(onto) = into.dx else { return Ok(None) };
    let (dx, accumulate) = match weight {
        Some(weight) => (linear_input_gradient(cuda, dy, weight, onto, x.shape())?, true),
        None => Tensor::cuda_target(OP, onto, cuda, dy.dtype(), x.shape())?,
    };
    outer(OP, cuda, &dh, &a, None, &dx, false, accumulate)?;
    Ok(Some(dx))
}
