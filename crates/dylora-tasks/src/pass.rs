//! A batch as a pass of a step reads it.

use dylora_nn::tensor::{PassInput, Segments, Tensor};
use dylora_nn::{EncoderConfig, Inputs, Selected};

use crate::error::{Error, Result};
use crate::pack::PackedBatch;

/// Tokens that a filled batch is a multiple of, and its longest sequence too.
pub(crate) const FILLED: usize = 64;

/// What ids, positions and token types of a model are below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    ids: usize,
    positions: usize,
    token_types: usize,
}

impl Limits {
    pub(crate) fn new(config: &EncoderConfig) -> Self {
        Limits {
            ids: config.vocab_size,
            positions: config.max_positions + config.position_offset,
            token_types: config.type_vocab_size,
        }
    }
}

/// The integers of a batch, as long as the batch's key says.
pub(crate) struct Rows {
    ids: Vec<i32>,
    positions: Vec<i32>,
    token_types: Vec<i32>,
    offsets: Vec<i32>,
    lengths: Vec<usize>,
    longest: usize,
    first_rows: Vec<i32>,
    first_offsets: Vec<i32>,
    first_lengths: Vec<usize>,
}

impl Rows {
    /// The batch. `filled`: where passes are replayed, one more sequence that nothing reads fills it up to a round number of
    /// tokens, so that few graphs serve all batches; its dropout comes behind that of the others and changes none of them.
    ///
    /// # Errors
    /// If the batch has more tokens than an `i32` counts.
    pub(crate) fn new(batch: &PackedBatch, filled: bool) -> Result<Self> {
        let mut rows = Rows {
            ids: batch.ids.clone(),
            positions: batch.positions.clone(),
            token_types: batch.token_types.clone(),
            offsets: Vec::new(),
            lengths: batch.lengths.clone(),
            longest: batch.lengths.iter().copied().max().unwrap_or(0),
            first_rows: batch.first_rows(),
            first_offsets: Vec::new(),
            first_lengths: vec![1; batch.sequences()],
        };
        if filled {
            let tokens = rows.ids.len().next_multiple_of(FILLED);
            rows.lengths.push(tokens - rows.ids.len());
            rows.first_lengths.push(0);
            rows.longest = rows.longest.next_multiple_of(FILLED);
            for list in [&mut rows.ids, &mut rows.positions, &mut rows.token_types] {
                // Any number that the batch has is a valid one.
                list.resize(tokens, list.first().copied().unwrap_or(0));
            }
        }
        rows.offsets = offsets(&rows.lengths)?;
        rows.first_offsets = offsets(&rows.first_lengths)?;
        Ok(rows)
    }

    /// Tokens, sequences and tokens of the longest one, for the key.
    pub(crate) fn sizes(&self) -> [u32; 3] {
        [self.ids.len() as u32, self.lengths.len() as u32, self.longest as u32]
    }

    /// What the pass reads, in the order that [`Rows::build`] takes it.
    pub(crate) fn inputs(&self, limits: Limits) -> [PassInput<'_>; 6] {
        let tokens = self.ids.len();
        let indices = |values, limit| PassInput::Indices { values, limit };
        [
            indices(&self.ids, limits.ids),
            indices(&self.positions, limits.positions),
            indices(&self.token_types, limits.token_types),
            indices(&self.offsets, tokens + 1),
            indices(&self.first_rows, tokens),
            indices(&self.first_offsets, tokens + 1),
        ]
    }

    /// The model's inputs of what is on the device.
    pub(crate) fn build(&self, tensors: &[Tensor]) -> Result<Inputs> {
        let [ids, positions, token_types, offsets, first_rows, first_offsets, ..] = tensors else {
            return Err(Error::argument("inputs", format!("{} tensors of 6", tensors.len())));
        };
        Ok(Inputs {
            ids: ids.clone(),
            positions: positions.clone(),
            token_types: token_types.clone(),
            segments: Segments::with_offsets(offsets.clone(), &self.lengths, self.longest)?,
            first: Selected {
                rows: first_rows.clone(),
                segments: Segments::with_offsets(first_offsets.clone(), &self.first_lengths, 1)?,
            },
        })
    }
}

pub(crate) fn offsets(lengths: &[usize]) -> Result<Vec<i32>> {
    let mut at = 0usize;
    let mut offsets = vec![0];
    for length in lengths {
        at += length;
        offsets.push(i32::try_from(at).map_err(|_| Error::argument("batches", format!("{at} tokens at once")))?);
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Label;

    fn batch(lengths: &[usize]) -> PackedBatch {
        let tokens: usize = lengths.iter().sum();
        PackedBatch {
            ids: (5..5 + tokens as i32).collect(),
            positions: lengths.iter().flat_map(|l| 2..2 + *l as i32).collect(),
            token_types: vec![0; tokens],
            lengths: lengths.to_vec(),
            rows: (0..lengths.len()).collect(),
            labels: vec![Label::Class(0); lengths.len()],
        }
    }

    #[test]
    fn a_filled_batch_has_a_round_number_of_tokens_and_the_same_rows() -> Result<()> {
        let plain = Rows::new(&batch(&[40, 1, 30]), false)?;
        assert_eq!(plain.sizes(), [71, 3, 40]);
        let filled = Rows::new(&batch(&[40, 1, 30]), true)?;
        assert_eq!(filled.sizes(), [128, 4, 64]);
        assert_eq!(filled.ids[..71], plain.ids);
        assert_eq!(filled.first_rows, plain.first_rows);
        assert_eq!((filled.lengths[3], filled.first_lengths[3]), (57, 0));
        assert_eq!(filled.offsets, [0, 40, 41, 71, 128]);
        assert_eq!(filled.first_offsets, [0, 1, 2, 3, 3]);
        // A full batch has the same key as one with a filler.
        assert_eq!(Rows::new(&batch(&[64, 63, 1]), true)?.sizes(), [128, 4, 64]);
        Ok(())
    }
}
