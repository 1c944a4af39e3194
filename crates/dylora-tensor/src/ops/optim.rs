//! Clipping and AdamW.

use super::{by_float, expect_shape, same_shape};
use crate::cpu::{adamw as kernel, elementwise};
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::float::Float;
use crate::tensor::Tensor;
use std::ops::Range;

/// A slab of a matrix: a range of indices along one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slab {
    /// 0 for rows, 1 for columns.
    pub axis: usize,
    /// The indices.
    pub range: Range<usize>,
}

impl Slab {
    /// The whole of `tensor`.
    pub fn whole(tensor: &Tensor) -> Self {
        Slab {
            axis: 0,
            range: 0..tensor.shape()[0],
        }
    }
}

/// The published forms of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdamWForm {
    /// Decay before the update, epsilon added after the bias correction (`torch.optim.AdamW`).
    Torch,
    /// Decay after the update, epsilon added before the bias correction (`AdamW` of transformers 4).
    HuggingFace4,
}

/// What AdamW needs for one index of a slab (indices of an adapter have step counts of their own).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWRow {
    /// Learning rate.
    pub lr: f64,
    /// 1 - beta1^t.
    pub bias1: f64,
    /// 1 - beta2^t.
    pub bias2: f64,
}

/// AdamW's settings for one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWHyper {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// Which form.
    pub form: AdamWForm,
}

/// Global-norm clipping without reading anything on the host: writes the factor min(1, max_norm / (norm + 1e-6)) (1
/// where `max_norm` is `None`) and the norm of all `gradients` into `out` `[2]`. Source of the constant:
/// `torch.nn.utils.clip_grad_norm_`.
///
/// # Errors
/// If types differ or `out` has another shape.
pub fn clip_factor(gradients: &[&Tensor], max_norm: Option<f64>, out: &Tensor) -> Result<()> {
    const OP: &str = "clip_factor";
    expect_shape(OP, out, &[2])?;
    if let Device::Cuda(cuda) = out.device() {
        return cuda::clip_factor(cuda, gradients, max_norm, out);
    }
    by_float!(OP, out, T => {
        let mut squares = 0.0;
        for gradient in gradients {
            squares += elementwise::sum_squares(&gradient.read::<T>(OP)?);
        }
        let norm = squares.sqrt();
        let factor = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        out.write(&[T::from_f64(factor), T::from_f64(norm)])
    })
}

/// What AdamW works on: a parameter, its gradient and its two moments, all of one shape and type.
#[derive(Clone, Copy, Debug)]
pub struct AdamWState<'a> {
    /// The parameter, changed.
    pub value: &'a Tensor,
    /// Its gradient, read.
    pub grad: &'a Tensor,
    /// First moment, changed.
    pub m: &'a Tensor,
    /// Second moment, changed.
    pub v: &'a Tensor,
}

/// One update of one parameter, for [`adamw_many`].
#[derive(Clone, Debug)]
pub struct AdamWItem<'a> {
    /// The parameter, its gradient and its moments.
    pub state: AdamWState<'a>,
    /// What of it moves.
    pub slab: Slab,
    /// One entry per index of the slab, or a single one for all.
    pub rows: Vec<AdamWRow>,
    /// Settings.
    pub hyper: AdamWHyper,
}

/// [`adamw`] of many parameters: a few launches in all on a GPU.
///
/// # Errors
/// As [`adamw`].
pub fn adamw_many(items: &[AdamWItem<'_>], clip: Option<&Tensor>) -> Result<()> {
    if let Some(Device::Cuda(cuda)) = items.first().map(|item| item.state.value.device()) {
        for item in items {
            check_item(&item.state, &item.slab, &item.rows)?;
        }
        return cuda::adamw(cuda, items, clip);
    }
    items
        .iter()
        .try_for_each(|item| adamw(&item.state, &item.slab, &item.rows, &item.hyper, clip))
}

/// The sizes of a parameter as a matrix, if state, slab and rows fit each other.
fn check_item(state: &AdamWState<'_>, slab: &Slab, rows: &[AdamWRow]) -> Result<(usize, usize)> {
    const OP: &str = "adamw";
    let AdamWState { value, grad, m, v } = state;
    for other in [grad, m, v] {
        same_shape(OP, other, value)?;
    }
    let size = (value.shape()[0], value.len().checked_div(value.shape()[0]).unwrap_or(0));
    let extent = if slab.axis == 0 { size.0 } else { size.1 };
    if slab.axis > 1 || slab.range.end > extent || (rows.len() != 1 && rows.len() != slab.range.len()) {
        return Err(Error::invalid(
            OP,
            format!(
                "slab {slab:?} with {} rows does not fit {:?}",
                rows.len(),
                value.shape()
            ),
        ));
    }
    Ok(size)
}

/// One AdamW update of the slab of a parameter; nothing outside the slab is touched.
///
/// `rows` has one entry per index of the slab, or a single one for all; `clip` is the `[2]` tensor of [`clip_factor`].
///
/// # Errors
/// If shapes or types do not fit, or the slab leaves the parameter.
pub fn adamw(
    state: &AdamWState<'_>,
    slab: &Slab,
    rows: &[AdamWRow],
    hyper: &AdamWHyper,
    clip: Option<&Tensor>,
) -> Result<()> {
    const OP: &str = "adamw";
    let size = check_item(state, slab, rows)?;
    let AdamWState { value, grad, m, v } = state;
    if let Device::Cuda(_) = value.device() {
        let item = AdamWItem {
            state: *state,
            slab: slab.clone(),
            rows: rows.to_vec(),
            hyper: *hyper,
        };
        return adamw_many(&[item], clip);
    }
    by_float!(OP, value, T => {
        let clip = clip.map(|c| c.read::<T>(OP).map(|c| c[0])).transpose()?;
        kernel::adamw(
            value.write_guard::<T>(OP)?.slice(),
            &grad.read::<T>(OP)?,
            m.write_guard::<T>(OP)?.slice(),
            v.write_guard::<T>(OP)?.slice(),
            size,
            slab.axis,
            slab.range.clone(),
            rows,
            hyper,
            clip,
        );
        Ok(())
    })
}
