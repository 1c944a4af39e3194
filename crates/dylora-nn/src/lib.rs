//! Transformers (RoBERTa, BERT, GPT-2) with DyLoRA adapters: one adapter, trained once, that works at every rank from 1 to r.
//!
//! ```
//! use dylora_nn::autograd::{Tape, ops};
//! use dylora_nn::tensor::{DType, Device, Purpose, Segments, Stream, Tensor};
//! use dylora_nn::*;
//!
//! fn main() -> Result<()> {
//!     // A tiny random RoBERTa with adapters of rank 4 on query and value.
//!     let config = EncoderConfig {
//!         vocab_size: 20,
//!         hidden_size: 8,
//!         num_layers: 2,
//!         num_heads: 2,
//!         intermediate_size: 16,
//!         ..EncoderConfig::roberta_base()
//!     };
//!     let device = Device::cpu();
//!     let settings = AdapterSettings::query_value(4, 8.0);
//!     let model = SequenceClassifier::new(&device, DType::F32, &config, 2, Some(&settings), None, 42)?;
//!     let mut optimizer = AdamW::new(&model.parameters(), AdamWSettings::default())?;
//!
//!     // Two sequences, packed: no token is padding.
//!     let ids = |v: &[i32]| Tensor::from_slice(&device, v, &[v.len()]);
//!     let inputs = Inputs {
//!         ids: ids(&[0, 5, 6, 2, 0, 7, 2])?,
//!         positions: ids(&[2, 3, 4, 5, 2, 3, 4])?,
//!         token_types: ids(&[0; 7])?,
//!         segments: Segments::new(&device, &[4, 3])?,
//!         first: Selected::one_each(ids(&[0, 4])?)?,
//!     };
//!
//!     // One training step at a rank that is drawn.
//!     let sampler = RankSampler::new(Distribution::Uniform, 1, 4)?;
//!     let b = sampler.draw(&mut Stream::new(42, Purpose::Rank).at(0));
//!     let slice = Method::DyLora.slice(b, 4);
//!     model.slice().set(slice.clone());
//!     let mut tape = Tape::new();
//!     let dropout = Some(Stream::new(42, Purpose::Dropout).draws(0));
//!     let mut ctx = Ctx { tape: &mut tape, slice, dropout };
//!     let logits = model.forward(&mut ctx, &inputs)?;
//!     let mean = ops::CrossEntropy { smoothing: 0.0, ignore: None, weight: 0.5 };
//!     let loss = ops::cross_entropy(&mut tape, &logits, &ids(&[1, 0])?, &mean)?;
//!     tape.backward(&loss)?;
//!     optimizer.step(4e-4, Some(1.0))?;
//!
//!     // The adapter answers at every rank.
//!     for rank in 1..=4 {
//!         let mut tape = Tape::inference();
//!         let slice = autograd::RankSlice::full(rank);
//!         let logits = model.forward(&mut Ctx { tape: &mut tape, slice, dropout: None }, &inputs)?;
//!         assert_eq!(logits.value().shape(), [2, 2]);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Invariants
//! - Parameter names are the published checkpoints' keys. Loading is strict both ways: all missing, unexpected and
//!   misshapen keys are reported at once.
//! - A frozen weight is a [`Weight::Frozen`](autograd::Weight::Frozen): there is no place for its gradient.
//! - The scale at rank b is alpha / b unless another [`ScaleRule`] is chosen, in training and in evaluation.
//! - Files are touched in `checkpoint.rs` and nowhere else; this crate knows no text, no metrics and no command line, and
//!   names neither array nor device libraries.

mod attention;
mod block;
mod checkpoint;
mod classifier;
mod config;
mod ctx;
mod dylora;
mod encoder;
mod error;
mod flop;
mod gpt2;
mod head;
mod linear;
mod loss;
mod masked_lm;
mod method;
mod norm;
mod optim;
mod projections;
mod sampler;
mod schedule;
mod scope;

pub use dylora_autograd as autograd;
pub use dylora_autograd::tensor;

pub use attention::SelfAttention;
pub use block::Block;
pub use checkpoint::{Checkpoint, WeightFormat, save_tensors, save_tensors_as};
pub use classifier::SequenceClassifier;
pub use config::{EncoderConfig, Family};
pub use ctx::{Ctx, Inputs, Selected};
pub use dylora::{AdaptedLinear, Adapter, AdapterSettings};
pub use encoder::Encoder;
pub use error::{Error, KeyReport, Result};
pub use flop::{Factors, FlopSettings, Gates, Remaining};
pub use gpt2::{CausalInputs, Decoder, Fed, Feed, Gpt2Block, Gpt2Config, Gpt2LanguageModel};
pub use head::ClassificationHead;
pub use linear::Linear;
pub use loss::Targets;
pub use masked_lm::{LanguageModelHead, MaskedLanguageModel};
pub use method::{AdapterInit, Method, Objective, ScaleRule, Target, Update};
pub use norm::LayerNorm;
pub use optim::{AdamW, AdamWForm, AdamWSettings};
pub use sampler::{Distribution, RankSampler};
pub use schedule::LinearWarmup;
pub use tensor::ops::Gelu;

/// The code of the README is run with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
