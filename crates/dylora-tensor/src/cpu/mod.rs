//! The CPU backend: plain loops over rows, in parallel, in a fixed order.
//!
//! Every kernel takes slices and writes into slices; results do not depend on the number of threads.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod decode;
pub(crate) mod elementwise;
pub(crate) mod embed;
pub(crate) mod few;
pub(crate) mod gates;
pub(crate) mod gemm;
pub(crate) mod lora;
pub(crate) mod loss;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod svd;
