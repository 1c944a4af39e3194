//! The generation tasks' files: official names, columns and elements.

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::Hash;

use serde_json::json;

use super::draw::Draw;
use super::entities::{Entity, Naming, SEEN, UNSEEN};
use super::restaurants::{Names, Restaurant};
use crate::generation::GenerationTask;

/// The number of the first generator of these files; each has its own.
const FIRST: u32 = 2000;

/// Meaning representations of a split of E2E.
const E2E: [usize; 3] = [800, 60, 100];
/// Entries of a split of WebNLG; the test set has half of them from the categories of the train set.
const WEBNLG: [usize; 3] = [1600, 120, 120];
/// Entries of a split of DART.
const DART: [usize; 3] = [2000, 120, 120];
/// Triples of an entry at most.
const TRIPLES: usize = 5;
/// Of WebNLG's texts, how many are judged not good, in per cent.
const TO_FIX: usize = 3;

/// The text of each of a task's files, with its path below the data directory. No meaning representation is in two splits.
pub(super) fn files(task: GenerationTask, seed: u64) -> Vec<(String, String)> {
    match task {
        GenerationTask::E2e => e2e(seed),
        GenerationTask::Dart => dart(seed),
        GenerationTask::WebNlg => webnlg(seed),
    }
}

/// `count` different ones that `seen` has not.
fn distinct<T: Clone + Eq + Hash>(count: usize, seen: &mut HashSet<T>, mut make: impl FnMut() -> T) -> Vec<T> {
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let one = make();
        if seen.insert(one.clone()) {
            found.push(one);
        }
    }
    found
}

/// `count` texts, different ones as far as ten more attempts give them.
fn texts(count: usize, mut make: impl FnMut() -> String) -> Vec<String> {
    let mut found: Vec<String> = Vec::with_capacity(count);
    for _ in 0..count + 10 {
        let text = make();
        if found.len() < count && !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

fn field(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn e2e(seed: u64) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let mut written = Vec::new();
    let mut bare = String::from("MR\n");
    for (place, (name, names)) in (0..).zip([
        ("trainset.csv", Names::Known),
        ("devset.csv", Names::All),
        ("testset_w_refs.csv", Names::New),
    ]) {
        let mut draw = Draw::new(seed, FIRST + place);
        let mut file = String::from("mr,ref\n");
        for restaurant in distinct(E2E[place as usize], &mut seen, || Restaurant::draw(names, &mut draw)) {
            let meaning = field(&restaurant.csv());
            let count = 4 + draw.below(5);
            for text in texts(count, || restaurant.text(&mut draw)) {
                file.push_str(&format!("{meaning},{}\n", field(&text)));
            }
            if name.starts_with("testset") {
                bare.push_str(&format!("{meaning}\n"));
            }
        }
        written.push((format!("e2e/{name}"), file));
    }
    written.push(("e2e/testset.csv".to_owned(), bare));
    written
}

/// An entry of WebNLG or DART with its texts.
struct Entry {
    entity: Entity,
    texts: Vec<String>,
}

fn entries(kinds: &[usize], count: usize, seen: &mut HashSet<Entity>, draw: &mut Draw) -> Vec<Entry> {
    let entities = distinct(count, seen, || Entity::draw(*draw.pick(kinds), TRIPLES, draw));
    let entry = |entity: Entity| {
        let count = 2 + draw.below(2);
        let texts = texts(count, || entity.text(draw));
        Entry { entity, texts }
    };
    entities.into_iter().map(entry).collect()
}

fn webnlg(seed: u64) -> Vec<(String, String)> {
    let seen_kinds: Vec<usize> = (0..SEEN.len()).collect();
    let unseen_kinds: Vec<usize> = (SEEN.len()..SEEN.len() + UNSEEN.len()).collect();
    let mut seen = HashSet::new();
    let mut written = Vec::new();
    for (place, split) in (0..).zip(["train", "dev"]) {
        let mut draw = Draw::new(seed, FIRST + 10 + place);
        let entries = entries(&seen_kinds, WEBNLG[place as usize], &mut seen, &mut draw);
        for size in 1..=TRIPLES {
            for kind in SEEN {
                let of = |entry: &&Entry| {
                    entry.entity.category() == kind.name && entry.entity.triples(Naming::WebNlg).len() == size
                };
                let own: Vec<&Entry> = entries.iter().filter(of).collect();
                if !own.is_empty() {
                    let s = if size == 1 { "" } else { "s" };
                    let name = format!("{size}triples/{size}triple{s}_{}_{split}_challenge.xml", kind.name);
                    written.push((
                        format!("webnlg_challenge_2017/{split}/{name}"),
                        benchmark(&own, Some(&mut draw)),
                    ));
                }
            }
        }
    }
    let mut draw = Draw::new(seed, FIRST + 12);
    let half = WEBNLG[2] / 2;
    let mut test = entries(&seen_kinds, half, &mut seen, &mut draw);
    test.extend(entries(&unseen_kinds, WEBNLG[2] - half, &mut seen, &mut draw));
    let all: Vec<&Entry> = test.iter().collect();
    written.push((
        "webnlg_challenge_2017/test/testdata_with_lex.xml".to_owned(),
        benchmark(&all, Some(&mut draw)),
    ));
    written
}

fn dart(seed: u64) -> Vec<(String, String)> {
    let kinds: Vec<usize> = (0..SEEN.len() + UNSEEN.len()).collect();
    let mut seen = HashSet::new();
    let mut written = Vec::new();
    for (place, split) in (0..).zip(["train", "dev", "test"]) {
        let mut draw = Draw::new(seed, FIRST + 20 + place);
        let entries = entries(&kinds, DART[place as usize], &mut seen, &mut draw);
        let rows: Vec<serde_json::Value> = entries
            .iter()
            .map(|Entry { entity, texts }| {
                let annotations: Vec<_> = texts
                    .iter()
                    .map(|text| json!({"source": DART_SOURCE, "text": text}))
                    .collect();
                json!({
                    "tripleset": entity.triples(Naming::Dart),
                    "subtree_was_extended": false,
                    "annotations": annotations,
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows).unwrap_or_default();
        written.push((format!("dart/dart-v1.1.1-full-{split}.json"), text + "\n"));
        if split == "test" {
            let all: Vec<&Entry> = entries.iter().collect();
            written.push((format!("dart/dart-v1.1.1-full-{split}.xml"), benchmark(&all, None)));
        }
    }
    written
}

/// What DART's texts say of where they are from.
const DART_SOURCE: &str = "generated";

/// The xml of WebNLG, with a judgement of each text that is drawn, or of DART.
fn benchmark(entries: &[&Entry], mut judge: Option<&mut Draw>) -> String {
    let mut xml = String::from("<?xml version='1.0' encoding='UTF-8'?>\n<benchmark>\n  <entries>\n");
    let naming = if judge.is_some() { Naming::WebNlg } else { Naming::Dart };
    for (id, Entry { entity, texts }) in (1..).zip(entries) {
        let triples = entity.triples(naming);
        let category = if judge.is_some() { entity.category() } else { "MISC" };
        let _ = writeln!(
            xml,
            "    <entry category=\"{category}\" eid=\"Id{id}\" size=\"{}\">",
            triples.len()
        );
        let set = |xml: &mut String, name: &str, triple: &str| {
            let _ = writeln!(xml, "      <{name}>");
            for parts in &triples {
                let _ = writeln!(xml, "        <{triple}>{}</{triple}>", escaped(&parts.join(" | ")));
            }
            let _ = writeln!(xml, "      </{name}>");
        };
        if judge.is_some() {
            set(&mut xml, "originaltripleset", "otriple");
        }
        set(&mut xml, "modifiedtripleset", "mtriple");
        for (lid, text) in (1..).zip(texts) {
            // What has lost its end is not good; the first text of an entry always is.
            let spoiled = judge.as_deref_mut().map(|draw| lid > 1 && draw.chance(TO_FIX));
            let (comment, text) = match spoiled {
                None => (DART_SOURCE, text.as_str()),
                Some(true) => ("toFix", text.rsplit_once(' ').map_or(text.as_str(), |cut| cut.0)),
                Some(false) => ("good", text.as_str()),
            };
            let _ = writeln!(
                xml,
                "      <lex comment=\"{comment}\" lid=\"Id{lid}\">{}</lex>",
                escaped(text)
            );
        }
        xml.push_str("    </entry>\n");
    }
    xml.push_str("  </entries>\n</benchmark>\n");
    xml
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
