//! The CUDA backend: libraries loaded at run time, kernels compiled by NVRTC, matrix products by cuBLAS.
//!
//! Its functions mirror those of `cpu`: `ops` has checked shapes and hands tensors over; here their types, device and age
//! are checked where a pointer is taken. Activations are f32 or bf16; parameters, biases, statistics, losses and what the
//! optimizer keeps are f32.
#![allow(unsafe_code)]

mod attention;
mod context;
mod decode;
mod elementwise;
mod gates;
mod gemm;
mod gpu;
mod graph;
mod heap;
mod lora;
mod lora_drop;
mod loss;
mod module;
mod norm;
mod optim;
mod residual;
mod rows;
mod staging;
mod vocabulary;

pub(crate) use attention::{
    attends_stacked, attention, attention_gradient, stacked_attention, stacked_attention_gradient,
};
pub use context::Cuda;
pub(crate) use decode::{attend_rows, top_log_softmax};
pub(crate) use elementwise::{
    add, add_into, bias_gelu, bias_gelu_gradient, column_sum_into, convert, dropout, gelu, gelu_gradient, linear,
    linear_input_gradient, linear_weight_gradient, scale_by, tanh, tanh_gradient,
};
pub(crate) use gates::{
    gate, hard_concrete, hard_concrete_gradient, multiply, sparsity_penalty, sparsity_penalty_gradient,
};
pub(crate) use graph::Recording;
pub(crate) use heap::Block;
pub(crate) use lora::{lora_linear, lora_linear_gradient, stacked_linear, stacked_linear_gradient, stacks};
pub(crate) use lora_drop::{stacked_linear as dropped_linear, stacked_linear_gradient as dropped_linear_gradient};
pub(crate) use loss::{cross_entropy, mse};
pub use module::KernelCache;
pub(crate) use norm::{layer_norm, layer_norm_gradient};
pub(crate) use optim::{adamw, clip_factor, zero_many};
pub(crate) use residual::residual_norm_gradient;
pub(crate) use rows::{embed, embed_gradient, gather_rows, scatter_rows};
pub(crate) use staging::Arriving;
pub(crate) use vocabulary::linear_cross_entropy;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::{Draw, Dropout};
use crate::tensor::Tensor;
use module::Kind;

/// Calls [`Cuda::launch`] with the addresses of the arguments.
macro_rules! launch {
    ($cuda:expr, $kernel:expr, $grid:expr, $block:expr, $shared:expr, $($arg:expr),* $(,)?) => {
        $cuda.launch(
            $kernel,
            $grid,
            $block,
            $shared,
            &mut [$(std::ptr::from_mut(&mut { $arg }).cast::<std::ffi::c_void>()),*],
        )
    };
}
use launch;

/// The module for a type of activations.
fn kind(op: &'static str, dtype: DType) -> Result<Kind> {
    match dtype {
        DType::F32 => Ok(Kind::F32),
        DType::Bf16 => Ok(Kind::Bf16),
        found => Err(Error::DType {
            op,
            expected: "f32 or bf16",
            found,
        }),
    }
}

/// A size as kernels take it.
fn int(op: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::invalid(op, format!("{n} is too large a side")))
}

/// Whether rows of this width that begin at these addresses can be read 16 bytes at a time.
fn vector(width: usize, pointers: &[u64]) -> i32 {
    i32::from(width.is_multiple_of(8) && pointers.iter().all(|p| p.is_multiple_of(16)))
}

/// Dropout as kernels take it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Drop {
    key: [u32; 2],
    purpose: u32,
    step: u32,
    site: u32,
    threshold: u32,
    scale: f32,
    on: u32,
    live: u64,
}

impl Drop {
    fn new(op: &'static str, cuda: &Cuda, dropout: Option<&Dropout>) -> Result<Self> {
        let Some(dropout) = dropout else {
            return Ok(Drop::default());
        };
        let (key, [purpose, step, site], threshold, scale) = dropout.parts();
        let (live, first) = cuda.live_draws(op, step, site)?;
        Ok(Drop {
            key,
            purpose,
            step,
            site: site - first,
            threshold: u32::from(threshold),
            scale: scale as f32,
            on: 1,
            live,
        })
    }

    /// A draw without dropout, for kernels that make something else of its bits.
    fn of_draw(op: &'static str, cuda: &Cuda, draw: &Draw) -> Result<Self> {
        let (key, [purpose, step, site]) = draw.parts();
        let (live, first) = cuda.live_draws(op, step, site)?;
        Ok(Drop {
            key,
            purpose,
            step,
            site: site - first,
            live,
            ..Drop::default()
        })
    }
}

/// A tensor's address, or none.
fn optional(op: &'static str, cuda: &Cuda, tensor: Option<&Tensor>, dtype: DType) -> Result<u64> {
    tensor.map_or(Ok(0), |t| t.cuda_pointer(op, cuda, dtype))
}

/// The tensor itself where it has this type, or a copy in it.
fn cast(cuda: &Cuda, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    convert(cuda, tensor, dtype)
}

/// Fails for integers that the host is known to have written and that no table row has. Kernels stay inside their
/// memory whatever the integers are.
fn check_known(op: &'static str, indices: &Tensor, limit: usize) -> Result<()> {
    let Some((least, greatest)) = indices.known_bounds() else {
        return Ok(());
    };
    if indices.is_empty() || (least >= 0 && usize::try_from(greatest).is_ok_and(|g| g < limit)) {
        return Ok(());
    }
    let wrong = if least < 0 { least } else { greatest };
    // A view may not hold the offending integer, and its place is worth a look on this path only.
    let values = match indices.to_vec::<i32>() {
        Ok(values) => values,
        Err(_) => vec![wrong],
    };
    for (position, value) in values.iter().enumerate() {
        if !usize::try_from(*value).is_ok_and(|v| v < limit) {
            return Err(Error::Index {
                op,
                index: i64::from(*value),
                position,
                limit,
            });
        }
    }
    Ok(())
}
