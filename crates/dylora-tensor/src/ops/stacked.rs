//! Projections side by side: one product for query, key and value, and attention that reads them where they lie.
//!
//! On a GPU one wide product is faster than three, and a low-rank path costs one kernel for all. The CPU computes the
//! columns one after the other; its products are as fast apart.

use std::ops::Range;

use super::attention::{Attended, Attention, attention, attention_gradient};
use super::elementwise::{add, dropout as apply};
use super::low_rank::{LowRank, LowRankGradients, lora_linear, lora_linear_gradient};
use super::{by_float, expect_shape, linear, linear_input_gradient, matrix, same_shape};
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// A low-rank path on some columns of a stacked layer's result.
#[derive(Clone, Copy, Debug)]
pub struct StackedPath<'a> {
    /// A `[r, d]` and B `[wide, r]`; the same sizes, rank and scale for all paths of a layer.
    pub low: LowRank<'a>,
    /// The path's first column, a multiple of `wide`.
    pub column: usize,
    /// What x goes through before this path reads it.
    pub dropout: Option<Dropout>,
}

/// Whether projections of `d` columns to `d` columns in heads of `head_dim`, `paths` of them with low-rank paths of
/// rank r, are better stacked here; with `dropout`, paths have a dropout.
pub fn stacks(device: &Device, dtype: DType, d: usize, head_dim: usize, r: usize, paths: usize, dropout: bool) -> bool {
    match device {
        Device::Cpu(_) => false,
        Device::Cuda(cuda) => {
            cuda::stacks(cuda, dtype, d, d, r, paths, dropout) && cuda::attends_stacked(dtype, head_dim)
        }
    }
}

/// Columns of a matrix, copied; CPU only.
fn columns(op: &'static str, t: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    by_float!(op, t, T => {
        let values = t.read::<T>(op)?;
        Tensor::make::<T>(op, t.device(), &[t.num_rows(), range.len()], |out| {
            for (to, from) in out.chunks_exact_mut(range.len()).zip(values.chunks_exact(t.width())) {
                to.copy_from_slice(&from[range.clone()]);
            }
            Ok(())
        })
    })
}

/// Matrices of equal width side by side; CPU only.
fn side_by_side(op: &'static str, parts: &[Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return Err(Error::invalid(op, "nothing to put side by side"));
    };
    let (n, width) = (first.num_rows(), first.width());
    by_float!(op, first, T => {
        Tensor::make::<T>(op, first.device(), &[n, parts.len() * width], |out| {
            for (i, part) in parts.iter().enumerate() {
                let values = part.read::<T>(op)?;
                for (to, from) in out.chunks_exact_mut(parts.len() * width).zip(values.chunks_exact(width)) {
                    to[i * width..(i + 1) * width].copy_from_slice(from);
                }
            }
            Ok(())
        })
    })
}

/// Checks that paths agree with each other and with the layer; gives the columns of a path.
fn check_paths(op: &'static str, m: usize, d: usize, paths: &[StackedPath<'_>]) -> Result<usize> {
    let Some(first) = paths.first() else {
        return Err(Error::invalid(op, "a stacked layer without a path"));
    };
    let (r, wide) = (first.low.a.num_rows(), first.low.b.num_rows());
    if wide == 0 || !m.is_multiple_of(wide) || first.low.rank == 0 || first.low.rank > r {
        return Err(Error::invalid(
            op,
            format!("rank {} of {r} on {wide} of {m} columns", first.low.rank),
        ));
    }
    for (i, path) in paths.iter().enumerate() {
        expect_shape(op, path.low.a, &[r, d])?;
        expect_shape(op, path.low.b, &[wide, r])?;
        let alike = path.low.rank == first.low.rank && path.low.scale == first.low.scale;
        let apart = paths[..i].iter().all(|other| other.column != path.column);
        if !alike || !apart || path.column >= m || !path.column.is_multiple_of(wide) {
            return Err(Error::invalid(op, format!("a path at column {} of {m}", path.column)));
        }
    }
    Ok(wide)
}

/// y = x Wᵀ + bias with low-rank paths on some columns, each of x or its own dropout of x, and h, the paths' x A[..b]ᵀ side
/// by side.
///
/// x `[n, d]`, W `[m, d]`, bias `[m]`, y `[n, m]`, h `[n, paths b]` (on a GPU `[n, paths r]`).
///
/// # Errors
/// If shapes or types do not fit, the paths differ in size, rank or scale, or (on a GPU) [`stacks`] does not hold.
pub fn stacked_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    paths: &[StackedPath<'_>],
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "stacked_linear";
    let (m, d) = matrix(OP, weight)?;
    expect_shape(OP, x, &[x.num_rows(), d])?;
    expect_shape(OP, bias, &[m])?;
    let wide = check_paths(OP, m, d, paths)?;
    if let Device::Cuda(cuda) = x.device() {
        check_stacks(OP, cuda, x.dtype(), paths)?;
        let shape = [x.num_rows(), m];
        if drops(paths) {
            let list: Vec<_> = paths.iter().map(|path| (path.low, path.column, path.dropout)).collect();
            return cuda::dropped_linear(cuda, x, weight, Some(bias), &list, &shape);
        }
        let list: Vec<_> = paths.iter().map(|path| (path.low, path.column)).collect();
        return cuda::stacked_linear(cuda, x, Some((weight, Some(bias))), &list, &shape);
    }
    let mut hs: Vec<Option<Tensor>> = vec![None; paths.len()];
    let ys = (0..m / wide)
        .map(|block| {
            let rows = block * wide..(block + 1) * wide;
            let (weight, bias) = (weight.rows(rows.clone())?, bias.rows(rows.clone())?);
            match paths.iter().position(|path| path.column == rows.start) {
                Some(index) => {
                    let low = &paths[index].low;
                    let (y, h) = match paths[index].dropout {
                        None => lora_linear(x, Some((&weight, Some(&bias))), low)?,
                        Some(dropout) => {
                            let (own, h) = lora_linear(&apply(x, dropout)?, None, low)?;
                            (add(&linear(x, &weight, Some(&bias))?, &own)?, h)
                        }
                    };
                    hs[index] = Some(h);
                    Ok(y)
                }
                None => linear(x, &weight, Some(&bias)),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let hs: Vec<Tensor> = hs.into_iter().flatten().collect();
    Ok((side_by_side(OP, &ys)?, side_by_side(OP, &hs)?))
}

fn drops(paths: &[StackedPath<'_>]) -> bool {
    paths.iter().any(|path| path.dropout.is_some())
}

fn check_stacks(op: &'static str, cuda: &cuda::Cuda, dtype: DType, paths: &[StackedPath<'_>]) -> Result<()> {
    let low = &paths[0].low;
    let (r, d, wide) = (low.a.num_rows(), low.a.width(), low.b.num_rows());
    if cuda::stacks(cuda, dtype, d, wide, r, paths.len(), drops(paths)) {
        return Ok(());
    }
    Err(Error::Unsupported {
        op,
        what: format!(
            "{} paths of rank {r} from {d} to {wide} columns in {dtype}",
            paths.len()
        ),
    })
}

/// The gradients of [`stacked_linear`] but those of W and bias: dA and dB of each path are added to for the ranks in
/// `write`; dx, where wanted, is made or added to.
///
/// # Errors
/// If shapes or types do not fit.
pub fn stacked_linear_gradient(
    dy: &Tensor,
    [x, h]: [&Tensor; 2],
    weight: &Tensor,
    paths: &[StackedPath<'_>],
    into: &[(&Tensor, &Tensor)],
    write: Range<usize>,
    dx: Option<Option<Tensor>>,
) -> Result<Option<Tensor>> {
    const OP: &str = "stacked_linear_gradient";
    let (m, d) = matrix(OP, weight)?;
    expect_shape(OP, x, &[x.num_rows(), d])?;
    expect_shape(OP, dy, &[x.num_rows(), m])?;
    let wide = check_paths(OP, m, d, paths)?;
    if into.len() != paths.len() {
        return Err(Error::invalid(
            OP,
            format!("{} gradients for {} paths", into.len(), paths.len()),
        ));
    }
    for ((da, db), path) in into.iter().zip(paths) {
        same_shape(OP, da, path.low.a)?;
        same_shape(OP, db, path.low.b)?;
    }
    let (rank, r) = (paths[0].low.rank, paths[0].low.a.num_rows());
    if let Device::Cuda(cuda) = dy.device() {
        expect_shape(OP, h, &[x.num_rows(), paths.len() * r])?;
        check_stacks(OP, cuda, x.dtype(), paths)?;
        let targets: Vec<_> = into.iter().map(|(da, db)| (Some(*da), Some(*db))).collect();
        let write = write.start.min(rank)..write.end.min(rank);
        if drops(paths) {
            let list: Vec<_> = paths.iter().map(|path| (path.low, path.column, path.dropout)).collect();
            return cuda::dropped_linear_gradient(cuda, dy, [x, h], weight, &list, &targets, &write, dx);
        }
        let list: Vec<_> = paths.iter().map(|path| (path.low, path.column)).collect();
        return cuda::stacked_linear_gradient(cuda, dy, x, h, Some(weight), &list, &targets, &write, dx);
    }
    expect_shape(OP, h, &[x.num_rows(), paths.len() * rank])?;
    let mut sum = dx;
    for block in 0..m / wide {
        let rows = block * wide..(block + 1) * wide;
        let (dy, weight) = (columns(OP, dy, &rows)?, weight.rows(rows.clone())?);
        match paths.iter().position(|path| path.column == rows.start) {
            Some(index) => {
                let (h, low) = (columns(OP, h, &(index * rank..(index + 1) * rank))?, &paths[index].low);
                let wanted = sum.is_some();
                let gradients = |dx| LowRankGradients {
                    da: Some(into[index].0),
                    db: Some(into[index].1),
                    write: write.clone(),
                    dx,
                };
                let dx = match paths[index].dropout {
                    None => lora_linear_gradient(&dy, x, &h, Some(&weight), low, gradients(sum.take()))?,
                    Some(dropout) => {
                        let own = gradients(wanted.then_some(None));
                        let own = lora_linear_gradient(&dy, &apply(x, dropout)?, &h, None, low, own)?;
                        match (own, sum.take()) {
                            (Some(own), Some(onto)) => {
                                let dx = linear_input_gradient(&dy, &weight, onto)?;
                                Some(add(&dx, &apply(&own, dropout)?)?)
                            }
                            _ => None,
                        }
                    }
                };
                sum = wanted.then_some(dx);
            }
            None => {
                if let Some(onto) = sum.take() {
                    sum = Some(Some(linear_input_gradient(&dy, &weight, onto)?));
                }
            }
        }
    }
    Ok(sum.flatten())
}

/// The parts of a stacked tensor: with q apart k and v, otherwise q, k and v.
fn apart(op: &'static str, q: Option<&Tensor>, stacked: &Tensor, width: usize) -> Result<[Tensor; 3]> {
    let part = |i: usize| columns(op, stacked, &(i * width..(i + 1) * width));
    match q {
        Some(q) => Ok([q.clone(), part(0)?, part(1)?]),
        None => Ok([part(0)?, part(1)?, part(2)?]),
    }
}

fn stacked_width(op: &'static str, q: Option<&Tensor>, stacked: &Tensor, s: &Attention<'_>) -> Result<usize> {
    let parts = if q.is_some() { 2 } else { 3 };
    let width = stacked.width() / parts;
    expect_shape(op, stacked, &[s.keys.tokens(), parts * width])?;
    expect_shape(
        op,
        q.unwrap_or(stacked),
        &[s.queries.tokens(), q.map_or(parts * width, |_| width)],
    )?;
    if s.num_heads == 0 || !width.is_multiple_of(s.num_heads) || s.queries.count() != s.keys.count() {
        return Err(Error::invalid(
            op,
            format!(
                "{} heads on {width} columns, {} sequences on {}",
                s.num_heads,
                s.queries.count(),
                s.keys.count()
            ),
        ));
    }
    Ok(width)
}

/// [`attention`] of query, key and value side by side in `stacked` `[tokens, 3 d]`; or of `q` `[query tokens, d]` and key
/// and value in `stacked` `[key tokens, 2 d]`.
///
/// # Errors
/// As [`attention`]; on a GPU also unless [`stacks`] holds.
pub fn stacked_attention(q: Option<&Tensor>, stacked: &Tensor, settings: &Attention<'_>) -> Result<(Tensor, Tensor)> {
    const OP: &str = "stacked_attention";
    let width = stacked_width(OP, q, stacked, settings)?;
    settings.check_lengths(OP)?;
    if let Device::Cuda(cuda) = stacked.device() {
        check_attends(OP, stacked.dtype(), width / settings.num_heads)?;
        return cuda::stacked_attention(cuda, q, stacked, width, settings);
    }
    let [q, k, v] = apart(OP, q, stacked, width)?;
    attention(&q, &k, &v, settings)
}

fn check_attends(op: &'static str, dtype: DType, dim: usize) -> Result<()> {
    if cuda::attends_stacked(dtype, dim) {
        return Ok(());
    }
    Err(Error::Unsupported {
        op,
        what: format!("heads of {dim} in {dtype}"),
    })
}

/// The gradients of [`stacked_attention`]: of q where it is apart, and of `stacked`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn stacked_attention_gradient(
    dout: &Tensor,
    q: Option<&Tensor>,
    stacked: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    settings: &Attention<'_>,
) -> Result<(Option<Tensor>, Tensor)> {
    const OP: &str = "stacked_attention_gradient";
    let width = stacked_width(OP, q, stacked, settings)?;
    expect_shape(OP, dout, &[settings.queries.tokens(), width])?;
    same_shape(OP, out, dout)?;
    if let Device::Cuda(cuda) = stacked.device() {
        check_attends(OP, stacked.dtype(), width / settings.num_heads)?;
        return cuda::stacked_attention_gradient(cuda, dout, (q, stacked), [out, lse], settings);
    }
    let [q_part, k, v] = apart(OP, q, stacked, width)?;
    let at = Attended {
        q: &q_part,
        k: &k,
        v: &v,
        out,
        lse,
    };
    let [dq, dk, dv] = attention_gradient(dout, &at, settings, [true; 3])?;
    let parts: Vec<Tensor> = [dq, dk, dv].into_iter().flatten().collect();
    match q {
        Some(_) => Ok((parts.first().cloned(), side_by_side(OP, &parts[1..])?)),
        None => Ok((None, side_by_side(OP, &parts)?)),
    }
}
