//! Draws for generated text: integers only, so that every machine writes the same bytes.

use dylora_nn::tensor::{Purpose, Stream, StreamRng};
use rand::Rng;

/// A generator for one file.
pub(super) struct Draw(StreamRng);

impl Draw {
    /// The generator number `file` of `seed`.
    pub(super) fn new(seed: u64, file: u32) -> Self {
        Draw(Stream::new(seed, Purpose::Text).at(file))
    }

    /// A number below `count`, which is not 0.
    pub(super) fn below(&mut self, count: usize) -> usize {
        // The high half of a product: the bias of 2^-32 per value is far below what any row count shows.
        ((u64::from(self.0.next_u32()) * count as u64) >> 32) as usize
    }

    /// True in `percent` of 100 draws.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which is not empty.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A number below `count` other than `not`; `count` is at least 2.
    pub(super) fn other(&mut self, count: usize, not: usize) -> usize {
        (not + 1 + self.below(count - 1)) % count
    }

    /// `count` different numbers below `of`, or all of them if there are fewer, in random order.
    pub(super) fn some_of(&mut self, count: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        let count = count.min(of);
        for place in 0..count {
            let from = place + self.below(of - place);
            all.swap(place, from);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_range_and_reach_every_value() {
        let mut draw = Draw::new(1, 2);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[draw.below(5)] = true;
            assert_ne!(draw.other(3, 1), 1);
            let mut some = draw.some_of(3, 4);
            some.sort_unstable();
            some.dedup();
            assert!(some.len() == 3 && some[2] < 4);
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(draw.some_of(9, 2).len(), 2);
    }
}
