//! Rows of tables, and rows of activations.

use super::{by_float, check_indices, expect_shape, matrix};
use crate::cpu::embed as kernel;
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The sum of one row of each table, for each position: ids `[n]` i32 and tables `[rows, d]`; y `[n, d]`.
///
/// # Errors
/// If there is no table, shapes or types do not fit, or an id lies outside its table.
pub fn embed(tables: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    const OP: &str = "embed";
    let Some((first_ids, first_table)) = tables.first() else {
        return Err(Error::invalid(OP, "no table"));
    };
    let (n, d) = (first_ids.len(), first_table.width());
    if let Device::Cuda(cuda) = first_table.device() {
        for (ids, table) in tables {
            let (_, width) = matrix(OP, table)?;
            if ids.len() != n || width != d {
                return Err(Error::shape(OP, ids.shape(), table.shape()));
            }
        }
        return cuda::embed(cuda, tables, n, d);
    }
    by_float!(OP, first_table, T => {
        let mut guards = Vec::with_capacity(tables.len());
        for (ids, table) in tables {
            let (rows, width) = matrix(OP, table)?;
            if ids.len() != n || width != d {
                return Err(Error::shape(OP, ids.shape(), table.shape()));
            }
            let ids = ids.read::<i32>(OP)?;
            check_indices(OP, &ids, rows)?;
            guards.push((ids, table.read::<T>(OP)?));
        }
        let views: Vec<(&[i32], &[T])> = guards.iter().map(|(i, t)| (&**i, &**t)).collect();
        Tensor::make::<T>(OP, first_table.device(), &[n, d], |y| {
            kernel::embed_forward(&views, d, y);
            Ok(())
        })
    })
}

/// Adds row i of dy to row `ids[i]` of dtable, for every i in order.
///
/// # Errors
/// If shapes or types do not fit, or an id lies outside the table.
pub fn embed_gradient(ids: &Tensor, dy: &Tensor, dtable: &Tensor) -> Result<()> {
    const OP: &str = "embed_gradient";
    let (rows, d) = matrix(OP, dtable)?;
    expect_shape(OP, dy, &[ids.len(), d])?;
    if let Device::Cuda(cuda) = dy.device() {
        return cuda::embed_gradient(cuda, ids, dy, dtable);
    }
    by_float!(OP, dy, T => {
        let (ids, dys) = (ids.read::<i32>(OP)?, dy.read::<T>(OP)?);
        check_indices(OP, &ids, rows)?;
        kernel::embed_backward(&ids, &dys, d, dtable.write_guard::<T>(OP)?.slice());
        Ok(())
    })
}

/// The given rows of x `[n, d]`: rows `[k]` i32; y `[k, d]`.
///
/// # Errors
/// If a row number is not in 0..n.
pub fn gather_rows(x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    let (n, d) = (x.num_rows(), x.width());
    if let Device::Cuda(cuda) = x.device() {
        return cuda::gather_rows(cuda, x, rows);
    }
    by_float!(OP, x, T => {
        let (xs, indices) = (x.read::<T>(OP)?, rows.read::<i32>(OP)?);
        check_indices(OP, &indices, n)?;
        Tensor::make::<T>(OP, x.device(), &[rows.len(), d], |y| {
            kernel::gather_rows(&xs, &indices, d, y);
            Ok(())
        })
    })
}

/// The gradient of [`gather_rows`]: dx `[n, d]`, zero (or `onto`) but for the gathered rows.
///
/// # Errors
/// If shapes or types do not fit.
pub fn scatter_rows(dy: &Tensor, rows: &Tensor, n: usize, onto: Option<Tensor>) -> Result<Tensor> {
    const OP: &str = "scatter_rows";
    let d = dy.width();
    expect_shape(OP, dy, &[rows.len(), d])?;
    if let Device::Cuda(cuda) = dy.device() {
        return cuda::scatter_rows(cuda, dy, rows, n, onto);
    }
    by_float!(OP, dy, T => {
        let (dys, indices) = (dy.read::<T>(OP)?, rows.read::<i32>(OP)?);
        check_indices(OP, &indices, n)?;
        let (dx, accumulate) = Tensor::target::<T>(OP, onto, dy.device(), &[n, d])?;
        if !accumulate {
            dx.fill_zero()?;
        }
        kernel::scatter_rows_add(&dys, &indices, d, dx.write_guard::<T>(OP)?.slice());
        Ok(dx)
    })
}
