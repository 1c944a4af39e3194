//! What a forward pass carries along, and what it reads.

use dylora_autograd::tensor::{Draws, Dropout, Segments, Tensor};
use dylora_autograd::{RankSlice, Tape};

use crate::error::Result;

/// What one forward pass needs beside its inputs.
pub struct Ctx<'a> {
    /// Where operations are recorded.
    pub tape: &'a mut Tape,
    /// The ranks that adapters read and change.
    pub slice: RankSlice,
    /// Random bits for dropout; `None` in evaluation.
    pub dropout: Option<Draws>,
}

impl Ctx<'_> {
    /// The next dropout of this step with probability `p`; none in evaluation.
    ///
    /// # Errors
    /// Unless `0 <= p < 1`.
    pub fn next_dropout(&mut self, p: f64) -> Result<Option<Dropout>> {
        match &mut self.dropout {
            Some(draws) => Ok(Dropout::new(p, draws.next())?),
            None => Ok(None),
        }
    }
}

/// A packed batch on a device; no token is padding.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Token ids, i32 `[tokens]`.
    pub ids: Tensor,
    /// Positions, offset included, i32 `[tokens]`.
    pub positions: Tensor,
    /// Token types, i32 `[tokens]`.
    pub token_types: Tensor,
    /// Where each sequence begins and ends.
    pub segments: Segments,
    /// The first token of each sequence.
    pub first: Selected,
}

/// The tokens of a packed batch that a head reads, sequence after sequence.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Their rows in the batch, i32 `[selected]`.
    pub rows: Tensor,
    /// How many of each sequence there are (0 allowed).
    pub segments: Segments,
}

impl Selected {
    /// One row of each sequence, i32 `[sequences]`.
    ///
    /// # Errors
    /// If there are more rows than an `i32` counts.
    pub fn one_each(rows: Tensor) -> Result<Self> {
        Ok(Selected {
            segments: Segments::new(rows.device(), &vec![1; rows.len()])?,
            rows,
        })
    }
}
