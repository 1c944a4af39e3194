//! Numbers in memory: contiguous tensors, the kernels a transformer needs, and counter-based random streams.
//!
//! A [`Tensor`] is row-major, has at most four dimensions and knows its element type and device at run time. There are
//! no strides and no broadcasting: a transpose is a flag of a product, heads are the attention kernel's business, and
//! activations of many sequences are packed into one `[tokens, width]` matrix whose [`Segments`] say where each begins.
//! No row is ever padding.
//!
//! ```
//! use dylora_tensor::{Device, Result, Tensor, ops};
//!
//! fn main() -> Result<()> {
//!     let device = Device::cpu();
//!     let x = Tensor::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0], &[2, 2])?;
//!     let weight = Tensor::from_slice(&device, &[1.0f32, 1.0, 0.0, -1.0], &[2, 2])?;
//!     let y = ops::linear(&x, &weight, None)?; // x Wᵀ
//!     assert_eq!(y.to_vec::<f32>()?, [3.0, -2.0, 7.0, -4.0]);
//!     Ok(())
//! }
//! ```
//!
//! # Invariants
//! - This crate names no other crate of the workspace, no files (but one that is open already: [`FileMap`]) and no
//!   environment, and knows nothing of tapes, layers or tokens. It is the only one that contains `unsafe`, `ndarray`, `cudarc` and vector instructions.
//! - Every operation is dispatched in [`ops`] and nowhere else; a device is one more arm there.
//! - Results do not depend on the number of threads: sums have a fixed order, and nothing is added atomically.
//! - Shapes, types and indices are checked before a kernel runs; what a caller gets wrong is an [`Error`], not a panic.

mod cpu;
mod cuda;
mod device;
mod dtype;
mod error;
mod float;
mod map;
pub mod ops;
mod rng;
mod segments;
mod shape;
mod step;
mod tensor;

pub use cuda::{Cuda, KernelCache};
pub use device::{Cpu, Device};
pub use dtype::{DType, Elem};
pub use error::{Error, Result};
pub use float::Float;
pub use half::bf16;
pub use map::FileMap;
pub use rng::{Draw, Draws, Dropout, Purpose, Stream, StreamRng, philox};
pub use segments::Segments;
pub use shape::MAX_RANK;
pub use step::{Pass, PassInput, PassRanks, PassValues, Ran, StepCache, StepKey};
pub use tensor::{Later, Tensor};

/// The code of the README is run with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
