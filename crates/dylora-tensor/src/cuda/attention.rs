//! Attention over packed sequences: on tensor cores for bf16 and the usual head sizes, the plain form otherwise.

use super::module::Source;
use super::{Cuda, Drop, int, kind, launch, optional};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{Attended, Attention};
use crate::tensor::Tensor;

/// Sizes as kernels take them.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sizes {
    q_offsets: u64,
    k_offsets: u64,
    heads: i32,
    dim: i32,
    longest_key: i32,
    causal: i32,
    scale: f32,
}

/// Kernels of one form, and what its launches need.
struct Form {
    source: Source,
    forward: &'static str,
    dq: &'static str,
    dkv: &'static str,
    /// Queries or keys of a block.
    rows: usize,
    /// Bytes of shared memory.
    shared: usize,
}

fn form(op: &'static str, dtype: DType, dim: usize) -> Result<Form> {
    let mma = |forward, dq, dkv| Form {
        source: Source::AttentionMma,
        forward,
        dq,
        dkv,
        rows: 64,
        shared: 0,
    };
    match (dtype, dim) {
        (DType::Bf16, 32) => Ok(mma("mma_forward_32", "mma_dq_32", "mma_dkv_32")),
        (DType::Bf16, 64) => Ok(mma("mma_forward_64", "mma_dq_64", "mma_dkv_64")),
        (DType::Bf16, 128) => Ok(mma("mma_forward_128", "mma_dq_128", "mma_dkv_128")),
        (_, 1..=128) => Ok(Form {
            source: Source::Attention,
            forward: "attention_forward",
            dq: "attention_dq",
            dkv: "attention_dkv",
            rows: 16,
            shared: (2 * 32 * (dim + 1) + 2 * 16 * dim) * 4,
        }),
        _ => Err(Error::Unsupported {
            op,
            what: format!("a head size of {dim} (128 is the most)"),
        }),
    }
}

fn sizes(op: &'static str, cuda: &Cuda, settings: &Attention<'_>, width: usize) -> Result<Sizes> {
    Ok(Sizes {
        q_offsets: settings.queries.offsets().cuda_pointer(op, cuda, DType::I32)?,
        k_offsets: settings.keys.offsets().cuda_pointer(op, cuda, DType::I32)?,
        heads: int(op, settings.num_heads)?,
        dim: int(op, width / settings.num_heads)?,
        longest_key: int(op, settings.keys.longest())?,
        causal: i32::from(settings.causal),
        scale: settings.scale as f32,
    })
}

/// The context and the log-sum-exp (f32).
pub(crate) fn attention(
    cuda: &Cuda,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    settings: &Attention<'_>,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "attention";
    let (dtype, heads) = (q.dtype(), settings.num_heads);
    let form = form(OP, dtype, q.width() / heads)?;
    let out = Tensor::on_cuda(OP, cuda, dtype, q.shape())?;
    let lse = Tensor::on_cuda(OP, cuda, DType::F32, &[q.num_rows(), heads])?;
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, dtype);
    let (qp, kp, vp, op) = (pointer(q)?, pointer(k)?, pointer(v)?, pointer(&out)?);
    let lp = lse.cuda_pointer(OP, cuda, DType::F32)?;
    let (sizes, drop) = (
        sizes(OP, cuda, settings, q.width())?,
        Drop::new(settings.dropout.as_ref()),
    );
    let kernel = (form.source, kind(OP, dtype)?, form.forward);
    let grid = (
        settings.queries.longest().div_ceil(form.rows),
        heads,
        settings.queries.count(),
    );
    // SAFETY: parameters as in attention.cu and attention_mma.cu; offsets were made from lengths that sum to the rows.
    unsafe { launch!(cuda, kernel, grid, 128, form.shared, qp, kp, vp, op, lp, sizes, drop)? };
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
    let (dtype, heads, width) = (dout.dtype(), settings.num_heads, at.q.width());
    let (form, kind) = (form(OP, dtype, width / heads)?, kind(OP, dtype)?);
    let new = |wanted: bool, like: &Tensor| {
        wanted
            .then(|| Tensor::on_cuda(OP, cuda, dtype, like.shape()))
            .transpose()
    };
    let gradients = [new(want[0], at.q)?, new(want[1], at.k)?, new(want[2], at.v)?];
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, dtype);
    let (qp, kp, vp, dp) = (pointer(at.q)?, pointer(at.k)?, pointer(at.v)?, pointer(dout)?);
    let (op, lp) = (pointer(at.out)?, at.lse.cuda_pointer(OP, cuda, DType::F32)?);
    let delta = Tensor::on_cuda(OP, cuda, DType::F32, at.lse.shape())?;
    let ep = delta.cuda_pointer(OP, cuda, DType::F32)?;
    let (sizes, drop) = (sizes(OP, cuda, settings, width)?, Drop::new(settings.dropout.as_ref()));
    let count = settings.queries.count();
    let n = at.q.num_rows();
    // SAFETY: parameters as in attention.cu and attention_mma.cu; shapes are those of the forward pass.
    unsafe {
        let kernel = (Source::Attention, kind, "attention_delta");
        let grid = ((n * heads).div_ceil(8), 1, 1);
        launch!(
            cuda,
            kernel,
            grid,
            256,
            0,
            dp,
            op,
            ep,
            int(OP, n)?,
            sizes.heads,
            sizes.dim
        )?;
        if let Some(dq) = &gradients[0] {
            let grid = (settings.queries.longest().div_ceil(form.rows), heads, count);
            let to = pointer(dq)?;
            let kernel = (form.source, kind, form.dq);
            launch!(
                cuda,
                kernel,
                grid,
                128,
                form.shared,
                qp,
                kp,
                vp,
                dp,
                lp,
                ep,
                to,
                sizes,
                drop
            )?;
        }
        if want[1] || want[2] {
            let dk = optional(OP, cuda, gradients[1].as_ref(), dtype)?;
            let dv = optional(OP, cuda, gradients[2].as_ref(), dtype)?;
            let grid = (settings.keys.longest().div_ceil(form.rows), heads, count);
            let kernel = (form.source, kind, form.dkv);
            launch!(
                cuda,
                kernel,
                grid,
                128,
                form.shared,
                qp,
                kp,
                vp,
                dp,
                lp,
                ep,
                dk,
                dv,
                sizes,
                drop
            )?;
        }
    }
    Ok(gradients)
}
