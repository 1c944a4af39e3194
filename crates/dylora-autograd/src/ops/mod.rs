//! The differentiable operations, one file each: the formula, the value, and the gradient by hand.

pub(crate) mod add;
pub(crate) mod attention;
pub(crate) mod bias_gelu;
pub(crate) mod custom;
pub(crate) mod dropout;
pub(crate) mod embed;
pub(crate) mod gate;
pub(crate) mod gather_rows;
pub(crate) mod gelu;
pub(crate) mod hard_concrete;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod linear_cross_entropy;
pub(crate) mod lora_linear;
pub(crate) mod loss;
pub(crate) mod parameter;
pub(crate) mod residual_norm;
pub(crate) mod sparsity_penalty;
pub(crate) mod stacked_attention;
pub(crate) mod stacked_linear;
pub(crate) mod tanh;

pub use add::add;
pub use attention::attention;
pub use bias_gelu::bias_gelu;
pub use dropout::dropout;
pub use dylora_tensor::ops::{
    Attention as AttentionArgs, CrossEntropy, Gelu, HardConcrete, defers_bias, logit_rows, stacks, svd, vocabulary_rows,
};
pub use embed::embed;
pub use gate::gate;
pub use gather_rows::gather_rows;
pub use gelu::gelu;
pub use hard_concrete::hard_concrete;
pub use layer_norm::{bias_layer_norm, layer_norm};
pub use linear::linear;
pub use linear_cross_entropy::linear_cross_entropy;
pub use lora_linear::{Lora, lora_linear, low_rank};
pub use loss::{cross_entropy, mse};
pub use residual_norm::residual_norm;
pub use sparsity_penalty::sparsity_penalty;
pub use stacked_attention::stacked_attention;
pub use stacked_linear::stacked_linear;
pub use tanh::tanh;
