//! A look at a split before anyone trains on it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Corpus, Counts, Coverage, Edition, GenerationTask, Meaning, webnlg};
use crate::task::Split;

/// What a split holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitReport {
    /// The split.
    pub split: Split,
    /// Number of files it was read from.
    pub files: usize,
    /// Inputs and texts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Rows to train on: texts without WebNLG's doubtful and DART's empty ones.
    pub pairs: usize,
    /// Inputs to write from: different prompts with a text that counts.
    pub prompts: usize,
    /// WebNLG's edition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edition: Option<Edition>,
    /// The published sizes.
    pub published: Counts,
    /// Whether the split has the published sizes.
    pub whole: bool,
    /// WebNLG's categories.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, CategoryCounts>,
    /// Texts by comment: WebNLG's judgement, DART's source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub comments: BTreeMap<String, usize>,
    /// Relations that the train split does not have, where it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_relations: Option<BTreeSet<String>>,
    /// What a person should know of the files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl SplitReport {
    /// The sizes beside the published ones, with a clause for a person.
    pub fn coverage(&self) -> Coverage {
        Coverage {
            found: self.counts,
            published: self.published,
        }
    }
}

/// What a category of WebNLG holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CategoryCounts {
    /// Entries and texts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Whether the train set of the edition has the category.
    pub seen: bool,
}

/// Counts a split; `train` is what its relations are compared with.
pub fn inspect(corpus: &Corpus, train: Option<&Corpus>) -> SplitReport {
    let mut categories = BTreeMap::new();
    let mut comments = BTreeMap::new();
    for entry in &corpus.entries {
        if let Some(category) = &entry.category {
            let seen = corpus.edition.and_then(|edition| webnlg::is_seen(edition, category));
            let of_category = categories.entry(category.clone()).or_insert(CategoryCounts {
                counts: Counts { meanings: 0, texts: 0 },
                seen: seen.unwrap_or(false),
            });
            of_category.counts.meanings += 1;
            of_category.counts.texts += entry.references.len();
        }
        for reference in entry.references.iter().filter(|_| corpus.task != GenerationTask::E2e) {
            *comments.entry(reference.comment.clone()).or_default() += 1;
        }
    }
    let coverage = corpus.coverage();
    SplitReport {
        split: corpus.split,
        files: corpus.files.len(),
        counts: coverage.found,
        pairs: corpus.pairs().len(),
        prompts: corpus.groups().len(),
        edition: corpus.edition,
        published: coverage.published,
        whole: coverage.is_whole(),
        categories,
        comments,
        unknown_relations: train.filter(|train| train.split != corpus.split).map(|train| {
            let known = relations(train);
            relations(corpus)
                .difference(&known)
                .map(|&name| name.to_owned())
                .collect()
        }),
        remarks: corpus.remarks.clone(),
    }
}

/// The attributes or properties that a split has.
fn relations(corpus: &Corpus) -> BTreeSet<&str> {
    corpus.entries.iter().flat_map(|entry| names(&entry.meaning)).collect()
}

fn names(meaning: &Meaning) -> Vec<&str> {
    match meaning {
        Meaning::Attributes(attributes) => attributes.iter().map(|(name, _)| name.as_str()).collect(),
        Meaning::Triples { triples, .. } => triples.iter().map(|triple| triple.property.as_str()).collect(),
    }
}
