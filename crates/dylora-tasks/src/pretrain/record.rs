//! What a pre-training leaves behind beside the model: `pretrain.json`.

use serde::{Deserialize, Serialize};

use super::{PretrainSettings, TextFacts};
use crate::record::{CodeVersion, Timing};

/// The held-out texts after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done.
    pub step: u64,
    /// Mean loss of the training steps since the evaluation before, hidden tokens weighted equally, with dropout.
    pub train_loss: f64,
    /// Mean loss over the hidden tokens of the held-out texts, in nats, without dropout.
    pub loss: f64,
    /// Share of these tokens that the model guesses.
    pub accuracy: f64,
    /// How many they are.
    pub hidden: usize,
}

/// Everything about a finished pre-training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainRecord {
    /// Version of this shape.
    pub format: u32,
    /// The code that made it.
    pub code: CodeVersion,
    /// Every setting.
    pub settings: PretrainSettings,
    /// What the text held.
    pub text: TextFacts,
    /// Where it ran.
    pub device: String,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Weights of the model, the language-model head included.
    pub parameters: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Passes over the texts.
    pub epochs: f64,
    /// Tokens trained on, special tokens included.
    pub tokens_seen: u64,
    /// Tokens that were hidden and guessed.
    pub hidden_seen: u64,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// The held-out texts over time; the last entry is the finished model, before its weights are rounded for the file.
    pub evaluations: Vec<Evaluation>,
    /// Times.
    pub timing: Timing,
}

/// The current shape of a record.
pub const PRETRAIN_FORMAT: u32 = 1;
