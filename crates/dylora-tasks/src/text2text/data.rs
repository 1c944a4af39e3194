//! Pairs of texts, and the token ids that a language model reads of them.

use std::fs;
use std::path::Path;

use dylora_nn::Gpt2Config;
use rayon::prelude::*;
use serde::Deserialize;

use crate::error::{Error, Result};
pub use crate::generation::prompt::EncodedPair;
use crate::tokens::TokenizerSource;

/// A context and the text that is to follow it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TextPair {
    /// What is given.
    pub context: String,
    /// What is to be written.
    pub completion: String,
}

/// Reads a jsonl file with one object a line: `{"context": .., "completion": ..}`, as the scripts of LoRA lay them out.
/// Other fields are ignored.
///
/// # Errors
/// The file and the first line that is no such object, or whose context or completion is blank; a file without a row.
pub fn read_pairs(path: &Path) -> Result<Vec<TextPair>> {
    read_lines(path, |pair: &TextPair| {
        let blank = |text: &str| text.trim().is_empty();
        match (blank(&pair.context), blank(&pair.completion)) {
            (true, _) => Some("the context is blank"),
            (_, true) => Some("the completion is blank"),
            _ => None,
        }
    })
}

/// Reads the contexts of a file as [`read_pairs`] takes it; completions may be missing.
///
/// # Errors
/// As [`read_pairs`].
pub fn read_contexts(path: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Line {
        context: String,
    }
    let blank = |line: &Line| line.context.trim().is_empty().then_some("the context is blank");
    let lines = read_lines(path, blank)?;
    Ok(lines.into_iter().map(|line| line.context).collect())
}

fn read_lines<T: for<'de> Deserialize<'de>>(
    path: &Path,
    problem: impl Fn(&T) -> Option<&'static str>,
) -> Result<Vec<T>> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    if bytes.is_empty() {
        return Err(Error::EmptyFile { path: path.to_owned() });
    }
    let mut rows = Vec::new();
    // What follows the last line break is no line.
    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let malformed = |message: String| Error::Malformed {
            path: path.to_owned(),
            line: index + 1,
            message,
        };
        let text = std::str::from_utf8(line).map_err(|_| Error::NotUtf8 {
            path: path.to_owned(),
            line: index + 1,
        })?;
        let row: T = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if let Some(problem) = problem(&row) {
            return Err(malformed(problem.to_owned()));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Texts to token ids and back, for one model.
#[derive(Clone, Debug)]
pub struct TextCodec {
    tokenizer: TokenizerSource,
    eos: i32,
    limit: usize,
}

impl TextCodec {
    /// The codec of a model; a text has at most `max_length` tokens, and no more than the model has positions.
    ///
    /// # Errors
    /// If the model's embedding lacks a token of the tokenizer, or fewer than 4 tokens are allowed.
    pub fn new(tokenizer: TokenizerSource, config: &Gpt2Config, max_length: usize) -> Result<Self> {
        tokenizer.check_fits(config.vocab_size)?;
        let limit = max_length.min(config.max_positions);
        if limit < 4 {
            return Err(Error::argument(
                "--max-length",
                format!("{limit} tokens hold no context, completion and their ends"),
            ));
        }
        Ok(TextCodec {
            tokenizer,
            eos: config.eos_token_id as i32,
            limit,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TokenizerSource {
        &self.tokenizer
    }

    /// The token that ends a context and a completion.
    pub fn eos(&self) -> i32 {
        self.eos
    }

    fn ids(&self, text: &str) -> Result<Vec<i32>> {
        let encoded = self.tokenizer.encode(text, None, usize::MAX)?;
        Ok(encoded.ids.into_iter().map(|id| id as i32).collect())
    }

    /// Pairs as ids, and how many had to be cut: of what is too long the context loses its end, down to one token, then
    /// the completion.
    ///
    /// # Errors
    /// If a text cannot be tokenised.
    pub fn encode(&self, pairs: &[TextPair]) -> Result<(Vec<EncodedPair>, usize)> {
        let encoded: Vec<(EncodedPair, bool)> = pairs
            .par_iter()
            .map(|pair| {
                let mut context = self.ids(&pair.context)?;
                let mut completion = self.ids(&format!(" {}", pair.completion))?;
                completion.push(self.eos);
                let whole = context.len() + 1 + completion.len();
                let surplus = whole.saturating_sub(self.limit);
                context.truncate(context.len().saturating_sub(surplus).max(context.len().min(1)));
                completion.truncate(self.limit - context.len() - 1);
                let predicted = completion.len();
                context.push(self.eos);
                context.append(&mut completion);
                let ids = context;
                Ok((EncodedPair { ids, predicted }, surplus > 0))
            })
            .collect::<Result<_>>()?;
        let cut = encoded.iter().filter(|(_, cut)| *cut).count();
        Ok((encoded.into_iter().map(|(pair, _)| pair).collect(), cut))
    }

    /// Contexts with their end token, leaving room for `new` tokens, and how many had to be cut.
    ///
    /// # Errors
    /// If there is no room for a context, or one cannot be tokenised.
    pub fn prompts(&self, contexts: &[String], new: usize) -> Result<(Vec<Vec<i32>>, usize)> {
        let room = self.limit.saturating_sub(new).saturating_sub(1);
        if room == 0 {
            return Err(Error::argument(
                "--max-new-tokens",
                format!("{new} leave no room for a context in {} tokens", self.limit),
            ));
        }
        let encoded: Vec<(Vec<i32>, bool)> = contexts
            .par_iter()
            .map(|context| {
                let mut ids = self.ids(context)?;
                let cut = ids.len() > room;
                ids.truncate(room);
                ids.push(self.eos);
                Ok((ids, cut))
            })
            .collect::<Result<_>>()?;
        let cut = encoded.iter().filter(|(_, cut)| *cut).count();
        Ok((encoded.into_iter().map(|(ids, _)| ids).collect(), cut))
    }

    /// The text of generated ids, up to the first end token, without blanks around it.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        let ids = ids.iter().take_while(|id| **id != self.eos);
        let ids: Vec<u32> = ids.filter_map(|id| u32::try_from(*id).ok()).collect();
        Ok(self.tokenizer.decode(&ids)?.trim().to_owned())
    }

    /// [`TextCodec::decode`] as one line: a line break inside a text would make two texts of it.
    ///
    /// # Errors
    /// As [`TextCodec::decode`].
    pub fn decode_line(&self, ids: &[i32]) -> Result<String> {
        Ok(self.decode(ids)?.replace(['\n', '\r'], " "))
    }
}
