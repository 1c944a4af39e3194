//! Rows of tables and of activations.

use super::elementwise::by_row;
use super::module::Source;
use super::{Cuda, check_known, int, kind, launch, vector};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Tables of one call, as the kernel takes them.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Tables {
    rows: [u64; 4],
    ids: [u64; 4],
    limit: [i32; 4],
    is_f32: [i32; 4],
    count: i32,
}

/// The sum of one row of each table; frozen tables give their type, tables that learn are f32 and give `activations`.
pub(crate) fn embed(cuda: &Cuda, tables: &[(&Tensor, &Tensor)], n: usize, d: usize) -> Result<Tensor> {
    const OP: &str = "embed";
    let mut list = Tables::default();
    if tables.len() > list.rows.len() {
        return Err(Error::Unsupported {
            op: OP,
            what: format!("a sum of {} tables (4 are the most)", tables.len()),
        });
    }
    // Where any table is bf16 the model computes in bf16.
    let narrow = tables.iter().any(|(_, table)| table.dtype() == DType::Bf16);
    let dtype = if narrow { DType::Bf16 } else { DType::F32 };
    for (i, (ids, table)) in tables.iter().enumerate() {
        check_known(OP, ids, table.num_rows())?;
        list.rows[i] = table.cuda_pointer(OP, cuda, table.dtype())?;
        list.ids[i] = ids.cuda_pointer(OP, cuda, DType::I32)?;
        list.limit[i] = int(OP, table.num_rows())?;
        list.is_f32[i] = i32::from(table.dtype() == DType::F32);
        list.count += 1;
    }
    let y = Tensor::on_cuda(OP, cuda, dtype, &[n, d])?;
    let yp = y.cuda_pointer(OP, cuda, dtype)?;
    let vec = vector(d, &[yp, list.rows[0] | list.rows[1] | list.rows[2] | list.rows[3]]);
    let kernel = (Source::Rows, kind(OP, dtype)?, "embed");
    let (rows, columns) = (int(OP, n)?, int(OP, d)?);
    // SAFETY: parameters as in rows.cu; the kernel keeps ids inside their tables.
    unsafe { launch!(cuda, kernel, by_row(n), 256, 0, list, yp, rows, columns, vec)? };
    Ok(y)
}

pub(crate) fn gather_rows(cuda: &Cuda, x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    let (n, d, k) = (x.num_rows(), x.width(), rows.len());
    if k > 0 && n == 0 {
        return Err(Error::shape(OP, x.shape(), rows.shape()));
    }
    check_known(OP, rows, n)?;
    let y = Tensor::on_cuda(OP, cuda, x.dtype(), &[k, d])?;
    let (xp, yp) = (
        x.cuda_pointer(OP, cuda, x.dtype())?,
        y.cuda_pointer(OP, cuda, x.dtype())?,
    );
    let ids = rows.cuda_pointer(OP, cuda, DType::I32)?;
    let kernel = (Source::Rows, kind(OP, x.dtype())?, "gather_rows");
    let (n, count, d, vec) = (int(OP, n)?, int(OP, k)?, int(OP, d)?, vector(d, &[xp, yp]));
    // SAFETY: parameters as in rows.cu; the kernel keeps row numbers inside x.
    unsafe { launch!(cuda, kernel, by_row(k), 256, 0, xp, ids, yp, n, count, d, vec)? };
    Ok(y)
}

/// target[ids[i]] += dy[i] in the order of i.
fn scatter(
    op: &'static str,
    cuda: &Cuda,
    name: &'static str,
    dy: &Tensor,
    ids: &Tensor,
    target: &Tensor,
) -> Result<()> {
    let (k, n, d) = (ids.len(), target.num_rows(), target.width());
    check_known(op, ids, n)?;
    let dyp = dy.cuda_pointer(op, cuda, dy.dtype())?;
    let ip = ids.cuda_pointer(op, cuda, DType::I32)?;
    let tp = target.cuda_pointer(op, cuda, target.dtype())?;
    let kernel = (Source::Rows, kind(op, dy.dtype())?, name);
    let grid = (k.div_ceil(8), d.div_ceil(256), 1);
    let (count, n, columns, vec) = (int(op, k)?, int(op, n)?, int(op, d)?, vector(d, &[dyp, tp]));
    // SAFETY: parameters as in rows.cu; dy is [k, d], the target [n, d], and the kernel skips ids outside it.
    unsafe { launch!(cuda, kernel, grid, 256, 0, dyp, ip, tp, count, n, columns, vec) }
}

pub(crate) fn embed_gradient(cuda: &Cuda, ids: &Tensor, dy: &Tensor, dtable: &Tensor) -> Result<()> {
    if dtable.dtype() != DType::F32 {
        return Err(Error::DType {
            op: "embed_gradient",
            expected: "f32",
            found: dtable.dtype(),
        });
    }
    scatter("embed_gradient", cuda, "embed_gradient", dy, ids, dtable)
}

pub(crate) fn scatter_rows(cuda: &Cuda, dy: &Tensor, rows: &Tensor, n: usize, onto: Option<Tensor>) -> Result<Tensor> {
    const OP: &str = "scatter_rows";
    let (dx, accumulate) = Tensor::cuda_target(OP, onto, cuda, dy.dtype(), &[n, dy.width()])?;
    if !accumulate {
        dx.fill_zero()?;
    }
    if dx.dtype() != dy.dtype() {
        return Err(Error::DType {
            op: OP,
            expected: "gradients of one type",
            found: dx.dtype(),
        });
    }
    scatter(OP, cuda, "scatter_rows", dy, rows, &dx)?;
    Ok(dx)
}
