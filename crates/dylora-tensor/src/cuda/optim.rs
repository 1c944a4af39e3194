//! Zeroing, clipping and AdamW over many tensors in one launch each; all of it f32.

use super::module::{Kind, Source};
use super::{Cuda, int, launch, optional};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{AdamWForm, AdamWItem};
use crate::tensor::Tensor;

/// Tensors of one launch; what fits into a kernel's parameters.
const MANY: usize = 96;
/// Parameters of one AdamW launch.
const UPDATES: usize = 32;
/// Blocks along the elements of one tensor.
const BLOCKS: usize = 64;

#[derive(Clone, Copy)]
#[repr(C)]
struct Spans {
    at: [u64; MANY],
    len: [u64; MANY],
}

impl Spans {
    fn new(op: &'static str, cuda: &Cuda, tensors: &[&Tensor]) -> Result<Self> {
        let mut spans = Spans {
            at: [0; MANY],
            len: [0; MANY],
        };
        for (i, tensor) in tensors.iter().enumerate() {
            spans.at[i] = tensor.cuda_pointer(op, cuda, DType::F32)?;
            spans.len[i] = tensor.len() as u64;
        }
        Ok(spans)
    }
}

fn kernel(name: &'static str) -> super::module::Kernel {
    (Source::Optim, Kind::F32, name)
}

/// Sets all elements of all tensors to zero.
pub(crate) fn zero_many(cuda: &Cuda, tensors: &[&Tensor]) -> Result<()> {
    for part in tensors.chunks(MANY) {
        let spans = Spans::new("zero_many", cuda, part)?;
        // SAFETY: parameters as in optim.cu; every span is a tensor's memory.
        unsafe { launch!(cuda, kernel("zero_many"), (BLOCKS, part.len(), 1), 256, 0, spans)? };
    }
    Ok(())
}

pub(crate) fn clip_factor(cuda: &Cuda, gradients: &[&Tensor], max_norm: Option<f64>, out: &Tensor) -> Result<()> {
    const OP: &str = "clip_factor";
    // f64 sums in memory of another name: the device has no f64 tensors.
    let partial = Tensor::on_cuda(OP, cuda, DType::F32, &[gradients.len().max(1) * BLOCKS, 2])?;
    let pp = partial.cuda_pointer(OP, cuda, DType::F32)?;
    for (index, part) in gradients.chunks(MANY).enumerate() {
        let spans = Spans::new(OP, cuda, part)?;
        let first = int(OP, index * MANY)?;
        // SAFETY: parameters as in optim.cu; there is one f64 for each block of each tensor.
        unsafe {
            launch!(
                cuda,
                kernel("square_partial"),
                (BLOCKS, part.len(), 1),
                256,
                0,
                spans,
                pp,
                first
            )?
        };
    }
    let (count, limit) = (int(OP, gradients.len() * BLOCKS)?, max_norm.unwrap_or(-1.0));
    let to = out.cuda_pointer(OP, cuda, DType::F32)?;
    // SAFETY: as above; `out` has two elements.
    unsafe { launch!(cuda, kernel("clip_finish"), (1, 1, 1), 256, 0, pp, count, limit, to) }
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Update {
    pointers: [u64; 4],
    rows: u32,
    cols: u32,
    axis: u32,
    first: u32,
    last: u32,
    factors: u32,
    per_index: u32,
    pad: u32,
    unused: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    near: u32,
    huggingface: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Updates {
    at: [Update; UPDATES],
}

/// One update of every item's slab.
pub(crate) fn adamw(cuda: &Cuda, items: &[AdamWItem<'_>], clip: Option<&Tensor>) -> Result<()> {
    const OP: &str = "adamw";
    let side = |n: usize| u32::try_from(n).map_err(|_| Error::invalid(OP, format!("{n} is too large a side")));
    let mut factors: Vec<f32> = Vec::new();
    let mut updates = Vec::with_capacity(items.len());
    for item in items
        .iter()
        .filter(|item| !item.slab.range.is_empty() && !item.rows.is_empty())
    {
        let hyper = &item.hyper;
        let value = item.state.value;
        let rows = value.shape()[0];
        let pointer = |t: &Tensor| t.cuda_pointer(OP, cuda, DType::F32);
        updates.push(Update {
            pointers: [
                pointer(value)?,
                pointer(item.state.grad)?,
                pointer(item.state.m)?,
                pointer(item.state.v)?,
            ],
            rows: side(rows)?,
            cols: side(value.len().checked_div(rows).unwrap_or(0))?,
            axis: side(item.slab.axis)?,
            first: side(item.slab.range.start)?,
            last: side(item.slab.range.end)?,
            factors: side(factors.len() / 3)?,
            per_index: u32::from(item.rows.len() > 1),
            beta1: hyper.beta1 as f32,
            rest1: (1.0 - hyper.beta1) as f32,
            beta2: hyper.beta2 as f32,
            rest2: (1.0 - hyper.beta2) as f32,
            eps: hyper.eps as f32,
            near: u32::from(1.0 - hyper.beta1 < 0.5),
            huggingface: u32::from(hyper.form == AdamWForm::HuggingFace4),
            ..Update::default()
        });
        for row in &item.rows {
            // As on the CPU: computed in f64 and rounded once.
            let (decay, step) = match hyper.form {
                AdamWForm::Torch => (1.0 - row.lr * hyper.decay, row.lr / row.bias1),
                AdamWForm::HuggingFace4 => (-row.lr * hyper.decay, row.lr * row.bias2.sqrt() / row.bias1),
            };
            factors.extend([decay as f32, -step as f32, row.bias2.sqrt() as f32]);
        }
    }
    if updates.is_empty() {
        return Ok(());
    }
    let table = Tensor::on_cuda(OP, cuda, DType::F32, &[factors.len()])?;
    table.write(&factors)?;
    let fp = table.cuda_pointer(OP, cuda, DType::F32)?;
    let cp = optional(OP, cuda, clip, DType::F32)?;
    for part in updates.chunks(UPDATES) {
        let mut list = Updates::default();
        list.at[..part.len()].copy_from_slice(part);
        let most = part
            .iter()
            .map(|u| u.rows as usize * u.cols as usize)
            .max()
            .unwrap_or(0);
        let grid = (most.div_ceil(256).clamp(1, 256), part.len(), 1);
        // SAFETY: parameters as in optim.cu; each item's four tensors have one shape and its slab lies inside it.
        unsafe { launch!(cuda, kernel("adamw"), grid, 256, 0, list, fp, cp)? };
    }
    Ok(())
}
