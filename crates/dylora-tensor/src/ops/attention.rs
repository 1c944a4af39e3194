//! Attention over packed sequences, and its gradients.

use super::{by_float, expect_shape, same_shape};
use crate::cpu::attention::{self as kernel, AttentionShape};
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Dropout;
use crate::segments::Segments;
use crate::step::check_dropout;
use crate::tensor::Tensor;

/// The sizes of attention; heads lie side by side in a row.
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    /// The sequences of the queries.
    pub queries: &'a Segments,
    /// The sequences of keys and values; as many as of queries.
    pub keys: &'a Segments,
    /// Heads.
    pub num_heads: usize,
    /// Factor on the scores, 1 / sqrt(head size) as a rule.
    pub scale: f64,
    /// Whether a query sees only keys up to its own place (counted from the sequence's end).
    pub causal: bool,
    /// Dropout on the probabilities.
    pub dropout: Option<Dropout>,
}

impl Attention<'_> {
    /// Fails where a sequence has queries and too few keys.
    pub(crate) fn check_lengths(&self, op: &'static str) -> Result<()> {
        for (sequence, (queries, keys)) in self.queries.lengths().iter().zip(self.keys.lengths()).enumerate() {
            if *queries > 0 && (*keys == 0 || (self.causal && keys < queries)) {
                return Err(Error::invalid(
                    op,
                    format!("sequence {sequence} has {queries} queries and {keys} keys"),
                ));
            }
        }
        Ok(())
    }
}

fn attention_widths(op: &'static str, q: &Tensor, k: &Tensor, v: &Tensor, s: &Attention<'_>) -> Result<usize> {
    let width = q.width();
    expect_shape(op, q, &[s.queries.tokens(), width])?;
    expect_shape(op, k, &[s.keys.tokens(), width])?;
    expect_shape(op, v, &[s.keys.tokens(), width])?;
    if s.num_heads == 0 || !width.is_multiple_of(s.num_heads) {
        return Err(Error::invalid(
            op,
            format!("{} heads do not divide a width of {width}", s.num_heads),
        ));
    }
    if s.queries.count() != s.keys.count() {
        return Err(Error::shape(op, &[s.queries.count()], &[s.keys.count()]));
    }
    Ok(width)
}

/// Runs a body with the kernel's view of the sizes.
macro_rules! with_attention {
    ($op:expr, $settings:expr, $width:expr, $shape:ident => $body:expr) => {{
        let queries = $settings.queries.offsets().read::<i32>($op)?;
        let keys = $settings.keys.offsets().read::<i32>($op)?;
        let $shape = AttentionShape {
            q_offsets: &queries,
            k_offsets: &keys,
            num_heads: $settings.num_heads,
            head_dim: $width / $settings.num_heads,
            scale: $settings.scale,
            causal: $settings.causal,
            longest_key: $settings.keys.longest(),
        };
        $body
    }};
}

/// Scaled dot-product attention over packed sequences: softmax(scale q kᵀ) v for each sequence and head.
///
/// q `[query tokens, d]`, k and v `[key tokens, d]`. Returns the context `[query tokens, d]` and the log-sum-exp of the
/// scores `[query tokens, num_heads]`.
///
/// # Errors
/// If shapes or types do not fit, or a sequence has queries but no keys.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, settings: &Attention<'_>) -> Result<(Tensor, Tensor)> {
    const OP: &str = "attention";
    let width = attention_widths(OP, q, k, v, settings)?;
    settings.check_lengths(OP)?;
    check_dropout(OP, q.device(), settings.dropout.as_ref())?;
    if let Device::Cuda(cuda) = q.device() {
        return cuda::attention(cuda, q, k, v, settings);
    }
    by_float!(OP, q, T => with_attention!(OP, settings, width, shape => {
        let (qs, ks, vs) = (q.read::<T>(OP)?, k.read::<T>(OP)?, v.read::<T>(OP)?);
        let mut lse = Err(Error::invalid(OP, "not computed"));
        let out = Tensor::make::<T>(OP, q.device(), q.shape(), |out| {
            lse = Tensor::make::<T>(OP, q.device(), &[q.num_rows(), settings.num_heads], |lse| {
                kernel::attention_forward(&shape, &qs, &ks, &vs, settings.dropout.as_ref(), out, lse);
                Ok(())
            });
            Ok(())
        })?;
        Ok((out, lse?))
    }))
}

/// What [`attention`] was computed from and gave.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// Queries.
    pub q: &'a Tensor,
    /// Keys.
    pub k: &'a Tensor,
    /// Values.
    pub v: &'a Tensor,
    /// The context.
    pub out: &'a Tensor,
    /// Log-sum-exp of the scores.
    pub lse: &'a Tensor,
}

/// The gradients of [`attention`] for q, k and v, each only where wanted.
///
/// # Errors
/// If shapes or types do not fit.
pub fn attention_gradient(
    dout: &Tensor,
    at: &Attended<'_>,
    settings: &Attention<'_>,
    want: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    const OP: &str = "attention_gradient";
    let width = attention_widths(OP, at.q, at.k, at.v, settings)?;
    same_shape(OP, dout, at.q)?;
    same_shape(OP, at.out, at.q)?;
    check_dropout(OP, dout.device(), settings.dropout.as_ref())?;
    if let Device::Cuda(cuda) = dout.device() {
        return cuda::attention_gradient(cuda, dout, at, settings, want);
    }
    by_float!(OP, dout, T => with_attention!(OP, settings, width, shape => {
        let device = dout.device();
        let new = |wanted: bool, like: &Tensor| {
            wanted
                .then(|| Tensor::target::<T>(OP, None, device, like.shape()).map(|(t, _)| t))
                .transpose()
        };
        let gradients = [new(want[0], at.q)?, new(want[1], at.k)?, new(want[2], at.v)?];
        {
            let [dq, dk, dv] = &gradients;
            let guard = |t: &Option<Tensor>| -> Result<_> { Ok(t.clone()) };
            let (dq, dk, dv) = (guard(dq)?, guard(dk)?, guard(dv)?);
            let mut dq = dq.as_ref().map(|t| t.write_guard::<T>(OP)).transpose()?;
            let mut dk = dk.as_ref().map(|t| t.write_guard::<T>(OP)).transpose()?;
            let mut dv = dv.as_ref().map(|t| t.write_guard::<T>(OP)).transpose()?;
            kernel::attention_backward(
                &shape,
                &at.q.read::<T>(OP)?,
                &at.k.read::<T>(OP)?,
                &at.v.read::<T>(OP)?,
                &at.out.read::<T>(OP)?,
                &at.lse.read::<T>(OP)?,
                &dout.read::<T>(OP)?,
                settings.dropout.as_ref(),
                dq.as_mut().map(|g| g.slice()),
                dk.as_mut().map(|g| g.slice()),
                dv.as_mut().map(|g| g.slice()),
            );
        }
        Ok(gradients)
    }))
}
