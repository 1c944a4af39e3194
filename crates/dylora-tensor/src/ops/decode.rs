//! What decoding asks: attention over rows of a cache, and the likeliest classes.

use half::bf16;

use super::{by_float, expect_shape, matrix};
use crate::cpu::decode as kernel;
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::segments::Segments;
use crate::tensor::Tensor;

/// The sizes of attention over a cache, and which of its rows each text sees.
#[derive(Clone, Copy, Debug)]
pub struct CacheAttention<'a> {
    /// The queries of each text.
    pub queries: &'a Segments,
    /// How many rows each text sees; at least as many as it has queries.
    pub keys: &'a Segments,
    /// The rows, text after text, i32 `[keys]`. Query i of n sees those up to place i + listed - n.
    pub rows: &'a Tensor,
    /// Heads.
    pub num_heads: usize,
    /// Factor on the scores.
    pub scale: f64,
}

/// Causal attention of q `[queries, d]` over the listed rows of keys and values `[capacity, d]`; no row is copied. Returns
/// the context `[queries, d]`; it has no gradient.
///
/// # Errors
/// If shapes or types do not fit, a text has fewer rows than queries, or a row is not in the cache.
pub fn attend_rows(q: &Tensor, keys: &Tensor, values: &Tensor, settings: &CacheAttention<'_>) -> Result<Tensor> {
    const OP: &str = "attend_rows";
    let (capacity, width) = matrix(OP, keys)?;
    let CacheAttention { queries, num_heads, .. } = *settings;
    expect_shape(OP, values, &[capacity, width])?;
    expect_shape(OP, q, &[queries.tokens(), width])?;
    expect_shape(OP, settings.rows, &[settings.keys.tokens()])?;
    if num_heads == 0 || !width.is_multiple_of(num_heads) {
        return Err(Error::invalid(
            OP,
            format!("{num_heads} heads do not divide a width of {width}"),
        ));
    }
    if queries.count() != settings.keys.count() {
        return Err(Error::shape(OP, &[queries.count()], &[settings.keys.count()]));
    }
    for (text, (asking, listed)) in queries.lengths().iter().zip(settings.keys.lengths()).enumerate() {
        if listed < asking {
            return Err(Error::invalid(
                OP,
                format!("text {text} has {asking} queries and {listed} rows"),
            ));
        }
    }
    if let Device::Cuda(cuda) = q.device() {
        return cuda::attend_rows(cuda, q, keys, values, settings);
    }
    let rows = settings.rows.read::<i32>(OP)?;
    let outside = |row: &i32| !usize::try_from(*row).is_ok_and(|row| row < capacity);
    if let Some(position) = rows.iter().position(outside) {
        return Err(Error::Index {
            op: OP,
            index: i64::from(rows[position]),
            position,
            limit: capacity,
        });
    }
    let shape = kernel::CacheShape {
        queries: queries.lengths(),
        keys: settings.keys.lengths(),
        rows: &rows,
        num_heads,
        scale: settings.scale,
    };
    by_float!(OP, q, T => {
        let (q_, k, v) = (q.read::<T>(OP)?, keys.read::<T>(OP)?, values.read::<T>(OP)?);
        Tensor::make::<T>(OP, q.device(), q.shape(), |out| {
            kernel::attend_rows(&shape, &q_, &k, &v, out);
            Ok(())
        })
    })
}

/// The likeliest classes of each row of logits, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct TopClasses {
    /// How many there are of each row.
    pub k: usize,
    /// The classes, k a row, likeliest first.
    pub classes: Vec<i32>,
    /// The logarithms of their probabilities, k a row.
    pub scores: Vec<f32>,
}

/// The `k` (at most all) largest of ln softmax for each row of logits `[n, c]`. The classes `banned[i]` of row i keep their
/// share of the probability but come last, with a score of -inf.
///
/// The result is on the host because it decides what is computed next. On a device only it is copied there, unless a row asks
/// for more than half a thousand classes, banned ones included.
///
/// # Errors
/// If `k` is 0, there are not as many lists as rows, or inside a step.
pub fn top_log_softmax(logits: &Tensor, banned: &[Vec<i32>], k: usize) -> Result<TopClasses> {
    const OP: &str = "top_log_softmax";
    let (n, c) = matrix(OP, logits)?;
    let k = k.min(c);
    if k == 0 || banned.len() != n {
        return Err(Error::invalid(
            OP,
            format!("{k} of {c} classes, {} lists for {n} rows", banned.len()),
        ));
    }
    let mut top = TopClasses {
        k,
        classes: vec![0; n * k],
        scores: vec![0.0; n * k],
    };
    if let Device::Cuda(cuda) = logits.device() {
        if let Some(top) = cuda::top_log_softmax(cuda, logits, banned, k)? {
            return Ok(top);
        }
        let values: Vec<f32> = match logits.dtype() {
            DType::F32 => logits.to_vec()?,
            _ => logits.to_vec::<bf16>()?.into_iter().map(bf16::to_f32).collect(),
        };
        kernel::top_log_softmax(&values, c, banned, k, &mut top.classes, &mut top.scores);
        return Ok(top);
    }
    logits.device().check_host_read(OP)?;
    by_float!(OP, logits, T => {
        kernel::top_log_softmax(&logits.read::<T>(OP)?, c, banned, k, &mut top.classes, &mut top.scores);
        Ok(top)
    })
}
