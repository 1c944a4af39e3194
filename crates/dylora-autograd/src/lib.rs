//! Reverse-mode differentiation with an explicit tape, a handful of fused operations, and gradients that can be limited
//! to some ranks of a low-rank factor.
//!
//! A [`Tape`] lives for one step. Operations in [`ops`] compute a value at once and, if an input or weight wants a
//! gradient, leave a record; [`Tape::backward`] consumes the tape in reverse and adds to [`Parameter::grad`].
//!
//! By hand: for the loss (w x - t)² with w = 3, x = 2, t = 5 the residual is 1, so d loss / d w = 2 · 1 · x = 4.
//! With the tape:
//!
//! ```
//! use dylora_autograd::{Parameter, Result, Tape, Weight, ops};
//! use dylora_autograd::tensor::{Device, Tensor};
//!
//! fn main() -> Result<()> {
//!     let device = Device::cpu();
//!     let w = Parameter::new("w", Tensor::from_slice(&device, &[3.0f64], &[1, 1])?, true)?;
//!     let target = Tensor::from_slice(&device, &[5.0f64], &[1])?;
//!
//!     let mut tape = Tape::new();
//!     let x = tape.constant(&Tensor::from_slice(&device, &[2.0f64], &[1, 1])?);
//!     let y = ops::linear(&mut tape, &x, &Weight::Trained(w.clone()), None)?;
//!     let loss = ops::mse(&mut tape, &y, &target, 1.0)?;
//!     assert_eq!(loss.value().to_vec::<f64>()?, [1.0]);
//!     tape.backward(&loss)?;
//!     assert_eq!(w.grad().to_vec::<f64>()?, [4.0]);
//!     Ok(())
//! }
//! ```
//!
//! # Invariants
//! - No global state: the tape is a value, gradients belong to parameters, a frozen weight has no place for one.
//! - An operation records itself only if something wants a gradient, and keeps only what the wanted gradients need;
//!   [`Tape::saved`] lists it.
//! - A rank mask acts where a gradient is stored, never where it is propagated.
//! - This crate names no array library, no device library, no files, no layers and no tokens.

pub mod gradcheck;
mod op;
pub mod ops;
mod param;
mod sink;
mod slice;
mod tape;
mod var;

pub use dylora_tensor as tensor;
pub use dylora_tensor::{Error, Result};

pub use op::{CustomOp, OpKind};
pub use param::{Parameter, Weight};
pub use sink::{GradSink, Input};
pub use slice::{GradMask, RankSlice, SliceCell};
pub use tape::Tape;
pub use var::Var;

/// The code of the README is run with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
