//! Translation edit rate (Snover et al. 2006) in pyter's form, which the WebNLG and DART scorer calls: blocks may move any
//! distance, the best move is searched greedily, and the corpus' value is the plain mean over the segments.

use super::{Corpus, Segment, Word};

/// Edits per reference word of every segment, the least of its references; 1 for a reference without a word.
pub fn segments(corpus: &Corpus) -> Vec<f64> {
    let order = alphabetical(corpus.words());
    let rate = |segment: &Segment| {
        let hypothesis = by(&order, &segment.hypothesis);
        let rates = segment.references.iter().map(|reference| match reference.len() {
            0 => 1.0,
            length => edits(hypothesis.clone(), &by(&order, reference)) as f64 / length as f64,
        });
        rates.fold(f64::INFINITY, f64::min)
    };
    corpus.segments().iter().map(rate).collect()
}

/// Mean over the segments.
pub fn ter(corpus: &Corpus) -> f64 {
    let rates = segments(corpus);
    rates.iter().sum::<f64>() / rates.len() as f64
}

/// By word: its place in the order of code points, which decides between moves that gain as much.
fn alphabetical(words: &[String]) -> Vec<Word> {
    let mut sorted: Vec<Word> = (0..words.len() as Word).collect();
    sorted.sort_by_key(|&word| &words[word as usize]);
    let mut places = vec![0; words.len()];
    for (place, word) in sorted.into_iter().enumerate() {
        places[word as usize] = place as Word;
    }
    places
}

fn by(order: &[Word], words: &[Word]) -> Vec<Word> {
    words.iter().map(|&word| order[word as usize]).collect()
}

/// Moves of blocks, insertions, deletions and substitutions that make the reference of `words`, each counted once.
fn edits(mut words: Vec<Word>, reference: &[Word]) -> usize {
    let mut search = Distance::new(reference);
    let mut distance = search.of(&words);
    let mut moves = 0;
    let mut moved = Vec::with_capacity(words.len());
    loop {
        let mut best: Option<(usize, Vec<Word>)> = None;
        for (i, word) in words.iter().enumerate() {
            for (j, other) in reference.iter().enumerate() {
                if i == j || word != other {
                    continue;
                }
                let run = words[i..]
                    .iter()
                    .zip(&reference[j..])
                    .take_while(|(x, y)| x == y)
                    .count();
                move_block(&words, i, run, j, &mut moved);
                let after = search.of(&moved);
                let is_better = best
                    .as_ref()
                    .is_none_or(|(least, text)| after < *least || (after == *least && moved > *text));
                if is_better {
                    best = Some((after, moved.clone()));
                }
            }
        }
        match best {
            Some((after, text)) if after < distance => {
                moves += 1;
                distance = after;
                words = text;
            }
            _ => return moves + distance,
        }
    }
}

/// Takes `words[from..from + length]` out and puts it at index `to` of the rest, or at its end.
fn move_block(words: &[Word], from: usize, length: usize, to: usize, moved: &mut Vec<Word>) {
    let block = from..from + length;
    moved.clear();
    moved.extend_from_slice(&words[..from]);
    moved.extend_from_slice(&words[block.end..]);
    let to = to.min(moved.len());
    moved.splice(to..to, words[block].iter().copied());
}

/// Levenshtein distance to one reference.
struct Distance<'a> {
    reference: &'a [Word],
    row: Vec<usize>,
}

impl<'a> Distance<'a> {
    fn new(reference: &'a [Word]) -> Self {
        Self {
            reference,
            row: vec![0; reference.len() + 1],
        }
    }

    fn of(&mut self, words: &[Word]) -> usize {
        self.row.iter_mut().enumerate().for_each(|(j, cost)| *cost = j);
        for (i, word) in words.iter().enumerate() {
            let mut diagonal = i;
            let mut left = i + 1;
            self.row[0] = left;
            for (other, cost) in self.reference.iter().zip(&mut self.row[1..]) {
                let substituted = diagonal + usize::from(word != other);
                diagonal = *cost;
                left = substituted.min(diagonal.min(left) + 1);
                *cost = left;
            }
        }
        self.row[self.reference.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        let mut to = Distance::new(&[1, 2, 3, 4]);
        assert_eq!(
            [
                to.of(&[1, 2, 3, 4]),
                to.of(&[1, 3, 4]),
                to.of(&[]),
                to.of(&[9, 1, 2, 5, 4])
            ],
            [0, 1, 4, 2]
        );
        assert_eq!(Distance::new(&[]).of(&[1, 2]), 2);
    }

    #[test]
    fn a_block_moves_at_the_cost_of_one() {
        assert_eq!(edits(vec![3, 4, 5, 1, 2], &[1, 2, 3, 4, 5]), 1);
        assert_eq!(edits(vec![1, 2], &[1, 2]), 0);
        assert_eq!(edits(vec![2, 1, 9], &[1, 2, 3]), 2);
    }

    #[test]
    fn a_block_that_is_put_behind_the_end_is_put_at_the_end() {
        let mut moved = Vec::new();
        move_block(&[1, 2, 3], 0, 2, 5, &mut moved);
        assert_eq!(moved, [3, 1, 2]);
        move_block(&[1, 2, 3], 2, 1, 0, &mut moved);
        assert_eq!(moved, [3, 1, 2]);
    }
}
