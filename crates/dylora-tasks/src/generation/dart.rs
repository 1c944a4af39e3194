//! DART v1.1.1: json (all splits) and xml (the test set).

use std::path::Path;

use serde::{Deserialize, Deserializer, de};

use super::{Corpus, Entry, Meaning, Reference, Triple, xml};
use crate::error::{Error, Result};
use crate::task::Split;
use crate::tsv;

pub(super) const FOLDERS: &[&str] = &["dart/", ""];

pub(super) fn names(split: Split) -> Option<&'static [&'static str]> {
    match split {
        Split::Train => Some(&["dart-v1.1.1-full-train.json", "dart-v1.1.1-full-train.xml"]),
        Split::Dev => Some(&["dart-v1.1.1-full-dev.json", "dart-v1.1.1-full-dev.xml"]),
        Split::Test => Some(&["dart-v1.1.1-full-test.json", "dart-v1.1.1-full-test.xml"]),
        Split::DevMismatched => None,
    }
}

/// Adds the entries of a file: json by the ending of its name, else xml.
///
/// The published test set has one text without a character in it, so an empty reference is no error here: it stays among
/// the references, teaches nothing, and is told in [`Corpus::remarks`].
pub(super) fn read(path: &Path, corpus: &mut Corpus) -> Result<()> {
    let is_json = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    if is_json {
        return read_json(path, corpus);
    }
    for found in xml::read(path)? {
        for (reference, line) in found.entry.references.iter().zip(&found.reference_lines) {
            if reference.text.trim().is_empty() {
                corpus
                    .remarks
                    .push(format!("{}, line {line}: the reference is empty", path.display()));
            }
        }
        if found.entry.references.is_empty() {
            return Err(Error::Malformed {
                path: path.to_path_buf(),
                line: found.line,
                message: "the entry has no <lex>".to_owned(),
            });
        }
        corpus.entries.push(Entry {
            // MISC throughout.
            category: None,
            ..found.entry
        });
    }
    Ok(())
}

#[derive(Deserialize)]
struct JsonEntry {
    #[serde(deserialize_with = "some")]
    tripleset: Vec<JsonTriple>,
    #[serde(deserialize_with = "some")]
    annotations: Vec<JsonText>,
}

#[derive(Deserialize)]
struct JsonText {
    source: String,
    text: String,
}

/// `["subject", "property", "object"]`.
struct JsonTriple(Triple);

impl<'de> Deserialize<'de> for JsonTriple {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let parts = Vec::<String>::deserialize(from)?;
        match <[String; 3]>::try_from(parts) {
            Ok([subject, property, object])
                if ![&subject, &property, &object].iter().any(|part| part.trim().is_empty()) =>
            {
                Ok(JsonTriple(Triple {
                    subject,
                    property,
                    object,
                }))
            }
            Ok(parts) => Err(de::Error::custom(format!("a part of the triple {parts:?} is empty"))),
            Err(parts) => Err(de::Error::custom(format!("{parts:?} is not a triple"))),
        }
    }
}

// Checked while it is parsed, so that the parser adds the line.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> std::result::Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(from)?;
    match list.is_empty() {
        true => Err(de::Error::custom("an entry has no triples or no annotations")),
        false => Ok(list),
    }
}

fn read_json(path: &Path, corpus: &mut Corpus) -> Result<()> {
    let text = tsv::read_text(path)?;
    let entries: Vec<JsonEntry> = serde_json::from_str(&text).map_err(|error| super::json_error(path, &error))?;
    if entries.is_empty() {
        return Err(Error::file(path, "no entry stands in the file"));
    }
    for (row, entry) in entries.into_iter().enumerate() {
        let empty = entry
            .annotations
            .iter()
            .filter(|text| text.text.trim().is_empty())
            .count();
        if empty > 0 {
            let entry = row + 1;
            corpus
                .remarks
                .push(format!("{}, entry {entry}: {empty} empty references", path.display()));
        }
        let texts = entry.annotations.into_iter();
        corpus.entries.push(Entry {
            id: format!("{}-{row}", corpus.split),
            meaning: Meaning::Triples {
                triples: entry.tripleset.into_iter().map(|triple| triple.0).collect(),
                original: Vec::new(),
            },
            category: None,
            references: texts
                .map(|text| Reference {
                    text: text.text,
                    comment: text.source,
                })
                .collect(),
        });
    }
    Ok(())
}
