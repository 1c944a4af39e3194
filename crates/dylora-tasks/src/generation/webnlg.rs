//! WebNLG, 2017 and 2020: folders of xml, or the json of the LoRA paper; categories seen and unseen in training.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::{Corpus, Entry, Meaning, Reference, Triple, xml};
use crate::error::{Error, Result};
use crate::task::Split;
use crate::tsv;

/// The categories of the 2017 train and dev sets: those that count as seen in its test set.
pub const SEEN_2017: &[&str] = &[
    "Airport",
    "Astronaut",
    "Building",
    "City",
    "ComicsCharacter",
    "Food",
    "Monument",
    "SportsTeam",
    "University",
    "WrittenWork",
];

/// The categories that stand in the 2017 test set only.
pub const UNSEEN_2017: &[&str] = &[
    "Artist",
    "Athlete",
    "CelestialBody",
    "MeanOfTransportation",
    "Politician",
];

/// The categories that stand in the 2020 test set only; its train and dev sets have the fifteen of 2017 and `Company`.
pub const UNSEEN_2020: &[&str] = &["Film", "MusicalWork", "Scientist"];

/// Whether the train set of the edition has a category; `None` for a category of neither edition.
///
/// ```
/// use dylora_tasks::generation::{Edition, webnlg};
///
/// assert_eq!(webnlg::is_seen(Edition::WebNlg2017, "Artist"), Some(false));
/// assert_eq!(webnlg::is_seen(Edition::WebNlg2020, "Artist"), Some(true));
/// ```
pub fn is_seen(edition: super::Edition, category: &str) -> Option<bool> {
    let in_2017 = SEEN_2017.contains(&category);
    let later = UNSEEN_2017.contains(&category) || category == "Company";
    if in_2017 {
        Some(true)
    } else if later {
        Some(edition == super::Edition::WebNlg2020)
    } else {
        UNSEEN_2020.contains(&category).then_some(false)
    }
}

/// Folders that may hold the splits, under the data directory.
pub(super) const FOLDERS: &[&str] = &["webnlg_challenge_2017/", "webnlg/", "release_v3.0/en/", ""];

/// What a split may be, in one of [`FOLDERS`]: a file, or a folder whose xml files are all read.
pub(super) fn names(split: Split) -> Option<&'static [&'static str]> {
    match split {
        Split::Train => Some(&["train", "train.json"]),
        Split::Dev => Some(&["dev", "dev.json"]),
        // The test folders hold other files too: without texts, for the opposite direction, by category.
        Split::Test => Some(&[
            "test/testdata_with_lex.xml",
            "test/rdf-to-text-generation-test-data-with-refs-en.xml",
            "test.json",
        ]),
        Split::DevMismatched => None,
    }
}

/// The xml files under a folder, sorted by path: `1triples` before `2triples`, and by category in each.
pub(super) fn xml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let path = entry.map_err(Error::io("read", &folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|ending| ending.eq_ignore_ascii_case("xml"))
            {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Adds the entries of a file: json by the ending of its name, else xml.
pub(super) fn read(path: &Path, corpus: &mut Corpus) -> Result<()> {
    let is_json = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    if is_json {
        return read_json(path, corpus);
    }
    for found in xml::read(path)? {
        let malformed = |line: usize, message: String| Error::Malformed {
            path: path.to_path_buf(),
            line,
            message,
        };
        check_category(found.entry.category.as_deref()).map_err(|message| malformed(found.line, message))?;
        let empty = found
            .entry
            .references
            .iter()
            .position(|reference| reference.text.trim().is_empty());
        if let Some(at) = empty {
            return Err(malformed(
                found.reference_lines[at],
                "the reference is empty".to_owned(),
            ));
        }
        if found.entry.references.is_empty() && corpus.split != Split::Test {
            return Err(malformed(found.line, "the entry has no <lex>".to_owned()));
        }
        add(corpus, found.entry, found.shape.as_deref());
    }
    Ok(())
}

fn add(corpus: &mut Corpus, entry: Entry, shape: Option<&str>) {
    // Only the 2020 edition says how the triples hang together; the json of 2017 has "NA" there.
    if shape.is_some_and(|shape| shape != "NA" && !shape.is_empty()) {
        corpus.edition = Some(super::Edition::WebNlg2020);
    }
    corpus.edition.get_or_insert(super::Edition::WebNlg2017);
    corpus.entries.push(entry);
}

fn check_category(category: Option<&str>) -> std::result::Result<(), String> {
    match category {
        Some(category) if is_seen(super::Edition::WebNlg2020, category).is_some() => Ok(()),
        Some(category) => {
            let known = [SEEN_2017, UNSEEN_2017, &["Company"], UNSEEN_2020].concat().join(", ");
            Err(format!("unknown category {category:?}; the categories are {known}"))
        }
        None => Err("the entry has no category".to_owned()),
    }
}

/// `{"entries": [{"1": {..}}, {"2": {..}}, ..]}`.
#[derive(Deserialize)]
struct JsonFile {
    entries: Vec<BTreeMap<String, JsonEntry>>,
}

#[derive(Deserialize)]
struct JsonEntry {
    #[serde(deserialize_with = "category")]
    category: String,
    #[serde(default)]
    lexicalisations: Vec<JsonText>,
    #[serde(deserialize_with = "some_triples")]
    modifiedtripleset: Vec<JsonTriple>,
    #[serde(default)]
    originaltriplesets: JsonOriginals,
    shape: Option<String>,
}

#[derive(Default, Deserialize)]
struct JsonOriginals {
    #[serde(default)]
    originaltripleset: Vec<Vec<JsonTriple>>,
}

#[derive(Deserialize)]
struct JsonText {
    #[serde(default)]
    comment: String,
    #[serde(deserialize_with = "reference")]
    lex: String,
}

#[derive(Deserialize)]
struct JsonTriple {
    #[serde(deserialize_with = "part")]
    subject: String,
    #[serde(deserialize_with = "part")]
    property: String,
    #[serde(deserialize_with = "part")]
    object: String,
}

impl From<JsonTriple> for Triple {
    fn from(triple: JsonTriple) -> Self {
        Triple {
            subject: triple.subject,
            property: triple.property,
            object: triple.object,
        }
    }
}

// Checked while it is parsed, so that the parser adds the line.
fn non_blank<'de, D: Deserializer<'de>>(from: D, what: &str) -> std::result::Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match text.trim().is_empty() {
        true => Err(de::Error::custom(format!("the {what} is empty"))),
        false => Ok(text),
    }
}

fn reference<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    non_blank(from, "reference")
}

fn part<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    non_blank(from, "part of a triple")
}

fn category<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    let category = String::deserialize(from)?;
    check_category(Some(&category)).map_err(de::Error::custom)?;
    Ok(category)
}

fn some_triples<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<JsonTriple>, D::Error> {
    let triples = Vec::deserialize(from)?;
    match triples.is_empty() {
        true => Err(de::Error::custom("the entry has no triples")),
        false => Ok(triples),
    }
}

fn read_json(path: &Path, corpus: &mut Corpus) -> Result<()> {
    let text = tsv::read_text(path)?;
    let file: JsonFile = serde_json::from_str(&text).map_err(|error| super::json_error(path, &error))?;
    for (id, entry) in file.entries.into_iter().flatten() {
        if entry.lexicalisations.is_empty() && corpus.split != Split::Test {
            return Err(Error::file(path, format!("entry {id:?} has no lexicalisations")));
        }
        let triples = |set: Vec<JsonTriple>| set.into_iter().map(Triple::from).collect();
        let original = entry.originaltriplesets.originaltripleset;
        let references = entry.lexicalisations.into_iter();
        let found = Entry {
            id,
            meaning: Meaning::Triples {
                triples: triples(entry.modifiedtripleset),
                original: original.into_iter().map(triples).collect(),
            },
            category: Some(entry.category),
            references: references
                .map(|text| Reference {
                    text: text.lex,
                    comment: text.comment,
                })
                .collect(),
        };
        add(corpus, found, entry.shape.as_deref());
    }
    if corpus.entries.is_empty() {
        return Err(Error::file(path, "no entry stands in the file"));
    }
    Ok(())
}
