//! A part of a batch of texts as a pass of a step reads it.

use dylora_nn::tensor::{PassInput, Segments, StepKey, Tensor};
use dylora_nn::{CausalInputs, Gpt2Config, Selected};

use super::data::EncodedPair;
use crate::course::KIND_TRAIN;
use crate::error::{Error, Result};
use crate::pass::{FILLED, offsets};

/// The integers of a part, as long as the part's key says.
pub(super) struct Texts {
    ids: Vec<i32>,
    positions: Vec<i32>,
    offsets: Vec<i32>,
    lengths: Vec<usize>,
    longest: usize,
    rows: Vec<i32>,
    read_offsets: Vec<i32>,
    read: Vec<usize>,
    targets: Vec<i32>,
    vocabulary: usize,
    places: usize,
}

impl Texts {
    /// Whether parts for this model can be filled up: what fills one may be twice as long as the round number.
    pub(super) fn fills(config: &Gpt2Config) -> bool {
        config.max_positions >= 2 * FILLED
    }

    /// The texts, each without its last token, which is only predicted. `filled`: where passes are replayed, one more sequence
    /// fills tokens and predicted tokens up to round numbers; its targets are [`Gpt2Config::vocab_size`], which
    /// [`filled_loss`](dylora_nn::Gpt2LanguageModel::filled_loss) leaves out, and its dropout comes behind that of the others.
    ///
    /// # Errors
    /// If a text has no token before those to be predicted or is longer than the model's positions, there is nothing to
    /// predict, or there are more tokens than an `i32` counts.
    pub(super) fn new(part: &[&EncodedPair], config: &Gpt2Config, filled: bool) -> Result<Self> {
        let mut texts = Texts {
            ids: Vec::new(),
            positions: Vec::new(),
            offsets: Vec::new(),
            lengths: Vec::new(),
            longest: 0,
            rows: Vec::new(),
            read_offsets: Vec::new(),
            read: Vec::new(),
            targets: Vec::new(),
            vocabulary: config.vocab_size,
            places: config.max_positions,
        };
        for (index, text) in part.iter().enumerate() {
            let EncodedPair { ids, predicted } = text;
            if *predicted >= ids.len() {
                return Err(Error::argument(
                    "texts",
                    format!("{predicted} tokens to predict of text {index}, which has {}", ids.len()),
                ));
            }
            if ids.len() - 1 > config.max_positions {
                return Err(Error::argument(
                    "texts",
                    format!(
                        "a text of {} tokens is longer than the {} positions of the model",
                        ids.len() - 1,
                        config.max_positions
                    ),
                ));
            }
            texts.targets.extend_from_slice(&ids[ids.len() - predicted..]);
            texts.add(&ids[..ids.len() - 1], *predicted);
        }
        if texts.targets.is_empty() {
            return Err(Error::argument("texts", "nothing to predict"));
        }
        if filled {
            let missing = texts.targets.len().next_multiple_of(FILLED) - texts.targets.len();
            let mut room = texts.ids.len().next_multiple_of(FILLED) - texts.ids.len();
            if room < missing {
                room += FILLED;
            }
            texts.add(&vec![0; room], missing);
            texts.targets.resize(texts.rows.len(), config.vocab_size as i32);
            texts.longest = texts.longest.next_multiple_of(FILLED).min(config.max_positions);
        }
        texts.offsets = offsets(&texts.lengths)?;
        texts.read_offsets = offsets(&texts.read)?;
        Ok(texts)
    }

    fn add(&mut self, ids: &[i32], read: usize) {
        let end = self.ids.len() + ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((0..ids.len()).map(|position| position as i32));
        self.lengths.push(ids.len());
        self.longest = self.longest.max(ids.len());
        self.rows.extend((end - read..end).map(|row| row as i32));
        self.read.push(read);
    }

    /// What fixes the work of a pass over them.
    pub(super) fn key(&self) -> StepKey {
        StepKey {
            kind: KIND_TRAIN,
            tokens: self.ids.len() as u32,
            sequences: self.lengths.len() as u32,
            longest: self.longest as u32,
            read: self.rows.len() as u32,
        }
    }

    /// What the pass reads, in the order that [`Texts::build`] takes it.
    pub(super) fn inputs(&self) -> [PassInput<'_>; 6] {
        let indices = |values, limit| PassInput::Indices { values, limit };
        let (tokens, read) = (self.ids.len(), self.rows.len());
        [
            indices(&self.ids, self.vocabulary),
            indices(&self.positions, self.places),
            indices(&self.offsets, tokens + 1),
            indices(&self.rows, tokens),
            indices(&self.read_offsets, read + 1),
            indices(&self.targets, self.vocabulary + 1),
        ]
    }

    /// The model's inputs and targets of what is on the device.
    pub(super) fn build(&self, tensors: &[Tensor]) -> Result<(CausalInputs, Tensor)> {
        let [ids, positions, offsets, rows, read_offsets, targets] = tensors else {
            return Err(Error::argument("inputs", format!("{} tensors of 6", tensors.len())));
        };
        let read = Selected {
            rows: rows.clone(),
            segments: Segments::with_offsets(read_offsets.clone(), &self.read, self.longest)?,
        };
        let segments = Segments::with_offsets(offsets.clone(), &self.lengths, self.longest)?;
        let inputs = CausalInputs::over(ids.clone(), positions.clone(), segments, read)?;
        Ok((inputs, targets.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(length: usize, predicted: usize) -> EncodedPair {
        EncodedPair {
            ids: (1..=length as i32).collect(),
            predicted,
        }
    }

    #[test]
    fn filled_parts_have_round_numbers_and_the_same_texts() -> Result<()> {
        let config = Gpt2Config::small();
        let pairs = [pair(41, 20), pair(2, 1), pair(31, 30)];
        let part: Vec<&EncodedPair> = pairs.iter().collect();
        let plain = Texts::new(&part, &config, false)?;
        let sizes = |texts: &Texts| {
            let key = texts.key();
            [key.tokens, key.sequences, key.longest, key.read]
        };
        assert_eq!(sizes(&plain), [71, 3, 40, 51]);
        let filled = Texts::new(&part, &config, true)?;
        assert_eq!(sizes(&filled), [128, 4, 64, 64]);
        assert_eq!(
            (&filled.ids[..71], &filled.rows[..51]),
            (&plain.ids[..], &plain.rows[..])
        );
        assert_eq!(filled.targets[..51], plain.targets);
        assert!(filled.targets[51..].iter().all(|target| *target == 50257));
        assert_eq!((filled.lengths[3], filled.read[3]), (57, 13));
        assert_eq!(filled.rows[51..], (115..128).collect::<Vec<i32>>());

        // 62 tokens of which 3 are predicted: two more tokens do not hold 61 more that are read.
        let pairs = [pair(63, 3)];
        let part: Vec<&EncodedPair> = pairs.iter().collect();
        let filled = Texts::new(&part, &config, true)?;
        assert_eq!(sizes(&filled), [128, 2, 128, 64]);
        // Full already.
        let pairs = [pair(65, 64)];
        let part: Vec<&EncodedPair> = pairs.iter().collect();
        assert_eq!(sizes(&Texts::new(&part, &config, true)?), [64, 2, 64, 64]);
        for wrong in [pair(3, 3), pair(3, 0), pair(1026, 5)] {
            assert!(Texts::new(&[&wrong], &config, true).is_err());
        }
        Ok(())
    }
}
