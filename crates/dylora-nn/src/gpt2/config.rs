//! GPT-2's sizes, from the `config.json` of a model directory.

use dylora_autograd::ops::Gelu;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The sizes of a GPT-2.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// Rows of the token embedding, to which the output is tied.
    pub vocab_size: usize,
    /// The most tokens of a sequence.
    pub max_positions: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Attention heads per block.
    pub num_heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// The activation inside the feed-forward part.
    pub activation: Gelu,
    /// Added to the variance in layer normalisation.
    pub layer_norm_eps: f64,
    /// Dropout on the sum of the embeddings.
    pub embedding_dropout: f64,
    /// Dropout on attention probabilities.
    pub attention_dropout: f64,
    /// Dropout on what attention and feed-forward part add to the hidden states.
    pub residual_dropout: f64,
    /// Whether scores are divided by the square root of the head size.
    pub scale_attention: bool,
    /// Whether the scores of block i (from 1) are divided by i as well.
    pub scale_by_layer: bool,
    /// Standard deviation of new weights.
    pub initializer_range: f64,
    /// The token that ends a text.
    pub eos_token_id: usize,
}

/// `config.json` as published; fields of other tools are ignored.
#[derive(Serialize, Deserialize)]
struct Published {
    model_type: String,
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    #[serde(default)]
    n_inner: Option<usize>,
    #[serde(default = "gelu")]
    activation_function: String,
    #[serde(default = "epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "tenth")]
    embd_pdrop: f64,
    #[serde(default = "tenth")]
    attn_pdrop: f64,
    #[serde(default = "tenth")]
    resid_pdrop: f64,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default, skip_serializing)]
    add_cross_attention: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default = "init")]
    initializer_range: f64,
    #[serde(default)]
    bos_token_id: Option<usize>,
    #[serde(default)]
    eos_token_id: Option<usize>,
}

fn gelu() -> String {
    "gelu_new".to_owned()
}
fn epsilon() -> f64 {
    1e-5
}
fn tenth() -> f64 {
    0.1
}
fn init() -> f64 {
    0.02
}
fn yes() -> bool {
    true
}

impl Gpt2Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// If it is not valid JSON, lacks a size, or describes a model that is not GPT-2 as published; the value is named.
    pub fn from_json(text: &str) -> Result<Self> {
        let published: Published = serde_json::from_str(text).map_err(|e| Error::Config(e.to_string()))?;
        if published.model_type != "gpt2" {
            return Err(Error::Config(format!(
                "model_type {:?} is not supported here (gpt2 is)",
                published.model_type
            )));
        }
        let activation = match published.activation_function.as_str() {
            "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
            "gelu" => Gelu::Erf,
            other => {
                return Err(Error::Config(format!(
                    "activation_function {other:?} is not supported (gelu_new, gelu_pytorch_tanh and gelu are)"
                )));
            }
        };
        if published.add_cross_attention {
            return Err(Error::Config("add_cross_attention is not supported".to_owned()));
        }
        if !published.tie_word_embeddings {
            return Err(Error::Config(
                "tie_word_embeddings false is not supported; the output is the token embedding".to_owned(),
            ));
        }
        let config = Gpt2Config {
            vocab_size: published.vocab_size,
            max_positions: published.n_positions,
            hidden_size: published.n_embd,
            num_layers: published.n_layer,
            num_heads: published.n_head,
            intermediate_size: published.n_inner.unwrap_or(published.n_embd.saturating_mul(4)),
            activation,
            layer_norm_eps: published.layer_norm_epsilon,
            embedding_dropout: published.embd_pdrop,
            attention_dropout: published.attn_pdrop,
            residual_dropout: published.resid_pdrop,
            scale_attention: published.scale_attn_weights,
            scale_by_layer: published.scale_attn_by_inverse_layer_idx,
            initializer_range: published.initializer_range,
            eos_token_id: published.eos_token_id.unwrap_or(published.vocab_size.saturating_sub(1)),
        };
        config.validate()?;
        Ok(config)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.max_positions),
            ("n_embd", self.hidden_size),
            ("n_layer", self.num_layers),
            ("n_head", self.num_heads),
            ("n_inner", self.intermediate_size),
        ];
        for (name, value) in sizes {
            if value == 0 || value > i32::MAX as usize {
                return Err(Error::Config(format!(
                    "{name} {value} is not a size from 1 to {}",
                    i32::MAX
                )));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            return Err(Error::Config(format!(
                "n_head {} does not divide n_embd {}",
                self.num_heads, self.hidden_size
            )));
        }
        for (name, p) in [
            ("embd_pdrop", self.embedding_dropout),
            ("attn_pdrop", self.attention_dropout),
            ("resid_pdrop", self.residual_dropout),
        ] {
            if !(0.0..1.0).contains(&p) {
                return Err(Error::Config(format!("{name} {p} is not in 0..1")));
            }
        }
        for (name, value) in [
            ("layer_norm_epsilon", self.layer_norm_eps),
            ("initializer_range", self.initializer_range),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::Config(format!("{name} {value} is not a number of 0 or more")));
            }
        }
        if self.eos_token_id >= self.vocab_size {
            return Err(Error::Config(format!(
                "eos_token_id {} is not in a vocabulary of {}",
                self.eos_token_id, self.vocab_size
            )));
        }
        Ok(())
    }

    /// The text of a `config.json` that other tools read too.
    pub fn to_json(&self) -> String {
        let published = Published {
            model_type: "gpt2".to_owned(),
            vocab_size: self.vocab_size,
            n_embd: self.hidden_size,
            n_layer: self.num_layers,
            n_head: self.num_heads,
            n_positions: self.max_positions,
            n_inner: (self.intermediate_size != 4 * self.hidden_size).then_some(self.intermediate_size),
            activation_function: match self.activation {
                Gelu::Tanh => gelu(),
                Gelu::Erf => "gelu".to_owned(),
            },
            layer_norm_epsilon: self.layer_norm_eps,
            embd_pdrop: self.embedding_dropout,
            attn_pdrop: self.attention_dropout,
            resid_pdrop: self.residual_dropout,
            scale_attn_weights: self.scale_attention,
            scale_attn_by_inverse_layer_idx: self.scale_by_layer,
            add_cross_attention: false,
            tie_word_embeddings: true,
            initializer_range: self.initializer_range,
            bos_token_id: Some(self.eos_token_id),
            eos_token_id: Some(self.eos_token_id),
        };
        serde_json::to_string_pretty(&published).unwrap_or_default()
    }

    fn published(hidden_size: usize, num_layers: usize, num_heads: usize) -> Self {
        Gpt2Config {
            vocab_size: 50257,
            max_positions: 1024,
            hidden_size,
            num_layers,
            num_heads,
            intermediate_size: 4 * hidden_size,
            activation: Gelu::Tanh,
            layer_norm_eps: 1e-5,
            embedding_dropout: 0.1,
            attention_dropout: 0.1,
            residual_dropout: 0.1,
            scale_attention: true,
            scale_by_layer: false,
            initializer_range: 0.02,
            eos_token_id: 50256,
        }
    }

    /// GPT-2 small, 124 million weights.
    pub fn small() -> Self {
        Self::published(768, 12, 12)
    }

    /// GPT-2 medium, 355 million weights: the model of the paper's generation experiments.
    pub fn medium() -> Self {
        Self::published(1024, 24, 16)
    }

    /// GPT-2 large, 774 million weights.
    pub fn large() -> Self {
        Self::published(1280, 36, 20)
    }

    /// GPT-2 XL, 1.6 billion weights.
    pub fn xl() -> Self {
        Self::published(1600, 48, 25)
    }

    /// The same sizes with every dropout set to `p`.
    pub fn with_dropout(mut self, p: f64) -> Self {
        self.embedding_dropout = p;
        self.attention_dropout = p;
        self.residual_dropout = p;
        self
    }
}
