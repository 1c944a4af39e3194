//! Which tokens are hidden in a step, and what the model sees in their place.

use dylora_nn::tensor::{Purpose, Stream, StreamRng};
use rand::Rng;

use super::vocabulary::{MASK, SPECIAL};
use crate::pack::PackedBatch;

/// The rule of BERT and RoBERTa: of the tokens that are no special ones, each is chosen with probability `share`; of the
/// chosen ones 80 % become `<mask>`, 10 % a random token that is no special one, and 10 % stay as they are. The model has to
/// guess all chosen ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    share: f64,
    vocab_size: usize,
    stream: Stream,
}

/// The chosen tokens of one batch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// Their rows in the batch.
    pub rows: Vec<i32>,
    /// What stood there.
    pub targets: Vec<i32>,
    /// How many there are in each sequence.
    pub counts: Vec<usize>,
}

/// The place in the stream that the held-out texts draw from; no step reaches it.
const HELD_OUT: u32 = u32::MAX;

impl Masking {
    /// Hides a `share` of the tokens, drawn from the seed's own stream.
    pub fn new(share: f64, vocab_size: usize, seed: u64) -> Self {
        Masking {
            share,
            vocab_size,
            stream: Stream::new(seed, Purpose::Mask),
        }
    }

    /// Hides tokens in all batches of a step (from 0), at least one in all of them together if there is one to hide.
    pub fn hide(&self, batches: &mut [PackedBatch], step: u32) -> Vec<Hidden> {
        self.hide_with(batches, self.stream.at(step))
    }

    /// Hides tokens in the held-out texts: always the same ones.
    pub fn hide_held_out(&self, batches: &mut [PackedBatch]) -> Vec<Hidden> {
        self.hide_with(batches, self.stream.at(HELD_OUT))
    }

    fn hide_with(&self, batches: &mut [PackedBatch], mut rng: StreamRng) -> Vec<Hidden> {
        let candidates = |batch: &PackedBatch| -> Vec<usize> {
            let ids = batch.ids.iter().enumerate();
            ids.filter(|(_, id)| **id >= SPECIAL.len() as i32)
                .map(|(row, _)| row)
                .collect()
        };
        let mut chosen: Vec<Vec<usize>> = batches.iter().map(candidates).collect();
        let total = chosen.iter().map(Vec::len).sum();
        // Used only if nothing is chosen, and drawn always, so that the rest does not hang on it.
        let spare = below(&mut rng, total);
        let all = chosen.clone();
        for rows in &mut chosen {
            rows.retain(|_| uniform(&mut rng) < self.share);
        }
        if chosen.iter().all(Vec::is_empty) {
            let mut at = spare;
            for (rows, all) in chosen.iter_mut().zip(&all) {
                match all.get(at) {
                    Some(row) => {
                        rows.push(*row);
                        break;
                    }
                    None => at -= all.len(),
                }
            }
        }
        batches
            .iter_mut()
            .zip(chosen)
            .map(|(batch, rows)| self.replace(batch, &rows, &mut rng))
            .collect()
    }

    fn replace(&self, batch: &mut PackedBatch, rows: &[usize], rng: &mut StreamRng) -> Hidden {
        let special = SPECIAL.len();
        let mut hidden = Hidden::default();
        for &row in rows {
            let (kind, token) = (uniform(rng), below(rng, self.vocab_size.saturating_sub(special)));
            let Some(id) = batch.ids.get_mut(row) else { continue };
            hidden.rows.push(row as i32);
            hidden.targets.push(*id);
            if kind < 0.8 {
                *id = MASK;
            } else if kind < 0.9 {
                *id = (special + token) as i32;
            }
        }
        let mut left = rows.iter().peekable();
        let mut end = 0;
        for length in &batch.lengths {
            end += length;
            let mut count = 0;
            while left.next_if(|row| **row < end).is_some() {
                count += 1;
            }
            hidden.counts.push(count);
        }
        hidden
    }
}

/// From 0 to below 1.
fn uniform(rng: &mut StreamRng) -> f64 {
    f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

/// A number below `limit`; 0 where that is 0.
fn below(rng: &mut StreamRng, limit: usize) -> usize {
    ((u128::from(rng.next_u64()) * limit as u128) >> 64) as usize
}
