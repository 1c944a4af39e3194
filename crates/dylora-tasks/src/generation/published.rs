//! How many rows the published files have, and what is said of a file that has others.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Corpus, GenerationTask};
use crate::task::Split;

/// Sizes of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// What texts are written from: distinct meaning representations for E2E, entries for WebNLG and DART.
    pub meanings: usize,
    /// Texts, whatever their comment.
    pub texts: usize,
}

/// Which publication of WebNLG a split is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edition {
    /// The challenge of 2017 (Gardent et al.), the paper's.
    #[serde(rename = "2017")]
    WebNlg2017,
    /// The challenge of 2020 (release 3.0, English), whose entries have a shape.
    #[serde(rename = "2020")]
    WebNlg2020,
}

/// A split beside its publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// What the files have.
    pub found: Counts,
    /// What was published.
    pub published: Counts,
}

impl Coverage {
    /// Whether nothing is missing and nothing is there twice.
    pub fn is_whole(self) -> bool {
        self.found == self.published
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Coverage { found, published } = self;
        if found == published {
            return f.write_str("whole");
        }
        let fewer = found.meanings <= published.meanings && found.texts <= published.texts;
        let what = if fewer { "partial" } else { "not the published split" };
        write!(
            f,
            "{what}: {} of {} texts, for {} of {} inputs",
            found.texts, published.texts, found.meanings, published.meanings
        )
    }
}

/// The sizes of the published train, dev and test split.
fn sizes(task: GenerationTask, edition: Option<Edition>) -> [(usize, usize); 3] {
    match (task, edition) {
        (GenerationTask::E2e, _) => [(4862, 42061), (547, 4672), (630, 4693)],
        (GenerationTask::Dart, _) => [(30526, 62659), (2768, 6980), (5097, 12552)],
        (GenerationTask::WebNlg, Some(Edition::WebNlg2020)) => [(13211, 35426), (1667, 4464), (1779, 5150)],
        (GenerationTask::WebNlg, _) => [(6940, 18102), (872, 2268), (1862, 4928)],
    }
}

impl Corpus {
    /// How much is there.
    pub fn counts(&self) -> Counts {
        Counts {
            meanings: match self.task {
                GenerationTask::E2e => self.groups().len(),
                GenerationTask::Dart | GenerationTask::WebNlg => self.entries.len(),
            },
            texts: self.entries.iter().map(|entry| entry.references.len()).sum(),
        }
    }

    /// What is there beside what was published; its [`Display`](fmt::Display) is a clause for a person.
    pub fn coverage(&self) -> Coverage {
        let split = match self.split {
            Split::Train => 0,
            Split::Dev | Split::DevMismatched => 1,
            Split::Test => 2,
        };
        let (meanings, texts) = sizes(self.task, self.edition)[split];
        Coverage {
            found: self.counts(),
            published: Counts { meanings, texts },
        }
    }
}
