//! Attention over packed sequences: on tensor cores for bf16 and the usual head sizes, the plain form otherwise.

use super::context::undeclared;
use super::module::Source;
use super::{Cuda, Drop, int, kind, launch, optional, vector};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{Attended, Attention};
use crate::segments::Segments;
use crate::tensor::Tensor;

/// Sizes as kernels take them.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sizes {
    q_offsets: u64,
    k_offsets: u64,
    kept: u64,
    heads: i32,
    dim: i32,
    longest_key: i32,
    causal: i32,
    scale: f32,
    q_pitch: i32,
    k_pitch: i32,
}

/// Whether attention of this type and head size runs on tensor cores. Only then may queries, keys and values lie side by
/// side in one tensor.
pub(crate) fn attends_stacked(dtype: DType, dim: usize) -> bool {
    tensor_cores(dtype, dim).is_some()
}

fn tensor_cores(dtype: DType, dim: usize) -> Option<Source> {
    Source::attention_mma(dim).filter(|_| dtype == DType::Bf16)
}

/// Queries or keys of a block of the plain form.
const ROWS: usize = 32;

/// Bytes of shared memory of a block of the plain form.
fn plain_shared(op: &'static str, dim: usize) -> Result<usize> {
    if dim > 128 {
        return Err(Error::Unsupported {
            op,
            what: format!("a head size of {dim} (128 is the most)"),
        });
    }
    let (tile, pitch) = (if dim <= 64 { 64 } else { 32 }, (dim.div_ceil(4) | 1) * 4);
    Ok(((2 * ROWS + 2 * tile) * pitch + ROWS * (tile + 4)) * 4)
}

/// Queries of a block of the forward kernel on tensor cores.
const QUERIES: usize = 64;

/// Queries of a tile of the gradient's kernels on tensor cores.
const TILE: usize = 32;

/// The gradient's kernels on tensor cores.
#[derive(Clone, Copy)]
struct Gradients {
    kernel: &'static str,
    /// Adds the sums of splits.
    sum: &'static str,
    /// Keys that a block takes at a time.
    keys: usize,
    warps: u32,
    /// Blocks that a multiprocessor's registers hold.
    blocks: usize,
}

impl Gradients {
    /// Many keys at a time read shared memory least, few leave more blocks to a multiprocessor, which is faster where a
    /// sequence is two blocks of them at most, and give work to more multiprocessors where there are few heads.
    fn of(cuda: &Cuda, dim: usize, heads: usize, keys: &Segments) -> Self {
        let new = |kernel, sum, keys, warps, blocks| Gradients {
            kernel,
            sum,
            keys,
            warps,
            blocks,
        };
        let few = new("mma_gradients_64", "mma_sum_64", 64, 4, if dim == 128 { 2 } else { 3 });
        let many = match dim {
            32 => new("mma_gradients_128", "mma_sum_128", 128, 4, 2),
            64 => new("mma_gradients_256", "mma_sum_256", 256, 8, 1),
            _ => new("mma_gradients_128", "mma_sum_128", 128, 8, 1),
        };
        let mean = keys.tokens().div_ceil(keys.count().max(1));
        let busy = heads * keys.count() * keys.longest().div_ceil(many.keys);
        if mean <= 128 || busy < cuda.multiprocessors() || many.shared(dim) > undeclared(cuda) {
            few
        } else {
            many
        }
    }

    /// Bytes of shared memory without the sums of dq: `Layout` in attention_mma.cu.
    fn shared(&self, dim: usize) -> usize {
        let (keys_and_values, tiles) = (2 * self.keys * dim * 2, 4 * TILE * dim * 2);
        let (scores, statistics, flags) = (self.keys * TILE * 2, 2 * TILE * 8, 2 * TILE * self.keys / 8);
        keys_and_values + tiles + scores + statistics + flags
    }
}

/// Where queries, keys and values lie: each in a tensor of its own, or side by side in the columns of one.
#[derive(Clone, Copy)]
struct Places {
    q: u64,
    k: u64,
    v: u64,
    /// Elements from one row to the next, of q and of k and v.
    q_pitch: usize,
    k_pitch: usize,
}

impl Places {
    fn apart(op: &'static str, cuda: &Cuda, [q, k, v]: [&Tensor; 3]) -> Result<Self> {
        let pointer = |t: &Tensor| t.cuda_pointer(op, cuda, t.dtype());
        Ok(Places {
            q: pointer(q)?,
            k: pointer(k)?,
            v: pointer(v)?,
            q_pitch: q.width(),
            k_pitch: k.width(),
        })
    }

    /// `stacked` is q, k, v side by side, or k and v where q is given; each `width` wide.
    fn stacked(op: &'static str, cuda: &Cuda, q: Option<&Tensor>, stacked: &Tensor, width: usize) -> Result<Self> {
        let (at, step) = (
            stacked.cuda_pointer(op, cuda, stacked.dtype())?,
            (width * stacked.dtype().size()) as u64,
        );
        let keys = if q.is_some() { at } else { at + step };
        Ok(Places {
            q: q.map_or(Ok(at), |q| q.cuda_pointer(op, cuda, stacked.dtype()))?,
            k: keys,
            v: keys + step,
            q_pitch: q.unwrap_or(stacked).width(),
            k_pitch: stacked.width(),
        })
    }
}

fn sizes(op: &'static str, cuda: &Cuda, settings: &Attention<'_>, width: usize, at: &Places) -> Result<Sizes> {
    Ok(Sizes {
        q_offsets: settings.queries.offsets().cuda_pointer(op, cuda, DType::I32)?,
        k_offsets: settings.keys.offsets().cuda_pointer(op, cuda, DType::I32)?,
        kept: 0,
        heads: int(op, settings.num_heads)?,
        dim: int(op, width / settings.num_heads)?,
        longest_key: int(op, settings.keys.longest())?,
        causal: i32::from(settings.causal),
        scale: settings.scale as f32,
        q_pitch: int(op, at.q_pitch)?,
        k_pitch: int(op, at.k_pitch)?,
    })
}

/// f32 elements of the log-sum-exp `[n, heads]` up to the keep flags behind it, and of both.
fn statistics(n: usize, settings: &Attention<'_>) -> (usize, usize) {
    let flags = (n * settings.num_heads).next_multiple_of(4);
    let groups = settings.keys.longest().div_ceil(64);
    (flags, flags + 2 * n * settings.num_heads * groups)
}

/// The context and the log-sum-exp (f32). On tensor cores the flags of dropout lie behind it in the same memory: to draw
/// them again twice in the gradient took 40 % of its time.
pub(crate) fn attention(
    cuda: &Cuda,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    settings: &Attention<'_>,
) -> Result<(Tensor, Tensor)> {
    let at = Places::apart("attention", cuda, [q, k, v])?;
    forward(cuda, &at, q.dtype(), q.shape(), settings)
}

/// [`attention`] of columns of one tensor.
pub(crate) fn stacked_attention(
    cuda: &Cuda,
    q: Option<&Tensor>,
    stacked: &Tensor,
    width: usize,
    settings: &Attention<'_>,
) -> Result<(Tensor, Tensor)> {
    let at = Places::stacked("stacked_attention", cuda, q, stacked, width)?;
    let shape = [settings.queries.tokens(), width];
    forward(cuda, &at, stacked.dtype(), &shape, settings)
}

fn forward(
    cuda: &Cuda,
    at: &Places,
    dtype: DType,
    shape: &[usize],
    settings: &Attention<'_>,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "attention";
    let (heads, width) = (settings.num_heads, shape[shape.len() - 1]);
    let dim = width / heads;
    let on_tensor_cores = tensor_cores(dtype, dim);
    let out = Tensor::on_cuda(OP, cuda, dtype, shape)?;
    let n = out.num_rows();
    let (flags, len) = statistics(n, settings);
    let flagged = on_tensor_cores.is_some() && settings.dropout.is_some();
    let memory = Tensor::on_cuda(OP, cuda, DType::F32, &[if flagged { len } else { n * heads }])?;
    let lse = memory.rows(0..n * heads)?.reshape(&[n, heads])?;
    let to = out.cuda_pointer(OP, cuda, dtype)?;
    let lp = lse.cuda_pointer(OP, cuda, DType::F32)?;
    let drop = Drop::new(OP, cuda, settings.dropout.as_ref())?;
    let sizes = Sizes {
        kept: lp + 4 * flags as u64,
        ..sizes(OP, cuda, settings, width, at)?
    };
    let (source, name, rows, shared) = if let Some(source) = on_tensor_cores {
        // Two pairs of tiles of 64 keys and values.
        (source, "mma_forward", QUERIES, 2 * 2 * 64 * dim * 2)
    } else {
        (Source::Attention, "attention_forward", ROWS, plain_shared(OP, dim)?)
    };
    let kernel = (source, kind(OP, dtype)?, name);
    let grid = (
        settings.queries.longest().div_ceil(rows),
        heads,
        settings.queries.count(),
    );
    // SAFETY: parameters as in attention.cu and attention_mma.cu; offsets were made from lengths that sum to the rows.
    unsafe { launch!(cuda, kernel, grid, 128, shared, at.q, at.k, at.v, to, lp, sizes, drop)? };
    Ok((out, lse))
}

pub(crate) fn attention_gradient(
    cuda: &Cuda,
    dout: &Tensor,
    at: &Attended<'_>,
    settings: &Attention<'_>,
    want: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    const OP: &str = "attention_gradient";
    let new = |wanted: bool, like: &Tensor| {
        wanted
            .then(|| Tensor::on_cuda(OP, cuda, dout.dtype(), like.shape()))
            .transpose()
    };
    let gradients = [new(want[0], at.q)?, new(want[1], at.k)?, new(want[2], at.v)?];
    let pointer = |t: &Option<Tensor>| optional(OP, cuda, t.as_ref(), dout.dtype());
    let places = Places::apart(OP, cuda, [at.q, at.k, at.v])?;
    let to = Places {
        q: pointer(&gradients[0])?,
        k: pointer(&gradients[1])?,
        v: pointer(&gradients[2])?,
        ..places
    };
    backward(cuda, dout, &places, [at.out, at.lse], settings, &to)?;
    Ok(gradients)
}

/// The gradients of [`stacked_attention`]: of q where it is apart, and of the stacked tensor.
pub(crate) fn stacked_attention_gradient(
    cuda: &Cuda,
    dout: &Tensor,
    (q, stacked): (Option<&Tensor>, &Tensor),
    [out, lse]: [&Tensor; 2],
    settings: &Attention<'_>,
) -> Result<(Option<Tensor>, Tensor)> {
    const OP: &str = "stacked_attention_gradient";
    let like = |t: &Tensor| Tensor::on_cuda(OP, cuda, dout.dtype(), t.shape());
    let (dq, dstacked) = (q.map(like).transpose()?, like(stacked)?);
    let places = Places::stacked(OP, cuda, q, stacked, dout.width())?;
    let to = Places::stacked(OP, cuda, dq.as_ref(), &dstacked, dout.width())?;
    backward(cuda, dout, &places, [out, lse], settings, &to)?;
    Ok((dq, dstacked))
}

/// Writes the gradients to where `to` says; 0 is nowhere.
fn backward(
    cuda: &Cuda,
    dout: &Tensor,
    at: &Places,
    [out, lse]: [&Tensor; 2],
    settings: &Attention<'_>,
    to: &Places,
) -> Result<()> {
    const OP: &str = "attention_gradient";
    let (dtype, heads, width) = (dout.dtype(), settings.num_heads, dout.width());
    let (kind, dim) = (kind(OP, dtype)?, width / heads);
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, dtype);
    let (dp, op) = (pointer(dout)?, pointer(out)?);
    let lp = lse.cuda_pointer(OP, cuda, DType::F32)?;
    let (count, n) = (settings.queries.count(), dout.num_rows());
    let drop = Drop::new(OP, cuda, settings.dropout.as_ref())?;
    // The log-sum-exp is the one of the forward pass, so its memory goes on with the flags.
    let sizes = Sizes {
        kept: lp + 4 * statistics(n, settings).0 as u64,
        ..sizes(OP, cuda, settings, width, at)?
    };
    if let Some(source) = tensor_cores(dtype, dim) {
        let form = Gradients::of(cuda, dim, heads, settings.keys);
        let passes = settings.keys.longest().div_ceil(form.keys);
        // Where there are fewer heads than multiprocessors, several blocks share a head's keys.
        let splits = (cuda.multiprocessors() / (heads * count).max(1)).clamp(1, passes.max(1));
        let (mut shared, mut sums) = (form.shared(dim), None);
        if passes > 1 && to.q != 0 {
            let bytes = settings.queries.longest().next_multiple_of(TILE) * dim * 4;
            if splits == 1 && (shared + bytes) * form.blocks <= undeclared(cuda) {
                shared += bytes;
            } else {
                let tiles = n / TILE + count;
                sums = Some(Tensor::on_cuda(
                    OP,
                    cuda,
                    DType::F32,
                    &[splits * heads * tiles, TILE * dim],
                )?);
            }
        }
        let sp = optional(OP, cuda, sums.as_ref(), DType::F32)?;
        let kernel = (source, kind, form.kernel);
        let (grid, block) = ((splits, heads, count), form.warps * 32);
        // SAFETY: parameters as in attention_mma.cu; shapes are those of the forward pass.
        unsafe {
            launch!(
                cuda, kernel, grid, block, shared, at.q, at.k, at.v, dp, op, lp, to.q, to.k, to.v, sp, sizes, drop
            )?;
            if splits > 1 && to.q != 0 {
                let kernel = (source, kind, form.sum);
                let grid = (settings.queries.longest().div_ceil(TILE), heads, count);
                launch!(cuda, kernel, grid, block, 0, sp, to.q, int(OP, splits)?, sizes)?;
            }
        }
        return Ok(());
    }
    let delta = Tensor::on_cuda(OP, cuda, DType::F32, &[dout.num_rows(), heads])?;
    let ep = delta.cuda_pointer(OP, cuda, DType::F32)?;
    let (shared, lanes) = (plain_shared(OP, dim)?, dim.div_ceil(8).next_power_of_two().min(32));
    // SAFETY: parameters as in attention.cu; shapes are those of the forward pass.
    unsafe {
        let kernel = (Source::Attention, kind, "attention_delta");
        let grid = ((n * heads * lanes).div_ceil(256), 1, 1);
        let (height, each, vec) = (int(OP, n)?, int(OP, lanes)?, vector(dim, &[dp, op]));
        launch!(
            cuda,
            kernel,
            grid,
            256,
            0,
            dp,
            op,
            ep,
            height,
            sizes.heads,
            sizes.dim,
            each,
            vec
        )?;
        if to.q != 0 {
            let grid = (settings.queries.longest().div_ceil(ROWS), heads, count);
            let kernel = (Source::Attention, kind, "attention_dq");
            launch!(
                cuda, kernel, grid, 128, shared, at.q, at.k, at.v, dp, lp, ep, to.q, sizes, drop
            )?;
        }
        if to.k != 0 || to.v != 0 {
            let grid = (settings.keys.longest().div_ceil(ROWS), heads, count);
            let kernel = (Source::Attention, kind, "attention_dkv");
            launch!(
                cuda, kernel, grid, 128, shared, at.q, at.k, at.v, dp, lp, ep, to.k, to.v, sizes, drop
            )?;
        }
    }
    Ok(())
}
