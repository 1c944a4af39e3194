//! Every operation on tensors, and the only place where a device is chosen.
//!
//! Functions check shapes, types and indices, make the result and hand slices to a kernel. `x` is `[n, d]` row-major
//! with any leading dimensions counted as rows; a gradient has the shape of its value. Functions named `..._into` and
//! parameters named `d...` are added to; `onto` is a gradient that already exists and is added to where given.

mod attention;
mod biased;
mod decode;
mod elementwise;
mod embed;
mod gates;
mod linear;
mod loss;
mod low_rank;
mod norm;
mod optim;
mod residual;
mod stacked;
mod vocabulary;

pub use attention::{Attended, Attention, attention, attention_gradient};
pub use biased::{bias_gelu, bias_gelu_gradient, bias_layer_norm, defers_bias};
pub use decode::{CacheAttention, TopClasses, attend_rows, top_log_softmax};
pub use elementwise::{Gelu, add, add_into, dropout, gelu, gelu_gradient, scale_by, tanh, tanh_gradient, zero_many};
pub use embed::{embed, embed_gradient, gather_rows, scatter_rows};
pub use gates::{
    HardConcrete, SparsityPenalty, gate, gate_gradient, hard_concrete, hard_concrete_gradient, sparsity_penalty,
    sparsity_penalty_gradient, svd,
};
pub use linear::{column_sum_into, linear, linear_input_gradient, linear_weight_gradient};
pub use loss::{CrossEntropy, cross_entropy, mse};
pub use low_rank::{LowRank, LowRankGradients, lora_linear, lora_linear_gradient};
pub use norm::{NormGradients, Normalised, layer_norm, layer_norm_gradient};
pub use optim::{AdamWForm, AdamWHyper, AdamWItem, AdamWRow, AdamWState, Slab, adamw, adamw_many, clip_factor};
pub use residual::{residual_norm, residual_norm_gradient};
pub use stacked::{
    StackedPath, stacked_attention, stacked_attention_gradient, stacked_linear, stacked_linear_gradient, stacks,
};
pub use vocabulary::{VocabularyLoss, linear_cross_entropy, logit_rows, vocabulary_rows};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Runs a body for the floating-point type of a tensor.
macro_rules! by_float {
    ($op:expr, $tensor:expr, $T:ident => $body:expr) => {
        match $tensor.dtype() {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F64 => {
                type $T = f64;
                $body
            }
            found => Err(Error::DType {
                op: $op,
                expected: "f32 or f64",
                found,
            }),
        }
    };
}
pub(crate) use by_float;

fn same_shape(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.shape() != b.shape() {
        return Err(Error::shape(op, a.shape(), b.shape()));
    }
    Ok(())
}

fn expect_shape(op: &'static str, t: &Tensor, shape: &[usize]) -> Result<()> {
    if t.shape() != shape {
        return Err(Error::shape(op, t.shape(), shape));
    }
    Ok(())
}

/// Sizes (rows, columns) of a matrix without empty dimensions.
fn matrix(op: &'static str, t: &Tensor) -> Result<(usize, usize)> {
    match t.shape() {
        [m, d] if *m > 0 && *d > 0 => Ok((*m, *d)),
        other => Err(Error::shape(op, other, &[])),
    }
}

fn with_width(t: &Tensor, width: usize) -> Vec<usize> {
    let mut shape = t.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape
}

fn check_indices(op: &'static str, indices: &[i32], limit: usize) -> Result<()> {
    for (position, index) in indices.iter().enumerate() {
        if usize::try_from(*index).is_ok_and(|i| i < limit) {
            continue;
        }
        return Err(Error::Index {
            op,
            index: i64::from(*index),
            position,
            limit,
        });
    }
    Ok(())
}
