//! The alignment: of all matches those that cover most words in fewest chunks, by a beam search with METEOR's own order of
//! paths, ties included.

use super::Stage;
use super::matches::{Candidates, Match};

/// Paths that are followed at each word.
const BEAM: usize = 40;

/// The chosen matches, by where they begin in the reference; no word is in two of them.
pub(super) struct Alignment {
    pub(super) matches: Vec<Match>,
}

impl Alignment {
    /// Runs of matches that follow each other without a gap on both sides.
    pub(super) fn chunks(&self) -> u64 {
        let mut chunks = 0;
        let mut end = None;
        for one in &self.matches {
            if end != Some((one.reference_start, one.start)) {
                chunks += 1;
            }
            end = Some((one.reference_start + one.reference_length, one.start + one.length));
        }
        chunks
    }
}

/// Aligns a hypothesis of `length` words to a reference of `reference_length`.
pub(super) fn align(candidates: &Candidates, length: usize, reference_length: usize) -> Alignment {
    if length.max(reference_length) <= 128 {
        Search::<u128>::new(candidates, length, reference_length).run()
    } else {
        Search::<Vec<bool>>::new(candidates, length, reference_length).run()
    }
}

/// A set of word positions.
trait Positions: Clone {
    fn empty(length: usize) -> Self;
    fn insert(&mut self, start: usize, length: usize);
    fn intersects(&self, start: usize, length: usize) -> bool;
}

impl Positions for u128 {
    fn empty(_: usize) -> Self {
        0
    }

    fn insert(&mut self, start: usize, length: usize) {
        *self |= run(start, length);
    }

    fn intersects(&self, start: usize, length: usize) -> bool {
        self & run(start, length) != 0
    }
}

/// `length` ones from bit `start` on; both within 128 and `length` at least 1.
fn run(start: usize, length: usize) -> u128 {
    (u128::MAX >> (128 - length)) << start
}

impl Positions for Vec<bool> {
    fn empty(length: usize) -> Self {
        vec![false; length]
    }

    fn insert(&mut self, start: usize, length: usize) {
        self[start..start + length].fill(true);
    }

    fn intersects(&self, start: usize, length: usize) -> bool {
        self[start..start + length].contains(&true)
    }
}

/// One way to go on; its matches are a list through [`Search::chosen`].
#[derive(Clone)]
struct Path<P> {
    /// Covered words of both sides, inexact matches at half and rounded down.
    covered: usize,
    chunks: usize,
    distance: usize,
    /// First reference word that is not decided.
    next: usize,
    /// Where in the hypothesis the last match ended; none after a skipped word.
    last_end: Option<usize>,
    used: P,
    reference_used: P,
    /// Index into `chosen`.
    last: Option<usize>,
}

struct Search<'a, P> {
    candidates: &'a Candidates,
    /// By reference word: its only match, where nothing competes for any of the words.
    fixed: Vec<Option<Match>>,
    /// Matches of all paths, each with the one before it.
    chosen: Vec<(Match, Option<usize>)>,
    start: Path<P>,
}

impl<'a, P: Positions> Search<'a, P> {
    fn new(candidates: &'a Candidates, length: usize, reference_length: usize) -> Self {
        let (mut coverage, mut reference_coverage) = (vec![0_usize; length], vec![0_usize; reference_length]);
        for one in candidates.0.iter().flatten() {
            coverage[one.start..one.start + one.length]
                .iter_mut()
                .for_each(|count| *count += 1);
            let words = &mut reference_coverage[one.reference_start..one.reference_start + one.reference_length];
            words.iter_mut().for_each(|count| *count += 1);
        }
        let mut start = Path {
            covered: 0,
            chunks: 0,
            distance: 0,
            next: 0,
            last_end: None,
            used: P::empty(length),
            reference_used: P::empty(reference_length),
            last: None,
        };
        let is_alone = |one: &Match| {
            let words = &coverage[one.start..one.start + one.length];
            let others = &reference_coverage[one.reference_start..one.reference_start + one.reference_length];
            words.iter().chain(others).all(|&count| count == 1)
        };
        let mut fixed = vec![None; reference_length];
        for (position, matches) in candidates.0.iter().enumerate() {
            if let [one] = matches[..]
                && is_alone(&one)
            {
                fixed[position] = Some(one);
                start.mark(&one);
            }
        }
        Self {
            candidates,
            fixed,
            chosen: Vec::new(),
            start,
        }
    }

    fn run(mut self) -> Alignment {
        let length = self.fixed.len();
        let mut paths = vec![self.start.clone()];
        let mut next = Vec::new();
        for position in 0..length {
            sort(&mut paths);
            let unchanged = paths[0].clone();
            for path in paths.drain(..).take(BEAM) {
                self.step(path, position, &mut next);
            }
            if next.is_empty() {
                next.push(unchanged);
            }
            std::mem::swap(&mut paths, &mut next);
        }
        sort(&mut paths);
        paths.truncate(BEAM);
        for path in &mut paths {
            path.chunks += usize::from(path.last_end.is_some());
        }
        sort(&mut paths);
        let mut matches = Vec::new();
        let mut last = paths[0].last;
        while let Some(index) = last {
            let (one, before) = self.chosen[index];
            matches.push(one);
            last = before;
        }
        matches.reverse();
        Alignment { matches }
    }

    /// All ways to go on at a reference word.
    fn step(&mut self, mut path: Path<P>, position: usize, next: &mut Vec<Path<P>>) {
        if path.reference_used.intersects(position, 1) {
            if position < path.next {
                next.push(path);
            } else if let Some(one) = self.fixed[path.next] {
                self.apply(&mut path, one);
                path.distance += distance(&one);
                next.push(path);
            }
            return;
        }
        for &one in &self.candidates.0[position] {
            if path.used.intersects(one.start, one.length)
                || path
                    .reference_used
                    .intersects(one.reference_start, one.reference_length)
            {
                continue;
            }
            let mut taken = path.clone();
            taken.mark(&one);
            self.apply(&mut taken, one);
            next.push(taken);
            // The official search adds this to the path that does not take the match.
            path.distance += distance(&one);
        }
        path.chunks += usize::from(path.last_end.take().is_some());
        path.next += 1;
        next.push(path);
    }

    fn apply(&mut self, path: &mut Path<P>, one: Match) {
        path.covered += match one.stage {
            Stage::Exact => one.length + one.reference_length,
            _ => one.length / 2 + one.reference_length / 2,
        };
        path.chunks += usize::from(path.last_end.is_some_and(|end| end != one.start));
        path.next = one.reference_start + one.reference_length;
        path.last_end = Some(one.start + one.length);
        self.chosen.push((one, path.last));
        path.last = Some(self.chosen.len() - 1);
    }
}

impl<P: Positions> Path<P> {
    fn mark(&mut self, one: &Match) {
        self.used.insert(one.start, one.length);
        self.reference_used.insert(one.reference_start, one.reference_length);
    }
}

fn distance(one: &Match) -> usize {
    one.reference_start.abs_diff(one.start)
}

/// Best first: more words, fewer chunks, less distance; equals stay in order.
fn sort<P>(paths: &mut [Path<P>]) {
    paths.sort_by_key(|path| (std::cmp::Reverse(path.covered), path.chunks, path.distance));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(reference_start: usize, start: usize, stage: Stage) -> Match {
        Match {
            reference_start,
            reference_length: 1,
            start,
            length: 1,
            stage,
        }
    }

    fn chosen<P: Positions>(matches: &[Match], length: usize, reference_length: usize) -> Vec<Match> {
        let mut lists = vec![Vec::new(); reference_length];
        matches.iter().for_each(|one| lists[one.reference_start].push(*one));
        Search::<P>::new(&Candidates(lists), length, reference_length)
            .run()
            .matches
    }

    #[test]
    fn the_alignment_with_fewer_chunks_is_taken() {
        // Reference "a b", hypothesis "a x a b": the second a stands beside the b.
        let near = [word(0, 2, Stage::Exact), word(1, 3, Stage::Exact)];
        let matches = [word(0, 0, Stage::Exact), near[0], near[1]];
        assert_eq!(chosen::<u128>(&matches, 4, 2), near);
        assert_eq!(chosen::<Vec<bool>>(&matches, 4, 2), near);
        assert_eq!(Alignment { matches: near.to_vec() }.chunks(), 1);
        assert_eq!(
            Alignment {
                matches: vec![matches[0], matches[2]]
            }
            .chunks(),
            2
        );
    }

    #[test]
    fn no_word_is_matched_twice() {
        let matches = [word(0, 0, Stage::Exact), word(1, 0, Stage::Exact)];
        assert_eq!(chosen::<u128>(&matches, 1, 2).len(), 1);
    }

    #[test]
    fn a_run_of_bits_may_be_whole() {
        assert_eq!(run(0, 128), u128::MAX);
        assert_eq!(run(2, 3), 0b11100);
    }
}
