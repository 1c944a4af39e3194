//! Settings of a pre-training: every number that decides its result.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use dylora_nn::{EncoderConfig, Gpt2Config, WeightFormat};
use serde::{Deserialize, Serialize};

use super::vocabulary::smallest;
use crate::error::{Error, Result};
use crate::settings::{first_difference, toml_line};

/// Special tokens around and between the texts of a pair, and one token of each text.
const SHORTEST_ROW: usize = 6;

/// What kind of model is pre-trained, and so on what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// An encoder that guesses hidden tokens.
    #[default]
    Roberta,
    /// A causal model that predicts every next token.
    Gpt2,
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "roberta" => Ok(Architecture::Roberta),
            "gpt2" => Ok(Architecture::Gpt2),
            _ => Err(Error::argument(
                "--model-type",
                format!("{word:?} is not roberta or gpt2"),
            )),
        }
    }
}

/// Everything that decides the bytes of a pre-trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainSettings {
    /// The text: one a line, or a pair with a tab between.
    pub text: PathBuf,
    /// The kind of model.
    #[serde(default)]
    pub model_type: Architecture,
    /// Most tokens of the vocabulary; a short text gives fewer.
    pub vocab_size: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Most tokens of a row, special tokens included.
    pub max_positions: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Texts of a step.
    pub batch_size: usize,
    /// Most tokens of one forward pass; part of the settings because the order of a sum shows in the last bit.
    pub token_budget: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps over which the learning rate rises; `None` is 6 % of all, rounded up.
    pub warmup_steps: Option<u64>,
    /// Decoupled decay of everything but biases and layer norms.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Largest norm of all gradients together; 0 switches clipping off.
    pub clip: f64,
    /// Dropout of hidden states and attention; the model's configuration keeps it.
    pub dropout: f64,
    /// Share of the tokens that an encoder has to guess; a causal model predicts all of them.
    pub mask_share: f64,
    /// Seed of every random stream.
    pub seed: u64,
    /// Steps between evaluations of the held-out texts, besides that at the end.
    pub eval_every: u64,
    /// How the model's file stores its weights.
    pub weights: WeightFormat,
}

impl PretrainSettings {
    /// The text of a file for `dylora pretrain --config` that repeats a pre-training.
    pub fn to_toml(&self) -> String {
        let mut lines = vec!["# dylora pretrain --config THIS_FILE --out NEW_MODEL".to_owned()];
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(self) {
            lines.extend(fields.iter().filter_map(|(name, value)| toml_line(name, value)));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// The defaults for a text: a small encoder that two cores train in minutes.
    pub fn new(text: &Path) -> Self {
        PretrainSettings {
            text: text.to_owned(),
            model_type: Architecture::Roberta,
            vocab_size: 2048,
            layers: 4,
            hidden_size: 128,
            heads: 4,
            intermediate_size: 512,
            max_positions: 128,
            steps: 10_000,
            batch_size: 128,
            token_budget: 8192,
            lr: 1e-3,
            warmup_steps: None,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.98,
            epsilon: 1e-6,
            clip: 1.0,
            dropout: 0.1,
            mask_share: 0.15,
            seed: 10,
            eval_every: 1000,
            weights: WeightFormat::F16,
        }
    }

    /// Checks what can be checked without a file.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, flag: &str, message: String| {
            if ok {
                Ok(())
            } else {
                Err(Error::argument(format!("--{flag}"), message))
            }
        };
        let smallest = smallest(self.model_type);
        for (flag, value) in [
            ("layers", self.layers as u64),
            ("hidden-size", self.hidden_size as u64),
            ("heads", self.heads as u64),
            ("intermediate-size", self.intermediate_size as u64),
            ("steps", self.steps),
            ("batch-size", self.batch_size as u64),
            ("token-budget", self.token_budget as u64),
            ("eval-every", self.eval_every),
        ] {
            check(value >= 1, flag, "must be at least 1".to_owned())?;
            check(
                value <= i32::MAX as u64,
                flag,
                format!("{value} is more than {}", i32::MAX),
            )?;
        }
        check(
            self.hidden_size.is_multiple_of(self.heads),
            "heads",
            format!(
                "{} heads do not divide a hidden size of {}",
                self.heads, self.hidden_size
            ),
        )?;
        check(
            (smallest..=i32::MAX as usize).contains(&self.vocab_size),
            "vocab-size",
            format!(
                "{} is not at least {smallest}: {} special tokens and 256 bytes",
                self.vocab_size,
                smallest - 256
            ),
        )?;
        check(
            (SHORTEST_ROW..=1 << 20).contains(&self.max_positions),
            "max-positions",
            format!("{} is not in {SHORTEST_ROW}..={}", self.max_positions, 1 << 20),
        )?;
        for (flag, value) in [
            ("lr", self.lr),
            ("weight-decay", self.weight_decay),
            ("epsilon", self.epsilon),
            ("clip", self.clip),
        ] {
            check(
                value.is_finite() && value >= 0.0,
                flag,
                format!("{value} is not a number of 0 or more"),
            )?;
        }
        for (flag, value) in [
            ("beta1", self.beta1),
            ("beta2", self.beta2),
            ("dropout", self.dropout),
            ("mask-share", self.mask_share),
        ] {
            check((0.0..1.0).contains(&value), flag, format!("{value} is not in 0..1"))?;
        }
        check(
            self.warmup() <= self.steps,
            "warmup-steps",
            format!("{} are more than the {} steps", self.warmup(), self.steps),
        )
    }

    /// Steps over which the learning rate rises.
    pub fn warmup(&self) -> u64 {
        self.warmup_steps
            .unwrap_or_else(|| (self.steps as f64 * 0.06).ceil() as u64)
    }

    /// The encoder with a vocabulary of this size.
    pub fn config(&self, vocab_size: usize) -> EncoderConfig {
        EncoderConfig {
            vocab_size,
            hidden_size: self.hidden_size,
            num_layers: self.layers,
            num_heads: self.heads,
            intermediate_size: self.intermediate_size,
            max_positions: self.max_positions,
            ..EncoderConfig::roberta_base()
        }
        .with_dropout(self.dropout)
    }

    /// The causal model with a vocabulary of this size, in which `end` ends a text.
    pub fn causal_config(&self, vocab_size: usize, end: u32) -> Gpt2Config {
        Gpt2Config {
            vocab_size,
            hidden_size: self.hidden_size,
            num_layers: self.layers,
            num_heads: self.heads,
            intermediate_size: self.intermediate_size,
            max_positions: self.max_positions,
            eos_token_id: end as usize,
            ..Gpt2Config::small()
        }
        .with_dropout(self.dropout)
    }

    /// The first setting in which two pre-trainings differ: its name, its value here and there, as JSON.
    pub fn difference(&self, other: &PretrainSettings) -> Option<(String, String, String)> {
        first_difference(self, other)
    }
}
