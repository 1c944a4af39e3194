//! What a causal language model reads: packed sequences, and the tokens at their ends whose successors are predicted.

use dylora_autograd::tensor::{Device, Segments, Tensor};

use crate::ctx::Selected;
use crate::error::{Error, Result};

/// A packed batch for a causal model. Of each sequence the head reads the last few tokens, or all of them.
#[derive(Clone, Debug)]
pub struct CausalInputs {
    ids: Tensor,
    positions: Tensor,
    segments: Segments,
    read: Selected,
}

impl CausalInputs {
    /// Sequences of token ids, each with the number of its last tokens that the head reads. Positions begin at 0.
    ///
    /// # Errors
    /// If there is no token, or a sequence has fewer tokens than are to be read.
    pub fn new(device: &Device, sequences: &[(&[i32], usize)]) -> Result<Self> {
        let tokens = sequences.iter().map(|(ids, _)| ids.len()).sum();
        let (mut ids, mut positions) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let (mut rows, mut counts) = (Vec::new(), Vec::with_capacity(sequences.len()));
        for (index, (sequence, read)) in sequences.iter().enumerate() {
            let Some(first) = sequence.len().checked_sub(*read) else {
                return Err(Error::setting(
                    "read",
                    format!("{read} tokens of sequence {index}, which has {}", sequence.len()),
                ));
            };
            rows.extend((ids.len() + first..ids.len() + sequence.len()).map(|row| row as i32));
            counts.push(*read);
            ids.extend_from_slice(sequence);
            positions.extend((0..sequence.len()).map(|position| position as i32));
        }
        if ids.is_empty() {
            return Err(Error::setting("tokens", "a batch without tokens"));
        }
        let lengths: Vec<usize> = sequences.iter().map(|(ids, _)| ids.len()).collect();
        let row = |values: Vec<i32>| {
            let len = values.len();
            Tensor::from_vec(device, values, &[len])
        };
        Ok(CausalInputs {
            // First, because it counts the tokens.
            segments: Segments::new(device, &lengths)?,
            ids: row(ids)?,
            positions: row(positions)?,
            read: Selected {
                rows: row(rows)?,
                segments: Segments::new(device, &counts)?,
            },
        })
    }

    /// A batch whose parts are on the device already; every sequence is read at its end.
    ///
    /// # Errors
    /// If the parts are not of one batch.
    pub fn over(ids: Tensor, positions: Tensor, segments: Segments, read: Selected) -> Result<Self> {
        let (tokens, rows) = (segments.tokens(), read.segments.tokens());
        if ids.shape() != [tokens] || positions.shape() != [tokens] || read.rows.shape() != [rows] {
            return Err(Error::setting(
                "tokens",
                format!(
                    "{} ids and {} positions of {tokens}, {} rows of {rows}",
                    ids.len(),
                    positions.len(),
                    read.rows.len()
                ),
            ));
        }
        let counts = read.segments.lengths().iter().zip(segments.lengths());
        if read.segments.count() != segments.count() || counts.clone().any(|(read, all)| read > all) {
            return Err(Error::setting("read", "more than the sequences have"));
        }
        Ok(CausalInputs {
            ids,
            positions,
            segments,
            read,
        })
    }

    /// Texts, each with the number of its last tokens that are to be predicted, and those tokens, i32 `[read]`. A text's
    /// last token is only predicted, never read.
    ///
    /// # Errors
    /// If a text has no token before those to be predicted, or there is nothing to predict.
    pub fn for_training(device: &Device, texts: &[(&[i32], usize)]) -> Result<(Self, Tensor)> {
        let (mut sequences, mut targets) = (Vec::with_capacity(texts.len()), Vec::new());
        for (index, (ids, predicted)) in texts.iter().enumerate() {
            if *predicted >= ids.len() {
                return Err(Error::setting(
                    "targets",
                    format!("{predicted} tokens of text {index}, which has {}", ids.len()),
                ));
            }
            sequences.push((&ids[..ids.len() - 1], *predicted));
            targets.extend_from_slice(&ids[ids.len() - predicted..]);
        }
        if targets.is_empty() {
            return Err(Error::setting("targets", "nothing to predict"));
        }
        let len = targets.len();
        Ok((
            Self::new(device, &sequences)?,
            Tensor::from_vec(device, targets, &[len])?,
        ))
    }

    /// Token ids, i32 `[tokens]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// Positions, i32 `[tokens]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Where each sequence begins and ends.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The tokens that the head reads: the last ones of each sequence.
    pub fn read(&self) -> &Selected {
        &self.read
    }
}
