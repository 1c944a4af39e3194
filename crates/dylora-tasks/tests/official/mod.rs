//! A few rows of each generation task in its official files, beside a tiny random GPT-2, for tests of whole runs.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use dylora_tasks::generation::GenerationTask;
use dylora_tasks::nn::Method;
use dylora_tasks::settings::{TrainSettings, Writing};

use crate::pairs::{Loaded, write_model};

pub(crate) const TASKS: [GenerationTask; 3] = [GenerationTask::E2e, GenerationTask::Dart, GenerationTask::WebNlg];

/// Prompts of every test split: more than one part of those that are written at a time.
pub(crate) const PROMPTS: usize = 68;

const FOODS: [&str; 3] = ["Thai", "Fast", "French"];

/// What is said of the place with this number: two texts.
fn texts(number: usize) -> [String; 2] {
    let food = FOODS[number % 3];
    [
        format!("N{number} serves {food} food."),
        format!("{food} food is served at N{number}."),
    ]
}

fn e2e(rows: usize, both: bool) -> String {
    let mut text = "mr,ref\r\n".to_owned();
    for number in 0..rows {
        let food = FOODS[number % 3];
        for reference in texts(number).iter().take(1 + usize::from(both)) {
            text += &format!("\"name[N{number}], food[{food}]\",{reference}\r\n");
        }
    }
    text
}

fn dart(rows: usize) -> serde_json::Result<String> {
    let entry = |number: usize| {
        let annotations = texts(number).map(|text| serde_json::json!({"source": "e2e", "text": text}));
        serde_json::json!({
            "tripleset": [[format!("N{number}"), "FOOD", FOODS[number % 3]]],
            "subtree_was_extended": false,
            "annotations": annotations,
        })
    };
    serde_json::to_string_pretty(&(0..rows).map(entry).collect::<Vec<_>>())
}

/// Every third entry is of a category that training does not have, if `unseen`.
fn webnlg(rows: usize, unseen: bool) -> String {
    let mut text = "<benchmark>\n<entries>\n".to_owned();
    for number in 0..rows {
        let category = if unseen && number % 3 == 0 { "Artist" } else { "Food" };
        let triple = format!("N{number} | food | {}", FOODS[number % 3]);
        let [good, other] = texts(number);
        text += &format!(
            "<entry category=\"{category}\" eid=\"Id{number}\" size=\"1\">\n\
             <originaltripleset><otriple>{triple}</otriple></originaltripleset>\n\
             <modifiedtripleset><mtriple>{triple}</mtriple></modifiedtripleset>\n\
             <lex comment=\"good\" lid=\"Id1\">{good}</lex>\n<lex comment=\"good\" lid=\"Id2\">{other}</lex>\n</entry>\n"
        );
    }
    text + "</entries>\n</benchmark>\n"
}

/// A directory with `model`, `data` and `meteor`.
pub(crate) struct Official {
    dir: tempfile::TempDir,
}

impl Official {
    pub(crate) fn new() -> Loaded<Self> {
        let official = Official {
            dir: tempfile::tempdir()?,
        };
        write_model(&official.path("model"), 128)?;
        let write = |name: &str, text: String| -> Loaded<()> {
            let path = official.path(name);
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            Ok(fs::write(path, text)?)
        };
        write("data/e2e/trainset.csv", e2e(12, false))?;
        write("data/e2e/devset.csv", e2e(4, false))?;
        write("data/e2e/testset_w_refs.csv", e2e(PROMPTS, true))?;
        for (split, rows) in [("train", 6), ("dev", 4), ("test", PROMPTS)] {
            write(&format!("data/dart/dart-v1.1.1-full-{split}.json"), dart(rows)?)?;
        }
        let challenge = "data/webnlg_challenge_2017";
        write(&format!("{challenge}/train/1triples/Food.xml"), webnlg(6, false))?;
        write(&format!("{challenge}/dev/1triples/Food.xml"), webnlg(4, false))?;
        write(
            &format!("{challenge}/test/testdata_with_lex.xml"),
            webnlg(PROMPTS, true),
        )?;
        // METEOR with two of its four stages.
        write("meteor/function/english.words", "is\nat\n".to_owned())?;
        write("meteor/nonbreaking/english.prefixes", "Mr\n".to_owned())?;
        Ok(official)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn words(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The paper's recipe made short: two ranks, two epochs of three steps, two beams.
    pub(crate) fn settings(&self, task: GenerationTask, method: Method) -> TrainSettings {
        TrainSettings {
            method,
            rank: 2,
            epochs: 2,
            batch_size: 4,
            lr: 2e-2,
            warmup_steps: Some(2),
            writing: Some(Writing {
                beams: 2,
                max_new_tokens: 12,
                ..Writing::paper()
            }),
            ..TrainSettings::paper_generation(task, &self.path("model"), &self.path("data"))
        }
    }
}
