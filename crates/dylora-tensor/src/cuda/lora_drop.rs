//! The linear layer with low-rank paths of which each reads x through a dropout of its own, on tensor cores in bf16.

use std::ops::Range;

use super::elementwise::operand;
use super::lora::{PathGradients, paths_of};
use super::module::{Kind, Source};
use super::{Cuda, Drop, cast, int, launch, optional};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::LowRank;
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// A path, its first column, and the dropout of its x.
pub(crate) type DroppedPath<'a> = (LowRank<'a>, usize, Option<Dropout>);

/// Shared memory of the gradient kernel: 16 rows of x and of dy for each path, and their flags.
pub(super) fn tiles_bytes(d: usize, wide: usize, count: usize) -> usize {
    16 * count * (2 * (d + 8 + wide + 8) + 128)
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Drops {
    at: [Drop; 2],
}

fn parts<'a>(op: &'static str, cuda: &Cuda, paths: &[DroppedPath<'a>]) -> Result<(Vec<(LowRank<'a>, usize)>, Drops)> {
    let mut drops = Drops::default();
    for (drop, (.., dropout)) in drops.at.iter_mut().zip(paths) {
        *drop = Drop::new(op, cuda, dropout.as_ref())?;
    }
    Ok((paths.iter().map(|(low, column, _)| (*low, *column)).collect(), drops))
}

/// As `lora::stacked_linear`.
pub(crate) fn stacked_linear(
    cuda: &Cuda,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    paths: &[DroppedPath<'_>],
    shape: &[usize],
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "stacked_linear";
    let low = paths[0].0;
    let (n, d, r, wide) = (x.num_rows(), x.width(), low.a.num_rows(), low.b.num_rows());
    let y = Tensor::on_cuda(OP, cuda, DType::Bf16, shape)?;
    let h = Tensor::on_cuda(OP, cuda, DType::F32, &[n, paths.len() * r])?;
    let bf16 = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::Bf16);
    let (xp, yp, hp) = (bf16(x)?, bf16(&y)?, h.cuda_pointer(OP, cuda, DType::F32)?);
    let bp = optional(OP, cuda, bias, DType::F32)?;
    let name = if paths.len() == 1 {
        "lora_drop_start_1"
    } else {
        "lora_drop_start_2"
    };
    let (undropped, drops) = parts(OP, cuda, paths)?;
    let (list, scale) = (paths_of(OP, cuda, &undropped, &[])?, low.scale as f32);
    let (height, width, m) = (int(OP, n)?, int(OP, d)?, int(OP, y.width())?);
    let (wide, ranks, rank) = (int(OP, wide)?, int(OP, r)?, int(OP, low.rank)?);
    let (kernel, grid) = ((Source::LoraDrop, Kind::Bf16, name), (n.div_ceil(16), 1, 1));
    let live = cuda.live_ranks(OP, low.rank, low.scale)?;
    // SAFETY: parameters as in lora_drop.cu; x is [n, d], y [n, m], h [n, paths r], A [r, d], B [wide, r].
    unsafe {
        launch!(
            cuda, kernel, grid, 256, 0, xp, list, drops, bp, yp, hp, height, width, m, wide, ranks, rank, scale, live
        )?
    };
    let weight = cast(cuda, weight, DType::Bf16)?;
    let (a, b) = (operand(OP, cuda, x, false)?, operand(OP, cuda, &weight, true)?);
    cuda.product(OP, [n, y.width(), d], a, b, DType::Bf16, yp, DType::Bf16, true)?;
    Ok((y, h))
}

/// As `lora::stacked_linear_gradient`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn stacked_linear_gradient(
    cuda: &Cuda,
    dy: &Tensor,
    [x, h]: [&Tensor; 2],
    weight: &Tensor,
    paths: &[DroppedPath<'_>],
    targets: &[PathGradients<'_>],
    write: &Range<usize>,
    dx: Option<Option<Tensor>>,
) -> Result<Option<Tensor>> {
    const OP: &str = "stacked_linear_gradient";
    let low = paths[0].0;
    let (n, d, r, wide) = (x.num_rows(), x.width(), low.a.num_rows(), low.b.num_rows());
    let bytes = tiles_bytes(d, wide, paths.len());
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
    let (name, gather) = match (paths.len(), d.max(wide)) {
        (1, 0..=768) => ("lora_drop_gradient_1_6", "lora_drop_gather_1"),
        (1, _) => ("lora_drop_gradient_1_8", "lora_drop_gather_1"),
        (_, 0..=768) => ("lora_drop_gradient_2_6", "lora_drop_gather_2"),
        _ => ("lora_drop_gradient_2_8", "lora_drop_gather_2"),
    };
    let (undropped, drops) = parts(OP, cuda, paths)?;
    let (list, scale) = (paths_of(OP, cuda, &undropped, targets)?, low.scale as f32);
    let (height, width, m) = (int(OP, n)?, int(OP, d)?, int(OP, dy.width())?);
    let (columns, ranks, rank) = (int(OP, wide)?, int(OP, r)?, int(OP, low.rank)?);
    let (first, last, count) = (int(OP, write.start)?, int(OP, write.end)?, int(OP, chunks)?);
    let live = cuda.live_writes(OP, low.rank, write, low.scale)?;
    // SAFETY: parameters as in lora_drop.cu; dy is [n, m], x and dx [n, d], h [n, paths r]; every path has gradients of its
    // factors' shapes, and the shares fill `partial`.
    unsafe {
        let kernel = (Source::LoraDrop, Kind::Bf16, name);
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
            drops,
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
        let kernel = (Source::LoraDrop, Kind::Bf16, gather);
        let grid = (d.max(wide).div_ceil(32), r, 2 * paths.len());
        launch!(
            cuda, kernel, grid, 256, 0, part, list, count, width, columns, ranks, first, last, scale, live
        )?;
    }
    let Some((dx, _)) = target else { return Ok(None) };
    let weight = cast(cuda, weight, DType::Bf16)?;
    let (a, b) = (operand(OP, cuda, dy, false)?, operand(OP, cuda, &weight, false)?);
    cuda.product(OP, [n, d, dy.width()], a, b, DType::Bf16, to, DType::Bf16, true)?;
    Ok(Some(dx))
}
