//! Decoding: attention over listed rows of a cache, and the likeliest classes.

use super::module::Source;
use super::{Cuda, check_known, int, kind, launch, vector};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{CacheAttention, TopClasses};
use crate::tensor::Tensor;

/// Threads of a block that looks for the likeliest classes.
const TOP_THREADS: usize = 512;

/// As the kernel takes it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Cache {
    q_offsets: u64,
    k_offsets: u64,
    rows: u64,
    heads: i32,
    dim: i32,
    capacity: i32,
    lanes: i32,
    scale: f32,
}

pub(crate) fn attend_rows(
    cuda: &Cuda,
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    settings: &CacheAttention<'_>,
) -> Result<Tensor> {
    const OP: &str = "attend_rows";
    let (width, dtype, capacity) = (q.width(), q.dtype(), keys.num_rows());
    let dim = width / settings.num_heads;
    if dim > 128 {
        return Err(Error::Unsupported {
            op: OP,
            what: format!("a head size of {dim} (128 is the most)"),
        });
    }
    check_known(OP, settings.rows, capacity)?;
    let out = Tensor::on_cuda(OP, cuda, dtype, q.shape())?;
    let at = |tensor: &Tensor| tensor.cuda_pointer(OP, cuda, dtype);
    let (qp, kp, vp, op) = (at(q)?, at(keys)?, at(values)?, at(&out)?);
    let integers = |tensor: &Tensor| tensor.cuda_pointer(OP, cuda, DType::I32);
    let cache = Cache {
        q_offsets: integers(settings.queries.offsets())?,
        k_offsets: integers(settings.keys.offsets())?,
        rows: integers(settings.rows)?,
        heads: int(OP, settings.num_heads)?,
        dim: int(OP, dim)?,
        capacity: int(OP, capacity)?,
        lanes: int(OP, dim.div_ceil(8).next_power_of_two())?,
        scale: settings.scale as f32,
    };
    let vec = vector(dim, &[qp, kp, vp]);
    let kernel = (Source::Decode, kind(OP, dtype)?, "attend_rows");
    let grid = (settings.queries.longest(), settings.num_heads, settings.queries.count());
    // SAFETY: parameters as in decode.cu; offsets were made from lengths that sum to the rows of q and of the list, and the
    // kernel keeps row numbers inside the cache.
    unsafe { launch!(cuda, kernel, grid, 128, 0, qp, kp, vp, op, cache, vec)? };
    Ok(out)
}

/// The likeliest classes, or nothing where there are too many of them for the kernel.
pub(crate) fn top_log_softmax(
    cuda: &Cuda,
    logits: &Tensor,
    banned: &[Vec<i32>],
    k: usize,
) -> Result<Option<TopClasses>> {
    const OP: &str = "top_log_softmax";
    let (n, c, dtype) = (logits.num_rows(), logits.width(), logits.dtype());
    let most = banned.iter().map(Vec::len).max().unwrap_or(0);
    if k + most > TOP_THREADS || k + most > c {
        return Ok(None);
    }
    let mut list = Vec::with_capacity(n + 1 + banned.iter().map(Vec::len).sum::<usize>());
    let mut place = 0;
    list.push(0);
    for row in banned {
        place += row.len();
        list.push(int(OP, place)?);
    }
    list.extend(banned.iter().flatten());
    let len = list.len();
    let list = Tensor::from_vec(&Device::Cuda(cuda.clone()), list, &[len])?;
    // Classes, then the bits of their scores: one copy to the host.
    let found = Tensor::on_cuda(OP, cuda, DType::I32, &[2 * n * k])?;
    let at = found.cuda_pointer(OP, cuda, DType::I32)?;
    let (xp, bp) = (
        logits.cuda_pointer(OP, cuda, dtype)?,
        list.cuda_pointer(OP, cuda, DType::I32)?,
    );
    let kernel = (Source::Decode, kind(OP, dtype)?, "top_log_softmax");
    let scores = at + (4 * n * k) as u64;
    let (rows, classes, k_) = (int(OP, n)?, int(OP, c)?, int(OP, k)?);
    // SAFETY: parameters as in decode.cu; logits are [n, c], the results n k integers and n k floats.
    unsafe {
        launch!(
            cuda,
            kernel,
            (n, 1, 1),
            TOP_THREADS as u32,
            0,
            xp,
            bp,
            at,
            scores,
            rows,
            classes,
            k_
        )?;
    }
    let mut classes = found.to_vec::<i32>()?;
    let scores = classes.split_off(n * k);
    Ok(Some(TopClasses {
        k,
        classes,
        scores: scores.into_iter().map(|bits| f32::from_bits(bits as u32)).collect(),
    }))
}
