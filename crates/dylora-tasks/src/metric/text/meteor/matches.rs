//! Which words of a pair could match.

use super::paraphrase::{Paraphrases, Phrase};
use super::{Meteor, Stage, Word};

/// A run of words of the hypothesis that could stand for a run of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) reference_start: usize,
    pub(super) reference_length: usize,
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) stage: Stage,
}

/// A text with the phrases of the paraphrase table that begin at each word, shorter ones first.
pub(super) struct Sentence<'a> {
    pub(super) words: &'a [Word],
    phrases: Vec<Found>,
    /// The same by phrase, then from left to right.
    sorted: Vec<(Phrase, usize)>,
}

/// A phrase and where it begins.
struct Found {
    start: usize,
    phrase: Phrase,
}

impl<'a> Sentence<'a> {
    pub(super) fn new(words: &'a [Word], paraphrases: &Paraphrases) -> Self {
        let mut phrases = Vec::new();
        for start in 0..words.len() {
            let here = paraphrases.at(&words[start..]);
            phrases.extend(here.map(|phrase| Found { start, phrase }));
        }
        let mut sorted: Vec<_> = phrases.iter().map(|found| (found.phrase, found.start)).collect();
        sorted.sort_unstable();
        Self { words, phrases, sorted }
    }

    /// Where a phrase begins, from left to right.
    fn starts(&self, phrase: Phrase) -> impl Iterator<Item = usize> {
        let first = self.sorted.partition_point(|(other, _)| *other < phrase);
        let same = self.sorted[first..]
            .iter()
            .take_while(move |(other, _)| *other == phrase);
        same.map(|(_, start)| *start)
    }
}

/// Matches by where they begin in the reference, in the order in which the stages find them.
pub(super) struct Candidates(pub(super) Vec<Vec<Match>>);

impl Meteor<'_> {
    pub(super) fn matches(&self, hypothesis: &Sentence, reference: &Sentence) -> Candidates {
        let mut found = Candidates(vec![Vec::new(); reference.words.len()]);
        // Equal texts are matched word by word and nothing else is tried.
        let stages = if hypothesis.words == reference.words {
            &self.stages[..self.stages.len().min(1)]
        } else {
            &self.stages[..]
        };
        for &stage in stages {
            match stage {
                Stage::Exact => found.words(hypothesis, reference, stage, |word, other| word == other),
                Stage::Stem => found.words(hypothesis, reference, stage, |word, other| {
                    word != other && self.stems[word as usize] == self.stems[other as usize]
                }),
                Stage::Synonym => found.words(hypothesis, reference, stage, |word, other| {
                    self.synonyms[word as usize].contains(&other)
                }),
                Stage::Paraphrase => found.phrases(hypothesis, reference, &self.paraphrases),
            }
        }
        found
    }
}

impl Candidates {
    /// Pairs of single words.
    fn words(&mut self, hypothesis: &Sentence, reference: &Sentence, stage: Stage, fits: impl Fn(Word, Word) -> bool) {
        for (reference_start, &other) in reference.words.iter().enumerate() {
            for (start, &word) in hypothesis.words.iter().enumerate() {
                if fits(word, other) {
                    self.0[reference_start].push(Match {
                        reference_start,
                        reference_length: 1,
                        start,
                        length: 1,
                        stage,
                    });
                }
            }
        }
    }

    /// Pairs of the table, read in both directions: what a phrase of the reference can be put as, then the same for the
    /// hypothesis. A pair that is in the table both ways is found twice.
    fn phrases(&mut self, hypothesis: &Sentence, reference: &Sentence, table: &Paraphrases) {
        let one = |reference_start, of: Phrase, start, by: Phrase| Match {
            reference_start,
            reference_length: table.length(of),
            start,
            length: table.length(by),
            stage: Stage::Paraphrase,
        };
        for found in &reference.phrases {
            for &other in table.of(found.phrase) {
                for start in hypothesis.starts(other) {
                    self.0[found.start].push(one(found.start, found.phrase, start, other));
                }
            }
        }
        for found in &hypothesis.phrases {
            for &other in table.of(found.phrase) {
                for reference_start in reference.starts(other) {
                    self.0[reference_start].push(one(reference_start, other, found.start, found.phrase));
                }
            }
        }
    }
}
