//! BLEU (Papineni et al. 2002), in two official forms that share their counts.
//!
//! [`BleuCounts::mteval`] is the E2E challenge's Python form of mteval-v13a; [`BleuCounts::multi_bleu`] is Moses'
//! `multi-bleu.perl`, which the WebNLG and DART chains call.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;

use super::{Corpus, Segment, ngram};
use crate::error::{Error, Result};

/// Longest run of words that BLEU counts.
pub const MAX_ORDER: usize = 4;

/// What BLEU needs to know of a segment, or of many: the counts add up. Index `n - 1` is for runs of `n` words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BleuCounts {
    /// Runs of the hypothesis that a reference has, clipped.
    pub hits: [u64; MAX_ORDER],
    /// Runs of the hypothesis.
    pub totals: [u64; MAX_ORDER],
    /// Words of the hypothesis minus `n - 1`, below 0 for a short one: what the Python form adds up in place of `totals`.
    pub lengths: [i64; MAX_ORDER],
    /// Words of the reference closest in length (the shorter of two that are as close).
    pub reference_length: u64,
}

impl AddAssign for BleuCounts {
    fn add_assign(&mut self, other: Self) {
        for n in 0..MAX_ORDER {
            self.hits[n] += other.hits[n];
            self.totals[n] += other.totals[n];
            self.lengths[n] += other.lengths[n];
        }
        self.reference_length += other.reference_length;
    }
}

impl Sum for BleuCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// The counts of one segment.
pub fn counts(segment: &Segment) -> BleuCounts {
    let Segment { hypothesis, references } = segment;
    let mut counts = BleuCounts::default();
    for n in 1..=MAX_ORDER {
        counts.hits[n - 1] = ngram::clipped(hypothesis, references, n).values().sum();
        counts.totals[n - 1] = (hypothesis.len() + 1).saturating_sub(n) as u64;
        counts.lengths[n - 1] = hypothesis.len() as i64 - (n as i64 - 1);
    }
    counts.reference_length = references
        .iter()
        .map(Vec::len)
        .min_by_key(|&length| (length.abs_diff(hypothesis.len()), length))
        .unwrap_or_default() as u64;
    counts
}

/// The counts of a whole corpus.
pub fn corpus_counts(corpus: &Corpus) -> BleuCounts {
    corpus.segments().iter().map(counts).sum()
}

impl BleuCounts {
    /// BLEU as a fraction, the Python form of mteval-v13a. `smoothing` is added to hits and lengths: 0 for a corpus.
    ///
    /// It has floors in place of undefined values and lengths may be negative, so a very short text can come out above 1.
    pub fn mteval(&self, smoothing: f64) -> f64 {
        let logs: f64 = self
            .hits
            .iter()
            .zip(&self.lengths)
            .map(|(&hits, &length)| {
                let precision = (hits as f64 + smoothing).max(1e-15) / (length as f64 + smoothing).max(1e-9);
                precision.ln()
            })
            .sum();
        let reference = self.reference_length as f64;
        let words = match self.lengths[0] {
            0 => 1e-5,
            words => words as f64,
        };
        let brevity = if words <= reference {
            (1.0 - reference / words).exp()
        } else {
            1.0
        };
        brevity * (logs / MAX_ORDER as f64).exp()
    }

    /// BLEU in percent with its parts, as `multi-bleu.perl` has them.
    ///
    /// # Errors
    /// Hypotheses without a word where references have some: the script divides by zero.
    pub fn multi_bleu(&self) -> Result<MultiBleu> {
        let (words, reference) = (self.totals[0], self.reference_length);
        let mut result = MultiBleu {
            hypothesis_length: words,
            reference_length: reference,
            ..MultiBleu::default()
        };
        if reference == 0 {
            // The script stops here, before it has looked at the hypotheses.
            result.hypothesis_length = 0;
            return Ok(result);
        }
        if words == 0 {
            return Err(Error::Undefined {
                metric: "bleu",
                reason: "the hypotheses hold no word".to_owned(),
            });
        }
        for (n, precision) in result.precisions.iter_mut().enumerate() {
            if self.totals[n] > 0 {
                *precision = 100.0 * self.hits[n] as f64 / self.totals[n] as f64;
            }
        }
        result.brevity_penalty = if words < reference {
            (1.0 - reference as f64 / words as f64).exp()
        } else {
            1.0
        };
        if result.precisions.iter().all(|&precision| precision > 0.0) {
            let logs: f64 = result.precisions.iter().map(|precision| (precision / 100.0).ln()).sum();
            result.bleu = 100.0 * result.brevity_penalty * (logs / MAX_ORDER as f64).exp();
        }
        Ok(result)
    }
}

/// BLEU with its parts; [`fmt::Display`] is the line that `multi-bleu.perl` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MultiBleu {
    /// BLEU in percent; 0 if any precision is 0.
    pub bleu: f64,
    /// Precisions of runs of 1 to 4 words, in percent.
    pub precisions: [f64; MAX_ORDER],
    /// Factor for hypotheses shorter than the references.
    pub brevity_penalty: f64,
    /// Words of the hypotheses.
    pub hypothesis_length: u64,
    /// Words of the references closest in length.
    pub reference_length: u64,
}

impl fmt::Display for MultiBleu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reference_length == 0 {
            return f.write_str("BLEU = 0, 0/0/0/0 (BP=0, ratio=0, hyp_len=0, ref_len=0)");
        }
        let [p1, p2, p3, p4] = self.precisions;
        write!(
            f,
            "BLEU = {:.2}, {p1:.1}/{p2:.1}/{p3:.1}/{p4:.1} (BP={:.3}, ratio={:.3}, hyp_len={}, ref_len={})",
            self.bleu,
            self.brevity_penalty,
            self.hypothesis_length as f64 / self.reference_length as f64,
            self.hypothesis_length,
            self.reference_length
        )
    }
}
