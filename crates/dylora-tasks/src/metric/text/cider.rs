//! CIDEr-D (Vedantam et al. 2015) as the E2E challenge calls coco-caption: how near a text's runs of words, weighted by their
//! rarity, are to those of the references. The references at hand are the documents that rarity is measured on.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Corpus, Segment, Word, ngram};

/// Longest run of words that CIDEr counts.
pub const MAX_ORDER: usize = 4;

/// Spread of the factor for differences in length, in words.
const SIGMA: f64 = 6.0;

/// CIDEr of every segment, from 0 to 10. With a single segment no run is rarer than another and all is 0.
pub fn segments(corpus: &Corpus) -> Vec<f64> {
    let rarity = Rarity::new(corpus);
    corpus.segments().iter().map(|segment| rarity.score(segment)).collect()
}

/// Mean over the segments.
pub fn cider(corpus: &Corpus) -> f64 {
    let scores = segments(corpus);
    scores.iter().sum::<f64>() / scores.len() as f64
}

/// In how many segments' references each run of words occurs.
struct Rarity<'a> {
    documents: FxHashMap<&'a [Word], u64>,
    log_segments: f64,
}

/// The weighted runs of one text and the length of that vector, per order.
struct Vector<'a> {
    weights: [FxHashMap<&'a [Word], f64>; MAX_ORDER],
    norms: [f64; MAX_ORDER],
    /// Pairs of neighbouring words: what the script takes for the length.
    length: f64,
}

impl<'a> Rarity<'a> {
    fn new(corpus: &'a Corpus) -> Self {
        let mut documents: FxHashMap<&[Word], u64> = FxHashMap::default();
        let mut seen: FxHashSet<&[Word]> = FxHashSet::default();
        for segment in corpus.segments() {
            seen.clear();
            for reference in &segment.references {
                (1..=MAX_ORDER).for_each(|n| seen.extend(reference.windows(n)));
            }
            seen.iter().for_each(|gram| *documents.entry(gram).or_default() += 1);
        }
        Self {
            documents,
            log_segments: (corpus.segments().len() as f64).ln(),
        }
    }

    fn vector<'t>(&self, words: &'t [Word]) -> Vector<'t> {
        let weights = [1, 2, 3, 4].map(|n| {
            let weigh = |(gram, count): (&'t [Word], u64)| {
                let documents = self.documents.get(gram).copied().unwrap_or_default().max(1) as f64;
                (gram, count as f64 * (self.log_segments - documents.ln()))
            };
            ngram::counts(words, n)
                .into_iter()
                .map(weigh)
                .collect::<FxHashMap<_, _>>()
        });
        let norm = |of: &FxHashMap<&[Word], f64>| of.values().map(|weight| weight * weight).sum::<f64>().sqrt();
        Vector {
            norms: weights.each_ref().map(norm),
            weights,
            length: words.len().saturating_sub(1) as f64,
        }
    }

    fn score(&self, segment: &Segment) -> f64 {
        let hypothesis = self.vector(&segment.hypothesis);
        let similarities = segment
            .references
            .iter()
            .map(|reference| similarity(&hypothesis, &self.vector(reference)));
        10.0 * similarities.sum::<f64>() / segment.references.len() as f64
    }
}

/// Mean over the orders of the clipped cosine, times the factor for the difference in length.
fn similarity(hypothesis: &Vector, reference: &Vector) -> f64 {
    let gap = hypothesis.length - reference.length;
    let factor = (-gap * gap / (2.0 * SIGMA * SIGMA)).exp();
    let cosine = |n: usize| {
        let common = hypothesis.weights[n].iter().filter_map(|(gram, weight)| {
            let other = reference.weights[n].get(gram)?;
            Some(weight.min(*other) * other)
        });
        let norms = hypothesis.norms[n] * reference.norms[n];
        if norms == 0.0 { 0.0 } else { common.sum::<f64>() / norms }
    };
    factor * (0..MAX_ORDER).map(cosine).sum::<f64>() / MAX_ORDER as f64
}
