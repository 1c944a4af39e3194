//! ROUGE-L (Lin 2004) in coco-caption's variant: the best precision and the best recall over the references, which may be of
//! two references.

use super::{Corpus, Segment, Word};

/// How much more recall weighs than precision.
const BETA: f64 = 1.2;

/// ROUGE-L of one segment, from 0 to 1. A text without a word counts as one word that equals nothing but its like.
pub fn segment(segment: &Segment) -> f64 {
    let length = |words: &[Word]| words.len().max(1) as f64;
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in &segment.references {
        let common = if segment.hypothesis.is_empty() && reference.is_empty() {
            1.0
        } else {
            longest_common(&segment.hypothesis, reference) as f64
        };
        precision = precision.max(common / length(&segment.hypothesis));
        recall = recall.max(common / length(reference));
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    let squared = BETA * BETA;
    (1.0 + squared) * precision * recall / (recall + squared * precision)
}

/// Mean over the segments.
pub fn rouge_l(corpus: &Corpus) -> f64 {
    let segments = corpus.segments();
    segments.iter().map(segment).sum::<f64>() / segments.len() as f64
}

/// Length of the longest sequence of words that both have in this order, not necessarily side by side.
fn longest_common(left: &[Word], right: &[Word]) -> usize {
    // `row[j]`: of the words of `left` so far and the first `j` of `right`.
    let mut row = vec![0; right.len() + 1];
    for word in left {
        let mut diagonal = 0;
        for (j, other) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if word == other { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_common_subsequence_skips_words() {
        assert_eq!(longest_common(&[1, 2, 3, 4], &[9, 2, 8, 4, 1]), 2);
        assert_eq!(longest_common(&[1, 2, 1, 2], &[2, 1, 2, 1]), 3);
        assert_eq!(longest_common(&[], &[1]), 0);
    }
}
