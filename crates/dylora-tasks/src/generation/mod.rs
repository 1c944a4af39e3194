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

pub mod dart;
pub mod e2e;
mod inspect;
pub mod prompt;
mod published;
pub mod webnlg;
mod xml;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::task::Split;

pub use inspect::{CategoryCounts, SplitReport, inspect};
pub use published::{Counts, Coverage, Edition};

/// A data-to-text task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationTask {
    /// Restaurant descriptions from attributes (Novikova et al., 2017).
    E2e,
    /// Sentences from triples of tables and other corpora (Nan et al., 2021), version 1.1.1.
    Dart,
    /// Texts from DBpedia triples (Gardent et al., 2017, and the 2020 edition).
    WebNlg,
}

/// All generation tasks, in the order of the paper's Tables 6 and 9.
pub const TASKS: &[GenerationTask] = &[GenerationTask::E2e, GenerationTask::Dart, GenerationTask::WebNlg];

impl fmt::Display for GenerationTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `subject property object`, each as the file spells it: WebNLG has underscores for blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Triple {
    /// What is spoken of.
    pub subject: String,
    /// The relation.
    pub property: String,
    /// What is said of it.
    pub object: String,
}

/// What a text is written from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Attributes with their values, named as the E2E csv names them.
    Attributes(Vec<(String, String)>),
    /// Triples, which are the prompt, in file order.
    Triples {
        /// WebNLG's modified triples, DART's triples.
        triples: Vec<Triple>,
        /// The sets of DBpedia triples that WebNLG made them from; empty elsewhere.
        original: Vec<Vec<Triple>>,
    },
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
    /// The entry's own id (WebNLG starts anew in every file), or `split-row` with rows counted from 0.
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
    /// WebNLG's edition.
    pub edition: Option<Edition>,
    /// What a person should know of the files: a sentence each, with file and line.
    pub remarks: Vec<String>,
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
    /// The task called `name` (`e2e`, `dart`, `webnlg`), in any case.
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
            GenerationTask::Dart => "dart",
            GenerationTask::WebNlg => "webnlg",
        }
    }

    /// Its name in print.
    pub fn title(self) -> &'static str {
        match self {
            GenerationTask::E2e => "E2E",
            GenerationTask::Dart => "DART",
            GenerationTask::WebNlg => "WebNLG",
        }
    }

    /// The prompt of a meaning representation, as the LoRA paper's scripts spell it; DART's properties in lower case.
    pub fn context(self, meaning: &Meaning) -> String {
        let triple = |triple: &Triple| {
            let property = match self {
                GenerationTask::Dart => Cow::Owned(triple.property.to_lowercase()),
                GenerationTask::E2e | GenerationTask::WebNlg => Cow::Borrowed(&triple.property),
            };
            format!("{} : {property} : {}", triple.subject, triple.object)
        };
        match meaning {
            Meaning::Attributes(attributes) => e2e::context(attributes),
            Meaning::Triples { triples, .. } => triples.iter().map(triple).collect::<Vec<_>>().join(" | "),
        }
    }

    /// Whether a reference is learned from and scored against: of WebNLG only those that are judged `good`.
    pub fn uses(self, reference: &Reference) -> bool {
        self != GenerationTask::WebNlg || reference.comment == "good"
    }

    /// The text that a reference teaches: for E2E its tokenised spelling (see [`e2e::tokenise`]), else the text itself.
    pub fn target(self, text: &str) -> Cow<'_, str> {
        match self {
            GenerationTask::E2e => Cow::Owned(e2e::tokenise(text)),
            GenerationTask::Dart | GenerationTask::WebNlg => Cow::Borrowed(text),
        }
    }

    /// The files of a split under a data directory, or none. The directory may hold the task's own folder or be it.
    ///
    /// # Errors
    /// [`Error::UnknownSplit`] for a split that no generation task has; [`Error::Io`].
    pub fn files(self, data: &Path, split: Split) -> Result<Option<Vec<PathBuf>>> {
        for name in self.candidates(split)? {
            let path = data.join(name);
            if path.is_file() {
                return Ok(Some(vec![path]));
            }
            if path.is_dir() {
                let files = webnlg::xml_files(&path)?;
                if !files.is_empty() {
                    return Ok(Some(files));
                }
            }
        }
        Ok(None)
    }

    /// Names, relative to the data directory, under which a split may lie; the first that exists is read.
    ///
    /// # Errors
    /// [`Error::UnknownSplit`].
    fn candidates(self, split: Split) -> Result<Vec<String>> {
        let (folders, names) = match self {
            GenerationTask::E2e => (e2e::FOLDERS, e2e::names(split)),
            GenerationTask::Dart => (dart::FOLDERS, dart::names(split)),
            GenerationTask::WebNlg => (webnlg::FOLDERS, webnlg::names(split)),
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
            edition: None,
            remarks: Vec::new(),
        };
        for path in files {
            match self {
                GenerationTask::E2e => e2e::read(&path, &mut corpus)?,
                GenerationTask::Dart => dart::read(&path, &mut corpus)?,
                GenerationTask::WebNlg => webnlg::read(&path, &mut corpus)?,
            }
            corpus.files.push(path);
        }
        Ok(corpus)
    }
}

impl Corpus {
    /// The training rows in file order: every reference that counts beside its prompt, but for empty ones, which would
    /// teach to say nothing (DART has such; [`Corpus::remarks`] tells).
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let mut pairs = Vec::new();
        for entry in &self.entries {
            let context = self.task.context(&entry.meaning);
            let texts = entry.references.iter().filter(|reference| self.task.uses(reference));
            for reference in texts.filter(|reference| !reference.text.trim().is_empty()) {
                pairs.push(Pair {
                    context: context.clone(),
                    target: self.task.target(&reference.text),
                    category: entry.category.as_deref(),
                });
            }
        }
        pairs
    }

    /// Entries with the same prompt joined, in the order in which prompts first stand in the file. An entry all of whose
    /// references do not count is left out; one that never had any (a test file without texts) is not.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut index = FxHashMap::default();
        for entry in &self.entries {
            let uses = |reference: &&Reference| self.task.uses(reference);
            let mut texts = entry
                .references
                .iter()
                .filter(uses)
                .map(|reference| reference.text.as_str())
                .peekable();
            if texts.peek().is_none() && !entry.references.is_empty() {
                continue;
            }
            let context = self.task.context(&entry.meaning);
            let at = *index.entry(context).or_insert_with_key(|context| {
                groups.push(Group {
                    context: context.clone(),
                    references: Vec::new(),
                    category: entry.category.as_deref(),
                });
                groups.len() - 1
            });
            groups[at].references.extend(texts);
        }
        groups
    }

    /// [`Corpus::groups`] of WebNLG's categories that the train set has (`seen`) or has not; all for other tasks.
    pub fn groups_of(&self, seen: bool) -> Vec<Group<'_>> {
        let edition = self.edition;
        let is_seen = |category: &str| edition.and_then(|edition| webnlg::is_seen(edition, category));
        let mut groups = self.groups();
        groups.retain(|group| group.category.and_then(is_seen).is_none_or(|found| found == seen));
        groups
    }
}

/// A parser's error with its line.
fn json_error(path: &Path, error: &serde_json::Error) -> Error {
    Error::Malformed {
        path: path.to_path_buf(),
        line: error.line(),
        message: format!("not the json of this task: {error}"),
    }
}
