//! Hard-concrete gates and their penalty: f32 throughout, because what they stand on learns.

use super::elementwise::by_row;
use super::module::{Kind, Source};
use super::{Cuda, Drop, int, launch, vector};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::{HardConcrete, SparsityPenalty};
use crate::rng::Draw;
use crate::tensor::Tensor;

fn blocks(n: usize) -> (usize, usize, usize) {
    (n.div_ceil(256), 1, 1)
}

fn kernel(name: &'static str) -> (Source, Kind, &'static str) {
    (Source::Gates, Kind::F32, name)
}

fn limits(form: &HardConcrete) -> [f32; 3] {
    [form.beta as f32, form.low as f32, form.high as f32]
}

pub(crate) fn hard_concrete(cuda: &Cuda, log_alpha: &Tensor, form: &HardConcrete, draw: &Draw) -> Result<Tensor> {
    const OP: &str = "hard_concrete";
    let z = Tensor::on_cuda(OP, cuda, DType::F32, log_alpha.shape())?;
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
    let (ap, zp, drop) = (pointer(log_alpha)?, pointer(&z)?, Drop::of_draw(OP, cuda, draw)?);
    let ([beta, low, high], n) = (limits(form), int(OP, z.len())?);
    // SAFETY: parameters as in gates.cu; both tensors have n elements.
    unsafe {
        launch!(
            cuda,
            kernel("hard_concrete"),
            blocks(z.len()),
            256,
            0,
            ap,
            zp,
            drop,
            n,
            beta,
            low,
            high
        )?
    };
    Ok(z)
}

pub(crate) fn hard_concrete_gradient(
    cuda: &Cuda,
    log_alpha: &Tensor,
    form: &HardConcrete,
    draw: &Draw,
    dz: &Tensor,
    dlog_alpha: &Tensor,
) -> Result<()> {
    const OP: &str = "hard_concrete_gradient";
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
    let (ap, dzp, dap) = (pointer(log_alpha)?, pointer(dz)?, pointer(dlog_alpha)?);
    let (drop, [beta, low, high]) = (Drop::of_draw(OP, cuda, draw)?, limits(form));
    let (count, n) = (log_alpha.len(), int(OP, log_alpha.len())?);
    // SAFETY: parameters as in gates.cu; all three tensors have n elements.
    unsafe {
        launch!(
            cuda,
            kernel("hard_concrete_gradient"),
            blocks(count),
            256,
            0,
            ap,
            dzp,
            dap,
            drop,
            n,
            beta,
            low,
            high
        )
    }
}

pub(crate) fn gate(cuda: &Cuda, x: &Tensor, z: &Tensor) -> Result<Tensor> {
    const OP: &str = "gate";
    let y = Tensor::on_cuda(OP, cuda, DType::F32, x.shape())?;
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
    let (xp, zp, yp) = (pointer(x)?, pointer(z)?, pointer(&y)?);
    let (n, d, vec) = (x.num_rows(), x.width(), vector(x.width(), &[xp, zp, yp]));
    let (rows, columns) = (int(OP, n)?, int(OP, d)?);
    // SAFETY: parameters as in gates.cu; x and y are [n, d], z [d].
    unsafe { launch!(cuda, kernel("gate"), by_row(n), 256, 0, xp, zp, yp, rows, columns, vec)? };
    Ok(y)
}

pub(crate) fn multiply(cuda: &Cuda, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "multiply";
    let y = Tensor::on_cuda(OP, cuda, DType::F32, a.shape())?;
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
    let (ap, bp, yp, n) = (pointer(a)?, pointer(b)?, pointer(&y)?, a.len() as u64);
    // SAFETY: parameters as in gates.cu; all three tensors have n elements.
    unsafe { launch!(cuda, kernel("multiply"), blocks(a.len()), 256, 0, ap, bp, yp, n)? };
    Ok(y)
}

pub(crate) fn sparsity_penalty(cuda: &Cuda, args: &SparsityPenalty<'_>) -> Result<(Tensor, Tensor)> {
    const OP: &str = "sparsity_penalty";
    let out = Tensor::on_cuda(OP, cuda, DType::F32, &[2])?;
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
    let (ap, sp) = (pointer(args.log_alpha)?, pointer(args.shares)?);
    let (lp, op) = (pointer(args.lambda)?, pointer(&out)?);
    let n = int(OP, args.log_alpha.len())?;
    let (shift, target) = (args.distribution.shift() as f32, args.target as f32);
    // SAFETY: parameters as in gates.cu; log alpha and shares have n elements, lambda and out two.
    unsafe {
        launch!(
            cuda,
            kernel("sparsity_penalty"),
            (1, 1, 1),
            1024,
            0,
            ap,
            sp,
            lp,
            op,
            n,
            shift,
            target
        )?
    };
    Ok((out.rows(0..1)?, out.rows(1..2)?))
}

pub(crate) fn sparsity_penalty_gradient(
    cuda: &Cuda,
    args: &SparsityPenalty<'_>,
    [excess, dy, dlog_alpha, dlambda]: [&Tensor; 4],
) -> Result<()> {
    const OP: &str = "sparsity_penalty_gradient";
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
    let (ap, sp, lp) = (pointer(args.log_alpha)?, pointer(args.shares)?, pointer(args.lambda)?);
    let (ep, gp) = (pointer(excess)?, pointer(dy)?);
    let (dap, dlp) = (pointer(dlog_alpha)?, pointer(dlambda)?);
    let (count, n) = (args.log_alpha.len(), int(OP, args.log_alpha.len())?);
    let shift = args.distribution.shift() as f32;
    // SAFETY: parameters as in gates.cu; log alpha, its gradient and shares have n elements, lambda and its gradient two.
    unsafe {
        launch!(
            cuda,
            kernel("sparsity_penalty_gradient"),
            blocks(count),
            256,
            0,
            ap,
            sp,
            lp,
            ep,
            gp,
            dap,
            dlp,
            n,
            shift
        )
    }
}
