//! Runs of words and how often they occur.

use rustc_hash::FxHashMap;

use super::Word;

/// How often each run of `n` words occurs in `words`; `n` is at least 1.
pub fn counts(words: &[Word], n: usize) -> FxHashMap<&[Word], u64> {
    let mut counts = FxHashMap::default();
    for gram in words.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// How often each run of `n` words of `hypothesis` counts as found: no oftener than in the reference that has it most often.
///
/// Runs that no reference has are there with 0.
pub fn clipped<'a>(hypothesis: &'a [Word], references: &[Vec<Word>], n: usize) -> FxHashMap<&'a [Word], u64> {
    let counts = counts(hypothesis, n);
    let mut most: FxHashMap<&[Word], u64> = counts.keys().map(|&gram| (gram, 0)).collect();
    let mut here: FxHashMap<&[Word], u64> = FxHashMap::default();
    for reference in references {
        here.clear();
        for gram in reference.windows(n).filter(|gram| counts.contains_key(*gram)) {
            *here.entry(gram).or_default() += 1;
        }
        for (gram, count) in &here {
            if let Some(most) = most.get_mut(*gram) {
                *most = (*most).max(*count);
            }
        }
    }
    for (gram, hits) in &mut most {
        *hits = (*hits).min(counts[gram]);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_clipped_by_the_reference_that_has_most() {
        let references = [vec![1, 1, 2], vec![1, 3]];
        let hits = clipped(&[1, 1, 1, 4], &references, 1);
        assert_eq!(hits[&[1_u32][..]], 2);
        assert_eq!(hits[&[4_u32][..]], 0);
        assert_eq!(clipped(&[1, 1, 1], &references, 2)[&[1_u32, 1][..]], 1);
        assert!(clipped(&[1], &references, 2).is_empty());
    }
}
