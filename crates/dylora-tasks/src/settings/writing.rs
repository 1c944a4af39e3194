//! How the texts of a generation task are written.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::generate::{EarlyStopping, GenerateSettings, Strategy};
use crate::task::Split;

/// The texts that a run of a generation task is judged by: written at every rank once it is trained, and scored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writing {
    /// The split whose prompts are written from.
    pub split: Split,
    /// Beams of the search.
    pub beams: usize,
    /// A text's score is its log-probability over its length to this power.
    pub length_penalty: f64,
    /// No sequence of so many tokens stands twice in a text, the prompt included; 0 allows all.
    pub no_repeat_ngram: usize,
    /// Most tokens of a text, its end included.
    pub max_new_tokens: usize,
    /// Only the first so many prompts.
    pub max_prompts: Option<usize>,
}

impl Writing {
    /// Table 8's beam search on the test split; texts have at most 64 tokens, as in the released scripts.
    pub fn paper() -> Self {
        Writing {
            split: Split::Test,
            beams: 10,
            length_penalty: 0.8,
            no_repeat_ngram: 4,
            max_new_tokens: 64,
            max_prompts: None,
        }
    }

    /// How the texts are generated, for a model whose end token is `eos`.
    pub fn generate(&self, eos: i32) -> GenerateSettings {
        GenerateSettings {
            strategy: Strategy::Beam {
                beams: self.beams,
                length_penalty: self.length_penalty,
                early_stopping: EarlyStopping::Heuristic,
            },
            no_repeat_ngram: self.no_repeat_ngram,
            ..GenerateSettings::paper(eos, self.max_new_tokens)
        }
    }

    /// Checks what can be checked without a model, for texts of at most `max_length` tokens with their prompts.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self, max_length: usize) -> Result<()> {
        let problem = if self.beams == 0 {
            ("--beams", "0 beams write nothing".to_owned())
        } else if !self.length_penalty.is_finite() {
            ("--length-penalty", format!("{} is not a number", self.length_penalty))
        } else if self.max_new_tokens == 0 {
            ("--max-new-tokens", "0 tokens hold no text".to_owned())
        } else if self.max_new_tokens >= max_length {
            let message = format!(
                "{} leave no room for a prompt in {max_length} tokens",
                self.max_new_tokens
            );
            ("--max-new-tokens", message)
        } else if self.max_prompts == Some(0) {
            ("--max-prompts", "0 prompts are no measure".to_owned())
        } else {
            return Ok(());
        };
        Err(Error::argument(problem.0, problem.1))
    }
}
