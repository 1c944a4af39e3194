//! Prompts and targets as token ids, with what counts for the loss, as the scripts of the LoRA paper encode them.
//!
//! A training row is `context <|endoftext|> target <|endoftext|>`, the target with a blank before it; the loss is taken on
//! the target and the end after it, never on the prompt. A prompt to write from ends with the first `<|endoftext|>`.

use std::path::Path;

use serde::Serialize;

use super::{Group, Pair};
use crate::error::{Error, Result};
use crate::tokens::TokenizerSource;

/// The token that ends a prompt and a target.
pub const END: &str = "<|endoftext|>";

/// A training row as the causal model takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPair {
    /// Prompt and target with their ends, `[tokens]`.
    pub ids: Vec<i32>,
    /// How many tokens at the end of `ids` are predicted in the loss: the target and its end. At least 1.
    pub predicted: usize,
}

/// What did not fit into the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Truncated {
    /// Prompts that lost tokens at their beginning.
    pub prompts: usize,
    /// Targets that lost tokens at their end, the end token among them.
    pub targets: usize,
    /// Tokens lost in all.
    pub tokens: usize,
}

impl std::fmt::Display for Truncated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Truncated {
            prompts,
            targets,
            tokens,
        } = self;
        write!(
            f,
            "{prompts} prompts and {targets} targets did not fit and lost {tokens} tokens"
        )
    }
}

/// Turns texts into ids for a context of a given length.
#[derive(Clone, Debug)]
pub struct PromptEncoder<'t> {
    tokenizer: &'t TokenizerSource,
    end: i32,
    max_length: usize,
}

impl<'t> PromptEncoder<'t> {
    /// An encoder for at most `max_length` tokens, prompt, target and ends together.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `max_length` is 2 at least; [`Error::Tokenizer`] when the tokenizer has no
    /// `<|endoftext|>` or puts special tokens around a text of its own accord.
    pub fn new(tokenizer: &'t TokenizerSource, max_length: usize) -> Result<Self> {
        if max_length < 2 {
            return Err(Error::argument(
                "max_length",
                format!("{max_length} has no room for the end of a prompt and one token more"),
            ));
        }
        let unfit = |message: &str| Error::Tokenizer {
            path: Path::new("tokenizer").to_path_buf(),
            message: message.to_owned(),
        };
        if tokenizer.num_special_tokens(false) > 0 {
            return Err(unfit(
                "it puts special tokens around a text; a GPT-2 tokenizer is needed",
            ));
        }
        let end = tokenizer
            .token_id(END)
            .ok_or_else(|| unfit("it has no <|endoftext|>; a GPT-2 tokenizer is needed"))?;
        Ok(PromptEncoder {
            tokenizer,
            end: signed(end)?,
            max_length,
        })
    }

    /// Id of the token that ends a prompt and a target.
    pub fn end(&self) -> i32 {
        self.end
    }

    /// Training rows, in their order. What is too long loses the beginning of its prompt first; only a target that is too
    /// long by itself loses its own end. Either is counted.
    ///
    /// # Errors
    /// [`Error::Encode`] with the row.
    pub fn pairs(&self, pairs: &[Pair<'_>]) -> Result<(Vec<EncodedPair>, Truncated)> {
        let contexts = self.encode(pairs.iter().map(|pair| pair.context.clone()))?;
        let targets = self.encode(pairs.iter().map(|pair| format!(" {}", pair.target)))?;
        let mut truncated = Truncated::default();
        let fit = |(mut prompt, mut target): (Vec<i32>, Vec<i32>)| {
            // The end of the prompt always stays, so a target has this much room at most.
            let most = self.max_length - 1;
            if target.len() > most {
                truncated.targets += 1;
                truncated.tokens += target.len() - most;
                target.truncate(most);
            }
            self.keep_tail(&mut prompt, self.max_length - target.len(), &mut truncated);
            let predicted = target.len();
            prompt.append(&mut target);
            EncodedPair { ids: prompt, predicted }
        };
        let rows = contexts.into_iter().zip(targets).map(fit).collect();
        Ok((rows, truncated))
    }

    /// Prompts to write from, in their order, each with room for `new_tokens` after it; what is too long loses its
    /// beginning and is counted.
    ///
    /// # Errors
    /// [`Error::Argument`] when `new_tokens` leaves no room for a prompt; [`Error::Encode`] with the row.
    pub fn prompts(&self, groups: &[Group<'_>], new_tokens: usize) -> Result<(Vec<Vec<i32>>, Truncated)> {
        let room = self
            .max_length
            .checked_sub(new_tokens)
            .filter(|&room| room > 0)
            .ok_or_else(|| {
                Error::argument(
                    "new_tokens",
                    format!(
                        "{new_tokens} leaves no room for a prompt in a context of {}",
                        self.max_length
                    ),
                )
            })?;
        let mut truncated = Truncated::default();
        let mut prompts = self.encode(groups.iter().map(|group| group.context.clone()))?;
        for prompt in &mut prompts {
            self.keep_tail(prompt, room, &mut truncated);
        }
        Ok((prompts, truncated))
    }

    /// Cuts a prompt at its beginning, so that its last facts and its end stay.
    fn keep_tail(&self, prompt: &mut Vec<i32>, room: usize, truncated: &mut Truncated) {
        if let Some(over) = prompt.len().checked_sub(room).filter(|&over| over > 0) {
            truncated.prompts += 1;
            truncated.tokens += over;
            prompt.drain(..over);
        }
    }

    /// The ids of every text with the end token after them.
    fn encode(&self, texts: impl Iterator<Item = String>) -> Result<Vec<Vec<i32>>> {
        let texts: Vec<String> = texts.collect();
        let rows: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (text.as_str(), None)).collect();
        let encoded = self.tokenizer.encode_batch(&rows, usize::MAX)?;
        let with_end = |ids: Vec<u32>| ids.into_iter().map(signed).chain([Ok(self.end)]).collect();
        encoded.into_iter().map(|row| with_end(row.ids)).collect()
    }
}

/// Ids are i32 on the device.
fn signed(id: u32) -> Result<i32> {
    i32::try_from(id).map_err(|_| Error::argument("tokenizer", format!("token id {id} does not fit into 31 bits")))
}
