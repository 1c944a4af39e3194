//! The generation tasks of the paper (E2E, DART, WebNLG): official files to prompts, targets and groups of references.
//!
//! A file is read into [`Entry`] values that keep its rows, order and texts as they are. Two views are taken from a
//! [`Corpus`]: [`Corpus::pairs`], one prompt and one target per training row, and [`Corpus::groups`], one prompt with all of
//! its references, which is what is generated from and scored. Prompts are spelled as the scripts of the LoRA paper spell
//! them: `name : The Vaults | Type : pub` for E2E, `subject : property : object | ...` for triples.
//!
//! ```
//! use dylora_tasks::generation::GenerationTask;
//! use dylora_tasks::task::Split;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let rows = "mr,ref\n\
//!     \"name[Aromi], eatType[pub], familyFriendly[no]\",\"Aromi is a pub, it isn't for families.\"\n\
//!     \"name[Aromi], eatType[pub], familyFriendly[no]\",Aromi is an adults-only pub.\n";
//! std::fs::write(dir.path().join("devset.csv"), rows)?;
//! let corpus = GenerationTask::E2e.load(dir.path(), Split::Dev)?;
//!
//! let pairs = corpus.pairs();
//! assert_eq!(pairs[0].context, "name : Aromi | Type : pub | family friendly : no");
//! assert_eq!(pairs[0].target, "Aromi is a pub , it isn 't for families .");
//!
//! let groups = corpus.groups();
//! assert_eq!(groups.len(), 1);
//! assert_eq!(groups[0].references[1], "Aromi is an adults-only pub.");
//! # Ok(())
//! # }
//! ```

pub mod e2e;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::task::Split;

/// A data-to-text task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationTask {
    /// Restaurant descriptions from attributes (Novikova et al., 2017).
    E2e,
}

/// All generation tasks, in the order of the paper's tables.
pub const TASKS: &[GenerationTask] = &[GenerationTask::E2e];

impl fmt::Display for GenerationTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a text is written from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Attributes with their values, named as the E2E csv names them.
    Attributes(Vec<(String, String)>),
}

/// A text that a person wrote for a meaning representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The text, character for character as the file has it.
    pub text: String,
    /// WebNLG's judgement (`good`, `toFix`), DART's source of the text; empty for E2E.
    pub comment: String,
}

/// One row or entry of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's own id, or `split-row` with rows counted from 0.
    pub id: String,
    /// What the texts are written from.
    pub meaning: Meaning,
    /// WebNLG's category; none elsewhere.
    pub category: Option<String>,
    /// The texts in file order: exactly one for E2E, none only in a test file that is published without them.
    pub references: Vec<Reference>,
}

/// A split of a generation task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// The task.
    pub task: GenerationTask,
    /// The split.
    pub split: Split,
    /// The files it was read from, in the order of reading.
    pub files: Vec<PathBuf>,
    /// Every row or entry in file order.
    pub entries: Vec<Entry>,
}

/// One training row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The prompt.
    pub context: String,
    /// The text to learn.
    pub target: Cow<'a, str>,
    /// WebNLG's category.
    pub category: Option<&'a str>,
}

/// A prompt with everything that people wrote for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// The prompt.
    pub context: String,
    /// References in file order, as the file has them; empty only for a test file without references.
    pub references: Vec<&'a str>,
    /// WebNLG's category, of the first entry.
    pub category: Option<&'a str>,
}

impl GenerationTask {
    /// The task called `name` (`e2e`), in any case.
    ///
    /// # Errors
    /// [`Error::UnknownTask`] with all names.
    pub fn find(name: &str) -> Result<Self> {
        let wanted = name.to_ascii_lowercase();
        TASKS
            .iter()
            .copied()
            .find(|task| task.name() == wanted)
            .ok_or_else(|| Error::UnknownTask {
                name: name.to_owned(),
                known: TASKS.iter().map(|task| task.name()).collect::<Vec<_>>().join(", "),
            })
    }

    /// Name in lower case, as the command line and the records have it.
    pub fn name(self) -> &'static str {
        match self {
            GenerationTask::E2e => "e2e",
        }
    }

    /// The prompt of a meaning representation, as the LoRA paper's scripts spell it.
    pub fn context(self, meaning: &Meaning) -> String {
        match meaning {
            Meaning::Attributes(attributes) => e2e::context(attributes),
        }
    }

    /// The text that a reference teaches: for E2E its tokenised spelling (see [`e2e::tokenise`]).
    pub fn target(self, text: &str) -> Cow<'_, str> {
        match self {
            GenerationTask::E2e => Cow::Owned(e2e::tokenise(text)),
        }
    }

    /// The files of a split under a data directory, or none. The directory may hold the task's own folder or be it.
    ///
    /// # Errors
    /// [`Error::UnknownSplit`] for a split that no generation task has; [`Error::Io`].
    pub fn files(self, data: &Path, split: Split) -> Result<Option<Vec<PathBuf>>> {
        let found = match self {
            GenerationTask::E2e => self
                .candidates(split)?
                .into_iter()
                .map(|name| data.join(name))
                .find(|path| path.is_file()),
        };
        Ok(found.map(|path| vec![path]))
    }

    /// Names, relative to the data directory, under which a split may lie; the first that exists is read.
    ///
    /// # Errors
    /// [`Error::UnknownSplit`].
    fn candidates(self, split: Split) -> Result<Vec<String>> {
        let (folders, names) = match self {
            GenerationTask::E2e => (e2e::FOLDERS, e2e::names(split)),
        };
        let names = names.ok_or_else(|| Error::UnknownSplit {
            task: self.name().to_owned(),
            split: split.to_string(),
            available: "train, dev, test".to_owned(),
        })?;
        let join = |folder: &&str| {
            names
                .iter()
                .map(move |name| format!("{folder}{name}"))
                .collect::<Vec<_>>()
        };
        Ok(folders.iter().flat_map(join).collect())
    }

    /// A split from a data directory.
    ///
    /// # Errors
    /// [`Error::File`] when none of its files is there, with their names; as [`GenerationTask::load_file`].
    pub fn load(self, data: &Path, split: Split) -> Result<Corpus> {
        match self.files(data, split)? {
            Some(files) => self.load_files(files, split),
            None => Err(Error::file(
                data,
                format!(
                    "no {split} split of {self} here; looked for {}",
                    self.candidates(split)?.join(", ")
                ),
            )),
        }
    }

    /// A split from one file.
    ///
    /// # Errors
    /// The first malformed row or entry, with its line.
    pub fn load_file(self, path: &Path, split: Split) -> Result<Corpus> {
        self.load_files(vec![path.to_path_buf()], split)
    }

    fn load_files(self, files: Vec<PathBuf>, split: Split) -> Result<Corpus> {
        let mut corpus = Corpus {
            task: self,
            split,
            files: Vec::new(),
            entries: Vec::new(),
        };
        for path in files {
            match self {
                GenerationTask::E2e => e2e::read(&path, &mut corpus)?,
            }
            corpus.files.push(path);
        }
        Ok(corpus)
    }
}

impl Corpus {
    /// The training rows in file order: every reference of every entry beside the prompt.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let mut pairs = Vec::new();
        for entry in &self.entries {
            let context = self.task.context(&entry.meaning);
            for reference in &entry.references {
                pairs.push(Pair {
                    context: context.clone(),
                    target: self.task.target(&reference.text),
                    category: entry.category.as_deref(),
                });
            }
        }
        pairs
    }

    /// Entries with the same prompt joined, in the order in which prompts first stand in the file.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut index = FxHashMap::default();
        for entry in &self.entries {
            let context = self.task.context(&entry.meaning);
            let at = *index.entry(context).or_insert_with_key(|context| {
                groups.push(Group {
                    context: context.clone(),
                    references: Vec::new(),
                    category: entry.category.as_deref(),
                });
                groups.len() - 1
            });
            let texts = entry.references.iter().map(|reference| reference.text.as_str());
            groups[at].references.extend(texts);
        }
        groups
    }
}
