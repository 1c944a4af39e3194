//! METEOR 1.5 (Denkowski & Lavie 2014) for English, task `rank`: words of both sides are aligned in four stages and the score is
//! a weighted mean of precision and recall, less a penalty for words that stand in another order.
//!
//! The lists it needs are not part of this project; [`Data`] reads them from the official release.

mod align;
mod data;
mod matches;
mod paraphrase;
mod synonym;

use std::fmt;

use rust_stemmers::{Algorithm, Stemmer};
use rustc_hash::FxHashMap;

pub use data::Data;

use super::{Corpus, Word};
use crate::error::Result;
use align::Alignment;
use matches::Sentence;
use paraphrase::Paraphrases;

/// Weight of recall against precision.
const ALPHA: f64 = 0.85;
/// Exponent of the penalty for other order.
const BETA: f64 = 0.20;
/// Weight of that penalty.
const GAMMA: f64 = 0.60;
/// Weight of a content word against a function word's `1 - DELTA`.
const DELTA: f64 = 0.75;

/// A way in which words can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Equal words.
    Exact,
    /// Equal stems.
    Stem,
    /// A common WordNet synset.
    Synonym,
    /// A pair of the paraphrase table.
    Paraphrase,
}

impl Stage {
    /// All stages, in METEOR's order.
    pub const ALL: [Stage; 4] = [Stage::Exact, Stage::Stem, Stage::Synonym, Stage::Paraphrase];

    /// How much a match of this stage counts.
    fn weight(self) -> f64 {
        match self {
            Stage::Exact => 1.0,
            Stage::Synonym => 0.8,
            Stage::Stem | Stage::Paraphrase => 0.6,
        }
    }

    /// METEOR's name: `exact`, `stem`, `synonym`, `paraphrase`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Exact => "exact",
            Stage::Stem => "stem",
            Stage::Synonym => "synonym",
            Stage::Paraphrase => "paraphrase",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a stage matched: words on each side, function words apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCounts {
    /// Content words of the hypothesis.
    pub content: u64,
    /// Content words of the reference.
    pub reference_content: u64,
    /// Function words of the hypothesis.
    pub function: u64,
    /// Function words of the reference.
    pub reference_function: u64,
}

/// What METEOR needs to know of an aligned pair, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Words of the hypothesis.
    pub length: u64,
    /// Words of the reference.
    pub reference_length: u64,
    /// Function words of the hypothesis.
    pub function: u64,
    /// Function words of the reference.
    pub reference_function: u64,
    /// Per stage, in the order of [`Stage::ALL`].
    pub stages: [StageCounts; 4],
    /// Runs of matches that stand together on both sides.
    pub chunks: u64,
    /// Matched words of the hypothesis.
    pub matched: u64,
    /// Matched words of the reference.
    pub reference_matched: u64,
}

impl Statistics {
    /// Adds another pair. The chunk of a pair that matches as a whole is not counted, as in the official tool.
    pub fn add(&mut self, other: &Statistics) {
        self.length += other.length;
        self.reference_length += other.reference_length;
        self.function += other.function;
        self.reference_function += other.reference_function;
        for (sum, one) in self.stages.iter_mut().zip(&other.stages) {
            sum.content += one.content;
            sum.reference_content += one.reference_content;
            sum.function += one.function;
            sum.reference_function += one.reference_function;
        }
        self.matched += other.matched;
        self.reference_matched += other.reference_matched;
        if !other.is_one_chunk() {
            self.chunks += other.chunks;
        }
    }

    fn is_one_chunk(&self) -> bool {
        self.matched == self.length && self.reference_matched == self.reference_length && self.chunks == 1
    }

    /// The score, from 0 to 1.
    pub fn score(&self) -> f64 {
        let (mut precision, mut recall) = (0.0, 0.0);
        for (stage, counts) in Stage::ALL.into_iter().zip(&self.stages) {
            precision += stage.weight() * weighted(counts.content, counts.function);
            recall += stage.weight() * weighted(counts.reference_content, counts.reference_function);
        }
        precision /= weighted(self.length - self.function, self.function);
        recall /= weighted(self.reference_length - self.reference_function, self.reference_function);
        let mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall);
        let fragmentation = if self.is_one_chunk() {
            0.0
        } else {
            self.chunks as f64 / ((self.matched + self.reference_matched) as f64 / 2.0)
        };
        let score = mean * (1.0 - GAMMA * fragmentation.powf(BETA));
        // `max` takes a NaN, of a side without words, for 0.
        score.max(0.0)
    }
}

fn weighted(content: u64, function: u64) -> f64 {
    DELTA * content as f64 + (1.0 - DELTA) * function as f64
}

/// What the stages know of a corpus' words.
pub struct Meteor<'a> {
    corpus: &'a Corpus,
    stages: Vec<Stage>,
    /// By word: whether it is a function word.
    function: Vec<bool>,
    /// By word: a number that words of equal stems share.
    stems: Vec<u32>,
    /// By word: the corpus' other words that share a synset.
    synonyms: Vec<Vec<Word>>,
    paraphrases: Paraphrases,
}

impl<'a> Meteor<'a> {
    /// Prepares a corpus whose words are [`super::tokenise::Normaliser`]'s. Of `stages`, those that `data` cannot serve are left
    /// out; [`Meteor::stages`] says which are used.
    ///
    /// # Errors
    /// A paraphrase table that cannot be read.
    pub fn new(corpus: &'a Corpus, data: &Data, stages: &[Stage]) -> Result<Self> {
        let words = corpus.words();
        let stages: Vec<Stage> = data
            .stages()
            .into_iter()
            .filter(|stage| stages.contains(stage))
            .collect();
        let synonyms = match data.synonyms() {
            Some(synonyms) if stages.contains(&Stage::Synonym) => synonyms.among(words),
            _ => vec![Vec::new(); words.len()],
        };
        let paraphrases = match data.paraphrases() {
            Some(path) if stages.contains(&Stage::Paraphrase) => Paraphrases::read(path, corpus)?,
            _ => Paraphrases::default(),
        };
        Ok(Self {
            corpus,
            stages,
            function: words.iter().map(|word| data.is_function_word(word)).collect(),
            stems: stems(words),
            synonyms,
            paraphrases,
        })
    }

    /// The stages in use.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The statistics of every segment against the reference that it scores highest with, the first of equals.
    pub fn segments(&self) -> Vec<Statistics> {
        let score_one = |segment: &super::Segment| {
            let hypothesis = Sentence::new(&segment.hypothesis, &self.paraphrases);
            let mut best: Option<(f64, Statistics)> = None;
            for reference in &segment.references {
                let reference = Sentence::new(reference, &self.paraphrases);
                let statistics = self.pair(&hypothesis, &reference);
                let score = statistics.score();
                if best.is_none_or(|(highest, _)| score > highest) {
                    best = Some((score, statistics));
                }
            }
            best.map(|(_, statistics)| statistics).unwrap_or_default()
        };
        self.corpus.segments().iter().map(score_one).collect()
    }

    /// METEOR of the corpus: the score of the summed statistics, not the mean of the scores.
    pub fn score(&self) -> f64 {
        let mut sum = Statistics::default();
        self.segments().iter().for_each(|one| sum.add(one));
        sum.score()
    }

    fn pair(&self, hypothesis: &Sentence, reference: &Sentence) -> Statistics {
        let candidates = self.matches(hypothesis, reference);
        let alignment = align::align(&candidates, hypothesis.words.len(), reference.words.len());
        self.statistics(hypothesis.words, reference.words, &alignment)
    }

    fn statistics(&self, hypothesis: &[Word], reference: &[Word], alignment: &Alignment) -> Statistics {
        let is_function = |word: &Word| self.function[*word as usize];
        let num_function = |words: &[Word]| words.iter().filter(|word| is_function(word)).count() as u64;
        let mut statistics = Statistics {
            length: hypothesis.len() as u64,
            reference_length: reference.len() as u64,
            function: num_function(hypothesis),
            reference_function: num_function(reference),
            chunks: alignment.chunks(),
            ..Statistics::default()
        };
        for one in &alignment.matches {
            let words = &hypothesis[one.start..one.start + one.length];
            let others = &reference[one.reference_start..one.reference_start + one.reference_length];
            let counts = &mut statistics.stages[one.stage as usize];
            let (function, reference_function) = (num_function(words), num_function(others));
            counts.function += function;
            counts.content += words.len() as u64 - function;
            counts.reference_function += reference_function;
            counts.reference_content += others.len() as u64 - reference_function;
            statistics.matched += words.len() as u64;
            statistics.reference_matched += others.len() as u64;
        }
        statistics
    }
}

/// A number for each word's English stem, equal for equal stems.
fn stems(words: &[String]) -> Vec<u32> {
    let stemmer = Stemmer::create(Algorithm::English);
    let mut ids: FxHashMap<String, u32> = FxHashMap::default();
    let mut id = |word: &String| {
        let next = ids.len() as u32;
        *ids.entry(stemmer.stem(word).into_owned()).or_insert(next)
    };
    words.iter().map(&mut id).collect()
}
