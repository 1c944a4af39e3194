//! Text in, table out: tasks, tokenisation, packing, training, metrics, records and tables.
//!
//! The way of a row, one room per step, each with one input and one output type:
//!
//! | step | module | gives |
//! | --- | --- | --- |
//! | file to rows | [`glue`], [`tabular`] (over [`tsv`]) | [`task::Example`] |
//! | the same of a generation task, and prompts to ids | [`generation`] | [`generation::Corpus`], [`generation::prompt::EncodedPair`] |
//! | text to ids | [`tokens`] | [`tokens::Encoded`] |
//! | ids to batches without padding | [`pack`] | [`pack::PackedBatch`] |
//! | batches to logits | [`classifier`] | logits |
//! | a step, a run, a list of runs | [`trainer`], [`train`], [`experiment`] | [`record::Record`] in a [`run_dir`] |
//! | a list of runs to their time | [`estimate`] | [`estimate::Estimate`] |
//! | pairs of texts to a run that writes texts | [`text2text`] | [`text2text::TrainedText`] |
//! | prompts to texts | [`generate`] | [`generate::Hypothesis`] |
//! | predictions to a number | [`metric`] | `f64` |
//! | records to a table | [`table`], beside [`paper`] | text, Markdown, HTML, JSON |
//! | text alone to a model directory | [`pretrain`] | an encoder, a tokenizer, [`pretrain::PretrainRecord`] |
//! | nothing to tasks and an encoder | [`mini`] | the files that `reproduce glue` runs on by default |
//! | a look at a file before anyone trains on it | [`check`] | [`check::CheckReport`] |
//!
//! ```no_run
//! use dylora_tasks::{glue, pack, task::Split, tokens::TokenizerSource};
//! # fn main() -> dylora_tasks::Result<()> {
//! let mrpc = glue::find("mrpc")?;
//! let rows = mrpc.load("glue_data".as_ref(), Split::Dev)?;
//! let tokenizer = TokenizerSource::from_model_dir("roberta-base".as_ref())?;
//! let encoded = tokenizer.encode_examples(&rows, 512)?;
//! let labels: Vec<_> = rows.iter().map(|row| row.label).collect();
//! let order: Vec<usize> = (0..rows.len()).collect();
//! // RoBERTa counts positions from 2.
//! let batches = pack::pack(&encoded, &labels, &order, 2, 8192)?;
//! # drop(batches); Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! * This crate never names ndarray, cudarc, an op or a kernel: numbers reach it as tensors of `dylora-nn`'s public face or as
//!   plain `f64`.
//! * It prints nothing. Whatever a person should see goes through a progress trait, a `tracing` event or a returned value.
//! * Nothing that a file, a flag or a caller can cause panics: it is an [`Error`] that names the file and the line, or the
//!   argument.
//! * A loader keeps every row in file order and every character of a field; no row is ever dropped in silence.

pub mod bench;
pub mod check;
pub mod checkpoint;
pub mod classifier;
pub mod device;
pub mod error;
pub mod estimate;
pub mod evaluate;
pub mod experiment;
pub mod generate;
pub mod generation;
pub mod glue;
pub mod metric;
pub mod mini;
pub mod pack;
pub mod paper;
mod pass;
pub mod prepare;
pub mod pretrain;
pub mod progress;
pub mod record;
pub mod run_dir;
mod session;
pub mod settings;
pub mod table;
pub mod tabular;
pub mod task;
pub mod text2text;
pub mod tokens;
pub mod train;
pub mod trainer;
pub mod tsv;
mod workers;

pub use dylora_nn as nn;
pub use error::{Error, Result};
