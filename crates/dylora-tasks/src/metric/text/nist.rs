//! NIST (Doddington 2002) as the E2E challenge's Python form of mteval-v13a has it: matched runs of words, weighted by how
//! much a run tells beyond its beginning.

use rustc_hash::FxHashMap;

use super::{Corpus, Word, ngram};
use crate::error::{Error, Result};

/// Longest run of words that NIST counts.
pub const MAX_ORDER: usize = 5;

/// NIST of a corpus; information is measured on all its references.
///
/// # Errors
/// [`Error::Undefined`] where the hypotheses have, in sum, no run of some order up to 5.
pub fn nist(corpus: &Corpus) -> Result<f64> {
    let information = Information::new(corpus);
    let mut score = 0.0;
    for n in 1..=MAX_ORDER {
        let mut gained = 0.0;
        let mut runs = 0;
        for segment in corpus.segments() {
            // Below 0 for a short hypothesis, as in the script.
            runs += segment.hypothesis.len() as i64 - (n as i64 - 1);
            for (gram, hits) in ngram::clipped(&segment.hypothesis, &segment.references, n) {
                if hits > 0 {
                    gained += hits as f64 * information.of(gram);
                }
            }
        }
        if runs == 0 {
            return Err(Error::Undefined {
                metric: "nist",
                reason: format!("the hypotheses are too short for runs of {n} words"),
            });
        }
        score += gained / runs as f64;
    }
    Ok(score * length_penalty(corpus))
}

/// 1 for hypotheses at least as long as their references are on average, 0.5 at two thirds of that.
fn length_penalty(corpus: &Corpus) -> f64 {
    let words: usize = corpus.segments().iter().map(|segment| segment.hypothesis.len()).sum();
    let expected: f64 = corpus
        .segments()
        .iter()
        .map(|segment| {
            let words: usize = segment.references.iter().map(Vec::len).sum();
            words as f64 / segment.references.len() as f64
        })
        .sum();
    let ratio = words as f64 / expected;
    if ratio >= 1.0 {
        1.0
    } else if ratio <= 0.0 {
        0.0
    } else {
        let beta = -(0.5_f64.ln()) / 1.5_f64.ln().powi(2);
        (-beta * ratio.ln().powi(2)).exp()
    }
}

/// How often each run of words occurs in the references.
struct Information<'a> {
    counts: FxHashMap<&'a [Word], u64>,
    words: u64,
}

impl<'a> Information<'a> {
    fn new(corpus: &'a Corpus) -> Self {
        let mut counts: FxHashMap<&[Word], u64> = FxHashMap::default();
        let mut words = 0;
        for reference in corpus.segments().iter().flat_map(|segment| &segment.references) {
            words += reference.len() as u64;
            for n in 1..=MAX_ORDER {
                for gram in reference.windows(n) {
                    *counts.entry(gram).or_default() += 1;
                }
            }
        }
        Self { counts, words }
    }

    /// In bits: how much rarer the run is than its beginning. The run occurs in a reference.
    fn of(&self, gram: &[Word]) -> f64 {
        let beginning = match gram.len() {
            1 => self.words,
            n => self.counts[&gram[..n - 1]],
        };
        (beginning as f64 / self.counts[gram] as f64).log2()
    }
}
