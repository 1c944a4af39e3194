//! Metrics of generated text: pure functions from hypotheses and references to numbers.
//!
//! A text goes through a tokeniser ([`tokenise`]) into a [`Corpus`], whose words are integers, and a metric reads that:
//!
//! | metric | module | what it reproduces |
//! | --- | --- | --- |
//! | BLEU, NIST | [`bleu`], [`nist`] | the E2E challenge's Python form of mteval-v13a; Moses' `multi-bleu.perl` |
//! | ROUGE-L | [`rouge`] | coco-caption's variant, as the E2E challenge calls it |
//! | CIDEr | [`cider`] | coco-caption's CIDEr-D, its document frequencies taken from the references at hand |
//! | METEOR | [`meteor`] | METEOR 1.5 for English, normalised; its lists come from the official release |
//! | TER | [`ter`] | pyter, as the WebNLG and DART scorer calls it |
//!
//! [`chain`] puts them together as the tables of E2E, WebNLG and DART have them, and [`files`] reads what they read.
//!
//! What the official tool leaves undefined (it divides by zero) is an [`Error::Undefined`].

pub mod bleu;
pub mod chain;
pub mod cider;
pub mod files;
pub mod meteor;
pub mod ngram;
pub mod nist;
pub mod rouge;
pub mod ter;
pub mod tokenise;

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};

/// A word of a [`Corpus`]: equal words have equal numbers, counted from 0 in order of first appearance.
pub type Word = u32;

/// One hypothesis and what it is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The text to judge.
    pub hypothesis: Vec<Word>,
    /// At least one text of a person.
    pub references: Vec<Vec<Word>>,
}

/// Tokenised hypotheses with their references; there is at least one segment, and each has at least one reference.
#[derive(Clone, Debug)]
pub struct Corpus {
    segments: Vec<Segment>,
    words: Vec<String>,
}

impl Corpus {
    /// Tokenises all texts; `references[i]` belong to `hypotheses[i]`.
    ///
    /// # Errors
    /// Different numbers of hypotheses and groups of references; no segment; a segment without a reference.
    pub fn new<H: AsRef<str>, R: AsRef<str>>(
        hypotheses: &[H],
        references: &[Vec<R>],
        tokenise: impl Fn(&str) -> Vec<String>,
    ) -> Result<Self> {
        check_pairs(hypotheses.len(), references)?;
        let mut words = Words::default();
        let mut ids = |text: &str| tokenise(text).into_iter().map(|word| words.id(word)).collect();
        let segments = hypotheses
            .iter()
            .zip(references)
            .map(|(hypothesis, references)| Segment {
                hypothesis: ids(hypothesis.as_ref()),
                references: references.iter().map(|text| ids(text.as_ref())).collect(),
            })
            .collect();
        Ok(Self {
            segments,
            words: words.list,
        })
    }

    /// The segments in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The distinct words: `words()[w as usize]` is how the [`Word`] `w` is written.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

/// As many groups of references as hypotheses, at least one, none of them empty.
pub(crate) fn check_pairs<R>(hypotheses: usize, references: &[Vec<R>]) -> Result<()> {
    if hypotheses != references.len() {
        return Err(Error::argument(
            "hypotheses",
            format!("{hypotheses} of them for {} groups of references", references.len()),
        ));
    }
    if hypotheses == 0 {
        return Err(Error::argument("hypotheses", "there is none to score"));
    }
    match references.iter().position(Vec::is_empty) {
        Some(index) => Err(Error::argument(
            "references",
            format!("segment {} has no reference", index + 1),
        )),
        None => Ok(()),
    }
}

/// Numbers for words.
#[derive(Default)]
struct Words {
    list: Vec<String>,
    ids: FxHashMap<String, Word>,
}

impl Words {
    fn id(&mut self, word: String) -> Word {
        if let Some(&id) = self.ids.get(&word) {
            return id;
        }
        // Four thousand million distinct words do not fit in memory as strings.
        let id = self.list.len() as Word;
        self.list.push(word.clone());
        self.ids.insert(word, id);
        id
    }
}
