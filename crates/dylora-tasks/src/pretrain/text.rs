//! The text that a model is pre-trained on: one a line, or a pair with one tab between.

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tokens::{Encoded, TokenizerSource};
use crate::tsv;

/// Of so many texts the last one is held out.
const HELD_OUT: usize = 100;

/// What a text file holds, and enough of it to know it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextFacts {
    /// Bytes of the file.
    pub bytes: u64,
    /// FNV-1a of these bytes (64 bits, hexadecimal); a byte order mark does not count.
    pub fingerprint: String,
    /// Texts and pairs to learn from.
    pub texts: usize,
    /// Texts and pairs at the end of the file that are only evaluated on.
    pub held_out: usize,
    /// Lines without text, which are passed over.
    pub empty_lines: usize,
    /// Texts and pairs, held-out ones included, with more tokens than the model has positions: cut at the end.
    pub truncated: usize,
    /// Tokens of the texts to learn from, special tokens included.
    pub tokens: u64,
}

/// A file in memory.
pub(super) struct Texts {
    text: String,
    /// Start and end of each text's first part, and of its second.
    rows: Vec<(Span, Option<Span>)>,
    pub(super) facts: TextFacts,
}

type Span = (usize, usize);

/// Token ids of both parts of a file.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) train: Vec<Encoded>,
    pub(super) held_out: Vec<Encoded>,
}

impl Texts {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is empty or not UTF-8; a line with two tabs or with a tab that has no text on one side (the
    /// line is named); fewer than two texts.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = tsv::read_text(path)?;
        let mut facts = TextFacts {
            bytes: text.len() as u64,
            fingerprint: fingerprint(text.as_bytes()),
            ..TextFacts::default()
        };
        let mut rows = Vec::new();
        let begin = text.as_ptr() as usize;
        let span = |part: &str| {
            let start = part.as_ptr() as usize - begin;
            (start, start + part.len())
        };
        for (line, content) in tsv::lines(&text) {
            let malformed = |message: String| Error::Malformed {
                path: path.to_owned(),
                line,
                message,
            };
            if content.trim().is_empty() {
                facts.empty_lines += 1;
                continue;
            }
            let mut parts = content.split('\t');
            let (first, second) = (parts.next().unwrap_or_default(), parts.next());
            let more = parts.count();
            if more > 0 {
                return Err(malformed(format!(
                    "{} tabs; a line is one text, or two with one tab between",
                    more + 1
                )));
            }
            if first.trim().is_empty() || second.is_some_and(|second| second.trim().is_empty()) {
                return Err(malformed("no text on one side of the tab".to_owned()));
            }
            rows.push((span(first), second.map(span)));
        }
        if rows.len() < 2 {
            return Err(Error::file(
                path,
                format!(
                    "has {} texts; one to learn from and one to hold out are needed",
                    rows.len()
                ),
            ));
        }
        facts.held_out = (rows.len() / HELD_OUT).max(1);
        facts.texts = rows.len() - facts.held_out;
        Ok(Texts { text, rows, facts })
    }

    fn part(&self, (start, end): Span) -> &str {
        &self.text[start..end]
    }

    /// The texts to learn from, those of a pair one by one.
    pub(super) fn train(&self) -> impl Iterator<Item = &str> + Send {
        self.rows[..self.facts.texts]
            .iter()
            .flat_map(|(first, second)| std::iter::once(*first).chain(*second))
            .map(|span| self.part(span))
    }

    /// Tokenises everything for a causal model: `A end`, and a pair as `A end B end` with a blank before B, the layout of a
    /// prompt and its completion. What is longer than `max_length` tokens is cut and counted.
    ///
    /// # Errors
    /// If the tokenizer refuses a text.
    pub(super) fn encode_causal(
        mut self,
        tokenizer: &TokenizerSource,
        end: u32,
        max_length: usize,
    ) -> Result<(Rows, TextFacts)> {
        let encoded: Result<Vec<Encoded>> = self
            .rows
            .par_iter()
            .map(|(first, second)| {
                let mut ids = tokenizer.encode(self.part(*first), None, usize::MAX)?.ids;
                ids.push(end);
                if let Some(second) = second {
                    let second = format!(" {}", self.part(*second));
                    ids.extend(tokenizer.encode(&second, None, usize::MAX)?.ids);
                    ids.push(end);
                }
                let token_types = vec![0; ids.len()];
                Ok(Encoded { ids, token_types })
            })
            .collect();
        let mut train = encoded?;
        self.facts.truncated = train.iter().filter(|row| row.ids.len() > max_length).count();
        for row in &mut train {
            row.ids.truncate(max_length);
            row.token_types.truncate(max_length);
        }
        let held_out = train.split_off(self.facts.texts);
        self.facts.tokens = train.iter().map(|row| row.ids.len() as u64).sum();
        Ok((Rows { train, held_out }, self.facts))
    }

    /// Tokenises everything; what is longer than `max_length` tokens is cut and counted.
    ///
    /// # Errors
    /// If the tokenizer refuses a text.
    pub(super) fn encode(mut self, tokenizer: &TokenizerSource, max_length: usize) -> Result<(Rows, TextFacts)> {
        let texts: Vec<(&str, Option<&str>)> = self
            .rows
            .iter()
            .map(|(first, second)| (self.part(*first), second.map(|second| self.part(second))))
            .collect();
        let mut train = tokenizer.encode_batch(&texts, usize::MAX)?;
        let mut truncated = 0;
        for (row, (first, second)) in train.iter_mut().zip(&texts) {
            if row.ids.len() > max_length {
                *row = tokenizer.encode(first, *second, max_length)?;
                truncated += 1;
            }
        }
        let held_out = train.split_off(self.facts.texts);
        self.facts.truncated = truncated;
        self.facts.tokens = train.iter().map(|row| row.ids.len() as u64).sum();
        Ok((Rows { train, held_out }, self.facts))
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo): tells an edited file, not a forged one.
fn fingerprint(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_published_one() {
        // From the authors' test vectors.
        assert_eq!(fingerprint(b""), "cbf29ce484222325");
        assert_eq!(fingerprint(b"foobar"), "85944171f73967e8");
    }
}
