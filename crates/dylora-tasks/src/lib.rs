//! Text in, table out: tasks, tokenisation, packing, training, metrics, records and tables.
//!
//! The way of a row, one room per step, each with one input and one output type:
//!
//! | step | module | gives |
//! | --- | --- | --- |
//! | file to rows | [`glue`], [`tabular`] (over [`tsv`]) | [`task::Example`] |
//! | the same of a generation task, and prompts to ids | [`generation`] | [`generation::Corpus`], [`generation::prompt::EncodedPair`] |
//! | rows from a pipe, as they come | [`stream`] | [`task::Example`] |
//! | text to ids | [`tokens`] | [`tokens::Encoded`] |
//! | ids to batches without padding | [`pack`] | [`pack::PackedBatch`] |
//! | batches to logits | [`classifier`] | logits |
//! | a run's numbers to whoever looks on with TensorBoard | [`tensorboard`] | event files |
//! | a step, a run, a list of runs | [`trainer`], [`train`], [`experiment`] | [`record::Record`] in a [`run_dir`] |
//! | a list of runs to their time | [`estimate`] | [`estimate::Estimate`] |
//! | pairs of texts to a run that writes texts | [`text2text`] | [`text2text::TrainedText`] |
//! | prompts to texts | [`generate`] | [`generate::Hypothesis`] |
//! | predictions to a number | [`metric`] | `f64` |
//! | records to a table | [`table`], beside [`paper`] | text, Markdown, HTML, JSON |
//! | tables to a report | [`report`] | one page, Markdown, LaTeX, csv |
//! | text alone to a model directory | [`pretrain`] | an encoder, a tokenizer, [`pretrain::PretrainRecord`] |
//! | nothing to tasks and an encoder | [`mini`] | the files that `reproduce glue` runs on by default |
//! | a run to PEFT's files or a merged model, and such an adapter to a run's start | [`adapter`] | [`adapter::Exported`] |
//! | a look at a file before anyone trains on it | [`check`] | [`check::CheckReport`] |
//!
//! A run from start to end: an own csv file, the small encoder that is part of this crate, one adapter read at two ranks.
//!
//! ```
//! use dylora_tasks::evaluate::TrainedModel;
//! use dylora_tasks::settings::{DataSource, TrainSettings};
//! use dylora_tasks::tabular::Columns;
//! use dylora_tasks::task::Split;
//! use dylora_tasks::train::{Outcome, RunOptions, train};
//! use dylora_tasks::mini;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let (model, file, run) = (dir.path().join("model"), dir.path().join("own.csv"), dir.path().join("run"));
//! mini::write_model(&model)?; // or a directory with RoBERTa, BERT, ..
//! std::fs::write(&file, "text,label\nA fine day.,good\nA bad day.,bad\nA fine meal.,good\nA bad meal.,bad\n")?;
//!
//! let data = DataSource::Files {
//!     train: file.clone(),
//!     dev: file,
//!     columns: Columns::parse("text", Some("label"), false)?,
//! };
//! let settings = TrainSettings { epochs: 2, batch_size: 2, rank: 4, ..TrainSettings::new("csv", &model, data) };
//! let Outcome::Finished(record) = train(&settings, &run, RunOptions::default(), &mut ())? else {
//!     return Err("nothing asked it to stop".into());
//! };
//! assert_eq!(record.ranks.len(), 4); // every rank is evaluated
//!
//! let trained = TrainedModel::open(&run, None)?;
//! let rows = trained.prepare(&trained.rows(Split::Dev, None)?)?;
//! for rank in [1, 4] {
//!     let logits = trained.classifier.logits(&rows, Some(rank), 8192, |_| ())?;
//!     assert_eq!(logits.len(), 4 * 2); // rows x classes
//! }
//! # Ok(())
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

pub mod adapter;
pub mod bench;
pub mod check;
pub mod checkpoint;
pub mod classifier;
pub mod cost;
mod course;
pub mod device;
pub mod dir_lock;
pub mod error;
pub mod estimate;
pub mod evaluate;
pub mod experiment;
pub mod generate;
pub mod generation;
pub mod glue;
pub mod metric;
pub mod mini;
pub mod nearest;
pub mod pack;
pub mod paper;
mod pass;
pub mod prepare;
pub mod pretrain;
pub mod progress;
pub mod record;
pub mod report;
pub mod run_dir;
mod session;
pub mod settings;
pub mod stream;
pub mod study;
pub mod table;
pub mod tables;
pub mod tabular;
pub mod task;
pub mod tensorboard;
pub mod text2text;
pub mod tokens;
pub mod train;
pub mod trainer;
pub mod tsv;
mod workers;

pub use dylora_nn as nn;
pub use error::{Error, Result};

/// The code of the README is run with the other doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
