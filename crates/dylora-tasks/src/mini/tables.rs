//! The tasks' files: official names, columns and label encodings.

use std::collections::HashSet;

use super::draw::Draw;
use super::inference::{self, Relation};
use super::{acceptability, pairs, sentiment};
use crate::glue::GlueTask;
use crate::task::Split;

/// Labels that are drawn anew among the wrong ones, in per cent.
const NOISE: usize = 3;

/// Rows of a split.
pub(super) fn rows(split: Split) -> usize {
    match split {
        Split::Train => 4000,
        Split::Dev | Split::DevMismatched => 1000,
        Split::Test => 500,
    }
}

/// One example: its texts, and its label as it stands in the file.
struct Item {
    one: String,
    two: String,
    label: String,
}

/// The text of each of a task's files, in the order of its list of files. No two rows of a task, of whatever split, have the
/// same texts.
pub(super) fn files(task: &GlueTask, number: u32, seed: u64) -> Vec<(&'static str, String)> {
    let mut seen = HashSet::new();
    let mut file = |place: usize, split: Split, name: &'static str| {
        let mut draw = Draw::new(seed, number * 8 + place as u32);
        let mut text = header(task, split);
        let mut index = 0;
        while index < rows(split) {
            let item = item(task.name, &mut draw);
            if seen.insert((item.one.clone(), item.two.clone())) {
                text.push_str(&row(task.name, split, index, &item));
                text.push('\n');
                index += 1;
            }
        }
        (name, text)
    };
    let files = task.files.iter().enumerate();
    files.map(|(place, &(split, name))| file(place, split, name)).collect()
}

fn item(task: &str, draw: &mut Draw) -> Item {
    let single = |(one, label): (String, bool), draw: &mut Draw| Item {
        one,
        two: String::new(),
        label: two_labels(["0", "1"], label, draw),
    };
    let pair = |(one, two, label): (String, String, bool), names: [&str; 2], draw: &mut Draw| Item {
        one,
        two,
        label: two_labels(names, label, draw),
    };
    match task {
        "cola" => single(acceptability::draw(draw), draw),
        "sst-2" => single(sentiment::draw(draw), draw),
        "mrpc" => pair(pairs::paraphrase(pairs::FULL, draw), ["0", "1"], draw),
        "qqp" => pair(pairs::duplicate(pairs::FULL, draw), ["0", "1"], draw),
        "qnli" => pair(pairs::answer(pairs::FULL, draw), ["not_entailment", "entailment"], draw),
        "rte" => {
            let relation = *draw.pick(&[
                Relation::Entailment,
                Relation::Entailment,
                Relation::Neutral,
                Relation::Contradiction,
            ]);
            let (one, two) = inference::draw(relation, draw);
            let follows = relation == Relation::Entailment;
            pair((one, two, follows), ["not_entailment", "entailment"], draw)
        }
        "sts-b" => {
            let (one, two, tenths) = pairs::similarity(draw);
            Item {
                one,
                two,
                label: format!("{}.{}00", tenths / 10, tenths % 10),
            }
        }
        // MNLI, the only one left.
        _ => {
            let relations = [
                (Relation::Entailment, "entailment"),
                (Relation::Neutral, "neutral"),
                (Relation::Contradiction, "contradiction"),
            ];
            let own = draw.below(relations.len());
            let (one, two) = inference::draw(relations[own].0, draw);
            let said = if draw.chance(NOISE) {
                draw.other(relations.len(), own)
            } else {
                own
            };
            Item {
                one,
                two,
                label: relations[said].1.to_owned(),
            }
        }
    }
}

/// The second of `names` if `label` is true, with noise.
fn two_labels(names: [&str; 2], label: bool, draw: &mut Draw) -> String {
    names[usize::from(label != draw.chance(NOISE))].to_owned()
}

/// The header line, with its line end; nothing where the official file has none.
fn header(task: &GlueTask, split: Split) -> String {
    let test = split == Split::Test;
    let columns = match (task.name, test) {
        ("cola", false) => return String::new(),
        ("cola" | "sst-2", true) => "index\tsentence",
        ("sst-2", false) => "sentence\tlabel",
        ("mrpc", false) => "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ("mrpc", true) => "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ("qqp", false) => "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ("qqp", true) => "id\tquestion1\tquestion2",
        ("qnli", false) => "index\tquestion\tsentence\tlabel",
        ("qnli", true) => "index\tquestion\tsentence",
        ("rte", false) => "index\tsentence1\tsentence2\tlabel",
        ("rte", true) => "index\tsentence1\tsentence2",
        ("sts-b", false) => "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        ("sts-b", true) => "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
        _ => {
            let labels = match split {
                Split::Train => "\tlabel1\tgold_label",
                Split::Test => "",
                _ => "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
            };
            return format!(
                "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t\
                 sentence2_parse\tsentence1\tsentence2{labels}\n"
            );
        }
    };
    format!("{columns}\n")
}

/// A row without its line end. Parses, of which there are none, are empty fields.
fn row(task: &str, split: Split, index: usize, item: &Item) -> String {
    let Item { one, two, label } = item;
    let test = split == Split::Test;
    let ids = (2 * index + 1, 2 * index + 2);
    match (task, test) {
        ("cola", false) => format!("mini\t{label}\t{}\t{one}", if label == "0" { "*" } else { "" }),
        ("cola" | "sst-2", true) => format!("{index}\t{one}"),
        ("sst-2", false) => format!("{one} \t{label}"),
        ("mrpc", false) => format!("{label}\t{}\t{}\t{one}\t{two}", ids.0, ids.1),
        ("mrpc", true) => format!("{index}\t{}\t{}\t{one}\t{two}", ids.0, ids.1),
        ("qqp", false) => format!("{index}\t{}\t{}\t{one}\t{two}\t{label}", ids.0, ids.1),
        ("qnli" | "rte", false) => format!("{index}\t{one}\t{two}\t{label}"),
        ("qqp" | "qnli" | "rte", true) => format!("{index}\t{one}\t{two}"),
        ("sts-b", _) => {
            let score = if test { String::new() } else { format!("\t{label}") };
            format!("{index}\tgenerated\tmini\t2026\t{index:04}\tnone\tnone\t{one}\t{two}{score}")
        }
        _ => {
            let labels = match split {
                Split::Train => format!("\t{label}\t{label}"),
                Split::Test => String::new(),
                _ => format!("\t{label}\t{label}\t{label}\t{label}\t{label}\t{label}"),
            };
            format!("{index}\t{}\t{}\tgenerated\t\t\t\t\t{one}\t{two}{labels}", ids.0, ids.1)
        }
    }
}
