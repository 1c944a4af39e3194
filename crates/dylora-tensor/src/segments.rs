//! Where each sequence of a packed batch begins and ends.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The sequences of a packed batch: activations are `[tokens, width]` and sequence `i` is rows
/// `offsets[i]..offsets[i + 1]`. No row is padding.
#[derive(Clone, Debug)]
pub struct Segments {
    offsets: Tensor,
    lengths: std::sync::Arc<[usize]>,
    count: usize,
    tokens: usize,
    longest: usize,
}

impl Segments {
    /// Sequences of the given lengths (tokens each, 0 allowed), one after the other.
    ///
    /// # Errors
    /// If there are more tokens than an `i32` counts.
    pub fn new(device: &Device, lengths: &[usize]) -> Result<Self> {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut tokens = 0usize;
        offsets.push(0);
        for length in lengths {
            tokens = tokens.saturating_add(*length);
            offsets.push(
                i32::try_from(tokens)
                    .map_err(|_| Error::invalid("segments", format!("{tokens} tokens are too many for one batch")))?,
            );
        }
        Ok(Segments {
            offsets: Tensor::from_vec(device, offsets, &[lengths.len() + 1])?,
            count: lengths.len(),
            lengths: lengths.into(),
            tokens,
            longest: lengths.iter().copied().max().unwrap_or(0),
        })
    }

    /// The same with row numbers that are on the device already, i32 `[count + 1]`, and room for sequences of up to `longest`
    /// tokens, of which a GPU's launches depend. The numbers must be those of `lengths`, here and in every pass that is
    /// replayed with them.
    ///
    /// # Errors
    /// If there are as many numbers as not, or a sequence is longer than `longest`.
    pub fn with_offsets(offsets: Tensor, lengths: &[usize], longest: usize) -> Result<Self> {
        const OP: &str = "segments";
        if offsets.shape() != [lengths.len() + 1] {
            return Err(Error::shape(OP, offsets.shape(), &[lengths.len() + 1]));
        }
        if let Some(length) = lengths.iter().find(|length| **length > longest) {
            return Err(Error::invalid(
                OP,
                format!("a sequence of {length} tokens where {longest} are the most"),
            ));
        }
        Ok(Segments {
            offsets,
            count: lengths.len(),
            tokens: lengths.iter().sum(),
            lengths: lengths.into(),
            longest,
        })
    }

    /// The number of sequences.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Tokens of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Row numbers `[count + 1]`, i32, from 0 to [`Segments::tokens`].
    pub fn offsets(&self) -> &Tensor {
        &self.offsets
    }
}
