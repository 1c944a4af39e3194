//! E2E: the challenge's csv (`mr,ref`) and the `a||b` text form of the LoRA paper.
//!
//! A row of the csv is `"name[Aromi], eatType[pub]",Aromi is a pub.`; the same row as text is
//! `name : Aromi | Type : pub||Aromi is a pub . `, with three attributes renamed and the text tokenised. Both give the same
//! prompt and the same target here; references are as each file has them.

use std::path::Path;

use super::{Corpus, Entry, Meaning, Reference};
use crate::error::{Error, Result};
use crate::tabular::{self, Columns};
use crate::task::Split;
use crate::tsv;

/// The attributes of the challenge: name in the csv, name in a prompt.
pub const ATTRIBUTES: &[(&str, &str)] = &[
    ("name", "name"),
    ("eatType", "Type"),
    ("food", "food"),
    ("priceRange", "price"),
    ("customer rating", "customer rating"),
    ("area", "area"),
    ("familyFriendly", "family friendly"),
    ("near", "near"),
];

pub(super) const FOLDERS: &[&str] = &["e2e/", "", "e2e-dataset/", "e2e_lora/"];

/// File names of a split, the challenge's before the text form's.
pub(super) fn names(split: Split) -> Option<&'static [&'static str]> {
    match split {
        Split::Train => Some(&["trainset.csv", "train.txt"]),
        Split::Dev => Some(&["devset.csv", "valid.txt"]),
        Split::Test => Some(&["testset_w_refs.csv", "test.txt"]),
        Split::DevMismatched => None,
    }
}

/// Adds the rows of a file: csv by the ending of its name, else the text form.
pub(super) fn read(path: &Path, corpus: &mut Corpus) -> Result<()> {
    let is_csv = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    let rows = if is_csv {
        read_csv(path, corpus.split)?
    } else {
        read_text(path)?
    };
    let first = corpus.entries.len();
    let entry = |(row, (meaning, text)): (usize, Row)| Entry {
        id: format!("{}-{}", corpus.split, first + row),
        meaning: Meaning::Attributes(meaning),
        category: None,
        references: text
            .map(|text| Reference {
                text,
                comment: String::new(),
            })
            .into_iter()
            .collect(),
    };
    let entries: Vec<Entry> = rows.into_iter().enumerate().map(entry).collect();
    corpus.entries.extend(entries);
    Ok(())
}

type Row = (Vec<(String, String)>, Option<String>);

fn read_csv(path: &Path, split: Split) -> Result<Vec<Row>> {
    let columns = |meaning: &str, reference: Option<&str>| Columns {
        text_a: meaning.to_owned(),
        text_b: reference.map(str::to_owned),
        label: None,
        regression: false,
    };
    let rows = match tabular::read_rows(path, &columns("mr", Some("ref"))) {
        // The test set as the challenge handed it out: one column, in capitals, no references.
        Err(Error::MissingColumn { found, .. }) if split == Split::Test && found == ["MR"] => {
            tabular::read_rows(path, &columns("MR", None))?
        }
        rows => rows?,
    };
    rows.into_iter()
        .map(|row| {
            let malformed = |message: String| Error::Malformed {
                path: path.to_path_buf(),
                line: row.line,
                message,
            };
            let meaning = parse_csv_meaning(&row.text_a).map_err(malformed)?;
            if row.text_b.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err(malformed("the reference is empty".to_owned()));
            }
            Ok((meaning, row.text_b))
        })
        .collect()
}

fn read_text(path: &Path) -> Result<Vec<Row>> {
    let text = tsv::read_text(path)?;
    tsv::lines(&text)
        .map(|(line, row)| {
            let malformed = |message: String| Error::Malformed {
                path: path.to_path_buf(),
                line,
                message,
            };
            if row.contains('\r') {
                return Err(malformed("a carriage return stands inside the line".to_owned()));
            }
            let (meaning, reference) = match row.matches("||").count() {
                1 => row.split_once("||").unwrap_or_default(),
                found => {
                    return Err(malformed(format!(
                        "|| stands between meaning representation and reference exactly once, here it stands {found} times"
                    )));
                }
            };
            let meaning = parse_text_meaning(meaning).map_err(malformed)?;
            // The blank that ends every line of the published files is no part of the text.
            let reference = reference.trim();
            if reference.is_empty() {
                return Err(malformed("the reference is empty".to_owned()));
            }
            Ok((meaning, Some(reference.to_owned())))
        })
        .collect()
}

/// `name[Aromi], eatType[pub]`.
fn parse_csv_meaning(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
    let mut attributes = Vec::new();
    let mut rest = text.trim();
    loop {
        let (name, after) = rest
            .split_once('[')
            .ok_or_else(|| format!("no [ follows the attribute in {rest:?}"))?;
        let (value, after) = after
            .split_once(']')
            .ok_or_else(|| format!("no ] ends the value of {:?}", name.trim()))?;
        let known = ATTRIBUTES.iter().map(|&(csv, _)| csv);
        push(&mut attributes, name, value, known)?;
        rest = after.trim_start();
        if rest.is_empty() {
            return Ok(attributes);
        }
        rest = rest
            .strip_prefix(',')
            .ok_or_else(|| format!("no comma follows the value of {:?}", name.trim()))?;
    }
}

/// `name : Aromi | Type : pub`.
fn parse_text_meaning(text: &str) -> std::result::Result<Vec<(String, String)>, String> {
    let mut attributes = Vec::new();
    for part in text.split('|') {
        let (name, value) = part
            .split_once(" : ")
            .ok_or_else(|| format!("no \" : \" parts name and value in {:?}", part.trim()))?;
        push(
            &mut attributes,
            name,
            value,
            ATTRIBUTES.iter().map(|&(_, prompt)| prompt),
        )?;
    }
    Ok(attributes)
}

/// Adds an attribute under its csv name; `known` are the names as this file has them, in the order of [`ATTRIBUTES`].
fn push(
    attributes: &mut Vec<(String, String)>,
    name: &str,
    value: &str,
    mut known: impl Iterator<Item = &'static str> + Clone,
) -> std::result::Result<(), String> {
    let (name, value) = (name.trim(), value.trim());
    let names = known.clone();
    let Some(index) = known.position(|known| known == name) else {
        let names = names.collect::<Vec<_>>().join(", ");
        return Err(format!("unknown attribute {name:?}; the attributes are {names}"));
    };
    let name = ATTRIBUTES[index].0;
    if value.is_empty() {
        return Err(format!("the value of {name:?} is empty"));
    }
    if attributes.iter().any(|(other, _)| other == name) {
        return Err(format!("{name:?} stands there more than once"));
    }
    attributes.push((name.to_owned(), value.to_owned()));
    Ok(())
}

/// The prompt: `name : Aromi | Type : pub | price : less than £ 20`.
pub(super) fn context(attributes: &[(String, String)]) -> String {
    let part = |(name, value): &(String, String)| {
        let prompt = ATTRIBUTES
            .iter()
            .find(|(csv, _)| csv == name)
            .map_or(name.as_str(), |&(_, prompt)| prompt);
        format!("{prompt} : {}", tokenise(value))
    };
    attributes.iter().map(part).collect::<Vec<_>>().join(" | ")
}

/// A text with blanks between words and punctuation, as the files of the LoRA paper have it: `isn 't`, `£ 20 - 25`,
/// `family - friendly`, `£ 30.99`. A text that is tokenised already stays as it is.
///
/// A hyphen is parted from its words only where it stands between two of them. A dot or comma stays inside a number, a dot
/// also before a word that it is attached to (`food .price`) and after a word of one character that no sentence end follows
/// (`5 out of 5. in the centre`).
pub fn tokenise(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let at = |index: usize| chars.get(index).copied().unwrap_or(' ');
    let before = |index: usize| index.checked_sub(1).map_or(' ', at);
    let mut out = String::with_capacity(text.len() + 16);
    let mut start = 0;
    while start < chars.len() {
        let c = chars[start];
        if word(c) || c.is_whitespace() {
            out.push(c);
            start += 1;
            continue;
        }
        let end = start + chars[start..].iter().take_while(|&&other| other == c).count();
        let (previous, next) = (before(start), at(end));
        let (blank_before, blank_after) = match c {
            '\'' if is_clitic(&chars[end..], word) => (true, false),
            '\'' | '-' if word(previous) && word(next) => (c == '-' && end - start == 1, c == '-' && end - start == 1),
            '-' => (false, false),
            '.' | ',' if previous.is_ascii_digit() && (next.is_ascii_digit() || matches!(next, '.' | ',')) => {
                (false, false)
            }
            '.' if previous.is_whitespace() && word(next) => (false, false),
            '.' if word(previous)
                && !word(before(start - 1))
                && next.is_whitespace()
                && chars[end..]
                    .iter()
                    .find(|c| !c.is_whitespace())
                    .is_some_and(|c| c.is_lowercase()) =>
            {
                (false, false)
            }
            _ => (true, true),
        };
        out.extend(blank_before.then_some(' '));
        out.extend(&chars[start..end]);
        out.extend(blank_after.then_some(' '));
        start = end;
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether what follows an apostrophe is the rest of a short form: `'s`, `'t`, `'re`, ...
fn is_clitic(rest: &[char], word: impl Fn(char) -> bool) -> bool {
    ["s", "t", "re", "ve", "m", "ll", "d"].iter().any(|clitic| {
        let length = clitic.len();
        rest.len() >= length
            && clitic.chars().eq(rest[..length].iter().copied())
            && !rest.get(length).copied().is_some_and(&word)
    })
}
