//! Elementwise kernels, conversions, and the linear layer.

use super::module::{Kind, Source};
use super::{Cuda, Drop, cast, int, kind, launch, vector};
use crate::cuda::gemm::Operand;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::Gelu;
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// Blocks of 256 threads that take eight elements each.
fn flat(n: usize) -> (usize, usize, usize) {
    (n.div_ceil(2048), 1, 1)
}

/// Blocks of eight warps, a row to a warp.
pub(super) fn by_row(n: usize) -> (usize, usize, usize) {
    (n.div_ceil(8), 1, 1)
}

/// Blocks of so many rows and 256 columns.
fn tiles(rows: usize, n: usize, d: usize) -> (usize, usize, usize) {
    (n.div_ceil(rows) * d.div_ceil(256), 1, 1)
}

fn aligned(pointers: &[u64]) -> i32 {
    vector(0, pointers)
}

/// y = f(x) for a kernel with parameters (x, y, n, [choice,] vec).
fn unary(op: &'static str, cuda: &Cuda, x: &Tensor, name: &'static str, choice: Option<i32>) -> Result<Tensor> {
    let kind = kind(op, x.dtype())?;
    let y = Tensor::on_cuda(op, cuda, x.dtype(), x.shape())?;
    let (xp, yp) = (
        x.cuda_pointer(op, cuda, x.dtype())?,
        y.cuda_pointer(op, cuda, x.dtype())?,
    );
    let (kernel, n, vec) = ((Source::Elementwise, kind, name), x.len() as u64, aligned(&[xp, yp]));
    // SAFETY: parameters as in elementwise.cu; both tensors have n elements.
    unsafe {
        match choice {
            Some(choice) => launch!(cuda, kernel, flat(x.len()), 256, 0, xp, yp, n, choice, vec)?,
            None => launch!(cuda, kernel, flat(x.len()), 256, 0, xp, yp, n, vec)?,
        }
    }
    Ok(y)
}

/// z = f(x, y) for a kernel with parameters (x, y, z, n, [choice,] vec).
fn binary(
    op: &'static str,
    cuda: &Cuda,
    [x, y]: [&Tensor; 2],
    name: &'static str,
    choice: Option<i32>,
) -> Result<Tensor> {
    let kind = kind(op, x.dtype())?;
    let z = Tensor::on_cuda(op, cuda, x.dtype(), x.shape())?;
    let pointer = |t: &Tensor| t.cuda_pointer(op, cuda, x.dtype());
    let (xp, yp, zp) = (pointer(x)?, pointer(y)?, pointer(&z)?);
    let (kernel, n, vec) = (
        (Source::Elementwise, kind, name),
        x.len() as u64,
        aligned(&[xp, yp, zp]),
    );
    // SAFETY: parameters as in elementwise.cu; all three tensors have n elements.
    unsafe {
        match choice {
            Some(choice) => launch!(cuda, kernel, flat(x.len()), 256, 0, xp, yp, zp, n, choice, vec)?,
            None => launch!(cuda, kernel, flat(x.len()), 256, 0, xp, yp, zp, n, vec)?,
        }
    }
    Ok(z)
}

fn form(kind: Gelu) -> Option<i32> {
    Some(i32::from(kind == Gelu::Tanh))
}

pub(crate) fn gelu(cuda: &Cuda, kind: Gelu, x: &Tensor) -> Result<Tensor> {
    unary("gelu", cuda, x, "gelu_forward", form(kind))
}

pub(crate) fn gelu_gradient(cuda: &Cuda, kind: Gelu, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    binary("gelu_gradient", cuda, [x, dy], "gelu_backward", form(kind))
}

pub(crate) fn bias_gelu(cuda: &Cuda, form: Gelu, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    const OP: &str = "bias_gelu";
    let kind = kind(OP, x.dtype())?;
    let y = Tensor::on_cuda(OP, cuda, x.dtype(), x.shape())?;
    let (xp, yp) = (
        x.cuda_pointer(OP, cuda, x.dtype())?,
        y.cuda_pointer(OP, cuda, x.dtype())?,
    );
    let bp = bias.cuda_pointer(OP, cuda, DType::F32)?;
    let (n, d, vec) = (x.num_rows(), x.width(), vector(x.width(), &[xp, yp, bp]));
    let kernel = (Source::Elementwise, kind, "bias_gelu_forward");
    let (rows, columns, choice) = (int(OP, n)?, int(OP, d)?, i32::from(form == Gelu::Tanh));
    // SAFETY: parameters as in elementwise.cu; x and y are [n, d], the bias [d].
    unsafe {
        launch!(
            cuda,
            kernel,
            tiles(32, n, d),
            256,
            0,
            xp,
            bp,
            yp,
            rows,
            columns,
            choice,
            vec
        )?
    };
    Ok(y)
}

pub(crate) fn bias_gelu_gradient(cuda: &Cuda, form: Gelu, x: &Tensor, bias: &Tensor, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "bias_gelu_gradient";
    let kind = kind(OP, x.dtype())?;
    let dx = Tensor::on_cuda(OP, cuda, x.dtype(), x.shape())?;
    let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, x.dtype());
    let (xp, dyp, dxp) = (pointer(x)?, pointer(dy)?, pointer(&dx)?);
    let bp = bias.cuda_pointer(OP, cuda, DType::F32)?;
    let (n, d, vec) = (x.num_rows(), x.width(), vector(x.width(), &[xp, dyp, dxp, bp]));
    let kernel = (Source::Elementwise, kind, "bias_gelu_backward");
    let (rows, columns, choice) = (int(OP, n)?, int(OP, d)?, i32::from(form == Gelu::Tanh));
    // SAFETY: parameters as in elementwise.cu; x, dy and dx are [n, d], the bias [d].
    unsafe {
        launch!(
            cuda,
            kernel,
            tiles(16, n, d),
            256,
            0,
            xp,
            bp,
            dyp,
            dxp,
            rows,
            columns,
            choice,
            vec
        )?
    };
    Ok(dx)
}

pub(crate) fn tanh(cuda: &Cuda, x: &Tensor) -> Result<Tensor> {
    unary("tanh", cuda, x, "tanh_forward", None)
}

pub(crate) fn tanh_gradient(cuda: &Cuda, y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    binary("tanh_gradient", cuda, [y, dy], "tanh_backward", None)
}

pub(crate) fn add(cuda: &Cuda, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    binary("add", cuda, [x, y], "add", None)
}

/// target += source; the target may be f32 where the source is bf16.
pub(crate) fn add_into(cuda: &Cuda, source: &Tensor, target: &Tensor) -> Result<()> {
    const OP: &str = "add_into";
    if source.shares_memory(target) {
        return Err(Error::Aliased { op: OP });
    }
    let kind = kind(OP, source.dtype())?;
    let wide = target.dtype() == DType::F32;
    let from = source.cuda_pointer(OP, cuda, source.dtype())?;
    let to = target.cuda_pointer(OP, cuda, if wide { DType::F32 } else { source.dtype() })?;
    let (n, vec) = (source.len() as u64, aligned(&[from, to]));
    // SAFETY: parameters as in elementwise.cu; both tensors have n elements.
    unsafe {
        if wide {
            let kernel = (Source::Elementwise, kind, "add_to_f32");
            launch!(cuda, kernel, flat(source.len()), 256, 0, from, to, n, vec)
        } else {
            let kernel = (Source::Elementwise, kind, "add");
            launch!(cuda, kernel, flat(source.len()), 256, 0, from, to, to, n, vec)
        }
    }
}

/// x times the one element of an f32 tensor.
pub(crate) fn scale_by(cuda: &Cuda, x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    const OP: &str = "scale_by";
    let kind = kind(OP, x.dtype())?;
    let y = Tensor::on_cuda(OP, cuda, x.dtype(), x.shape())?;
    let xp = x.cuda_pointer(OP, cuda, x.dtype())?;
    let fp = factor.cuda_pointer(OP, cuda, DType::F32)?;
    let yp = y.cuda_pointer(OP, cuda, x.dtype())?;
    let (kernel, n, vec) = (
        (Source::Elementwise, kind, "scale_by"),
        x.len() as u64,
        aligned(&[xp, yp]),
    );
    // SAFETY: parameters as in elementwise.cu.
    unsafe { launch!(cuda, kernel, flat(x.len()), 256, 0, xp, fp, yp, n, vec)? };
    Ok(y)
}

/// The same values in another type; f32 to bf16 and back.
pub(crate) fn convert(cuda: &Cuda, x: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "to_dtype";
    let name = match (x.dtype(), dtype) {
        (DType::F32, DType::Bf16) => "cast_from_f32",
        (DType::Bf16, DType::F32) => "cast_to_f32",
        (from, to) => {
            return Err(Error::Unsupported {
                op: OP,
                what: format!("{from} to {to}"),
            });
        }
    };
    let y = Tensor::on_cuda(OP, cuda, dtype, x.shape())?;
    let (xp, yp) = (x.cuda_pointer(OP, cuda, x.dtype())?, y.cuda_pointer(OP, cuda, dtype)?);
    let (kernel, n, vec) = (
        (Source::Elementwise, Kind::Bf16, name),
        x.len() as u64,
        aligned(&[xp, yp]),
    );
    // SAFETY: parameters as in elementwise.cu; both tensors have n elements.
    unsafe { launch!(cuda, kernel, flat(x.len()), 256, 0, xp, yp, n, vec)? };
    Ok(y)
}

pub(crate) fn dropout(cuda: &Cuda, x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    const OP: &str = "dropout";
    let kind = kind(OP, x.dtype())?;
    let y = Tensor::on_cuda(OP, cuda, x.dtype(), x.shape())?;
    let (xp, yp) = (
        x.cuda_pointer(OP, cuda, x.dtype())?,
        y.cuda_pointer(OP, cuda, x.dtype())?,
    );
    let (n, d) = (x.num_rows(), x.width());
    let (drop, vec) = (Drop::new(OP, cuda, Some(dropout))?, vector(d, &[xp, yp]));
    let kernel = (Source::Elementwise, kind, "dropout");
    let (rows, columns) = (int(OP, n)?, int(OP, d)?);
    // SAFETY: parameters as in elementwise.cu; x and y are [n, d].
    unsafe { launch!(cuda, kernel, by_row(n), 256, 0, xp, yp, drop, rows, columns, vec)? };
    Ok(y)
}

/// y += bias for every row.
fn bias_add(op: &'static str, cuda: &Cuda, y: &Tensor, bias: &Tensor) -> Result<()> {
    let kind = kind(op, y.dtype())?;
    let (yp, bp) = (
        y.cuda_pointer(op, cuda, y.dtype())?,
        bias.cuda_pointer(op, cuda, DType::F32)?,
    );
    let (n, d) = (y.num_rows(), y.width());
    let kernel = (Source::Elementwise, kind, "bias_add");
    let (rows, columns, vec) = (int(op, n)?, int(op, d)?, vector(d, &[yp, bp]));
    // SAFETY: parameters as in elementwise.cu; y is [n, d] and the bias [d].
    unsafe { launch!(cuda, kernel, by_row(n), 256, 0, yp, bp, rows, columns, vec) }
}

/// Rows that one block of a column sum takes.
pub(super) fn chunk_rows(n: usize) -> usize {
    n.div_ceil(64).max(32)
}

/// plain += column sums of dy; along += those of dy (s - mean) rstd, where s, mean and rstd are given.
pub(super) fn column_sums(
    op: &'static str,
    cuda: &Cuda,
    dy: &Tensor,
    normalised: Option<[&Tensor; 3]>,
    plain: Option<&Tensor>,
    along: Option<&Tensor>,
) -> Result<()> {
    let (n, d) = (dy.num_rows(), dy.width());
    if n == 0 {
        return Ok(());
    }
    let kind = kind(op, dy.dtype())?;
    let rows = chunk_rows(n);
    let chunks = n.div_ceil(rows);
    let partial = Tensor::on_cuda(op, cuda, DType::F32, &[chunks, 2, d])?;
    let part = partial.cuda_pointer(op, cuda, DType::F32)?;
    let dyp = dy.cuda_pointer(op, cuda, dy.dtype())?;
    let [sp, mean, rstd] = match normalised {
        Some([s, mean, rstd]) => [
            s.cuda_pointer(op, cuda, dy.dtype())?,
            mean.cuda_pointer(op, cuda, DType::F32)?,
            rstd.cuda_pointer(op, cuda, DType::F32)?,
        ],
        None => [0; 3],
    };
    let (plain, along) = (
        super::optional(op, cuda, plain, DType::F32)?,
        super::optional(op, cuda, along, DType::F32)?,
    );
    let vec = vector(d, &[dyp, sp]);
    let (height, width) = (int(op, n)?, int(op, d)?);
    // SAFETY: parameters as in elementwise.cu; dy and s are [n, d], mean and rstd [n], the targets [d].
    unsafe {
        let kernel = (Source::Elementwise, kind, "column_partial");
        let grid = (d.div_ceil(256), chunks, 1);
        launch!(
            cuda,
            kernel,
            grid,
            256,
            0,
            dyp,
            sp,
            mean,
            rstd,
            part,
            height,
            width,
            int(op, rows)?,
            vec
        )?;
        let kernel = (Source::Elementwise, kind, "column_finish");
        let grid = (d.div_ceil(256), 1, 1);
        launch!(cuda, kernel, grid, 256, 0, part, plain, along, int(op, chunks)?, width)
    }
}

pub(crate) fn column_sum_into(cuda: &Cuda, dy: &Tensor, db: &Tensor) -> Result<()> {
    column_sums("column_sum", cuda, dy, None, Some(db), None)
}

pub(super) fn operand(op: &'static str, cuda: &Cuda, x: &Tensor, transposed: bool) -> Result<Operand> {
    Ok(Operand {
        at: x.cuda_pointer(op, cuda, x.dtype())?,
        width: x.width(),
        transposed,
    })
}

/// y = x Wᵀ + bias; a weight of another type than x is rounded to it.
pub(crate) fn linear(
    cuda: &Cuda,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    const OP: &str = "linear";
    let weight = cast(cuda, weight, x.dtype())?;
    let y = Tensor::on_cuda(OP, cuda, x.dtype(), shape)?;
    let (a, b) = (operand(OP, cuda, x, false)?, operand(OP, cuda, &weight, true)?);
    let sizes = [x.num_rows(), weight.shape()[0], x.width()];
    let yp = y.cuda_pointer(OP, cuda, x.dtype())?;
    cuda.product(OP, sizes, a, b, x.dtype(), yp, x.dtype(), false)?;
    if let Some(bias) = bias {
        bias_add(OP, cuda, &y, bias)?;
    }
    Ok(y)
}

pub(crate) fn linear_input_gradient(
    cuda: &Cuda,
    dy: &Tensor,
    weight: &Tensor,
    onto: Option<Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    const OP: &str = "linear_input_gradient";
    let weight = cast(cuda, weight, dy.dtype())?;
    let (dx, accumulate) = Tensor::cuda_target(OP, onto, cuda, dy.dtype(), shape)?;
    let (a, b) = (operand(OP, cuda, dy, false)?, operand(OP, cuda, &weight, false)?);
    let sizes = [dy.num_rows(), weight.width(), dy.width()];
    let at = dx.cuda_pointer(OP, cuda, dy.dtype())?;
    cuda.product(OP, sizes, a, b, dy.dtype(), at, dy.dtype(), accumulate)?;
    Ok(dx)
}

pub(crate) fn linear_weight_gradient(cuda: &Cuda, dy: &Tensor, x: &Tensor, dw: &Tensor) -> Result<()> {
    const OP: &str = "linear_weight_gradient";
    if dy.dtype() != x.dtype() {
        return Err(Error::DType {
            op: OP,
            expected: "dy and x of one type",
            found: x.dtype(),
        });
    }
    let (a, b) = (operand(OP, cuda, dy, true)?, operand(OP, cuda, x, false)?);
    let sizes = [dy.width(), x.width(), x.num_rows()];
    let at = dw.cuda_pointer(OP, cuda, DType::F32)?;
    cuda.product(OP, sizes, a, b, dy.dtype(), at, DType::F32, true)
}
