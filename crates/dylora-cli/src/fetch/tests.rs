//! Every task from parquet to the rows that its loader reads, and directories that were given.

use std::fs;
use std::path::Path;

use dylora_tasks::glue::{self, GlueTask, TASKS};
use dylora_tasks::task::{Head, Label, Split};

use super::loopback::parquet_file;
use super::sources::{Part, Source};
use super::{Event, Place, ROBERTA_BASE, convert, glue_at, model_at};

use parquet_file::Column;

/// What GLUE's fields hold, and worse.
const TEXTS: [&str; 10] = [
    "plain",
    "\"an opening quote",
    "both \"quotes\" and 'these'",
    "",
    "  blanks at its ends  ",
    "back\\slash, \\t and \\n",
    "a return\rinside",
    "naïve 数字 \u{1f600} \u{2028} \u{a0}",
    "\u{feff}with a mark",
    "#1 String",
];

/// A row of a split, as the data set has it.
struct Row {
    text_a: String,
    text_b: String,
    label: Label,
}

fn rows(task: &GlueTask) -> Vec<Row> {
    let row = |at: usize| Row {
        text_a: TEXTS[at % TEXTS.len()].to_owned(),
        text_b: TEXTS[(at + 3) % TEXTS.len()].to_owned(),
        label: match task.head() {
            Head::Classify(classes) => Label::Class(at % classes),
            Head::Regress => Label::Score([0.0, 3.8, 2.333, 5.0][at % 4]),
        },
    };
    (0..12).map(row).collect()
}

/// Writes a part's parquet file.
fn write(path: &Path, source: &Source, rows: &[Row], test: bool) {
    let mut columns = vec![(
        source.text_a,
        Column::Text(rows.iter().map(|row| row.text_a.clone()).collect()),
    )];
    if let Some(name) = source.text_b {
        columns.push((name, Column::Text(rows.iter().map(|row| row.text_b.clone()).collect())));
    }
    let class = |row: &Row| match row.label {
        Label::Class(class) if !test => class as i64,
        _ => -1,
    };
    let score = |row: &Row| match row.label {
        Label::Score(score) if !test => score as f32,
        _ => -1.0,
    };
    let label = if source.config == "stsb" {
        Column::Score(rows.iter().map(score).collect())
    } else {
        Column::Class(rows.iter().map(class).collect())
    };
    columns.push(("label", label));
    columns.push(("idx", Column::Class((0..rows.len() as i64).collect())));
    parquet_file::write(path, &columns);
}

/// The source of a task with so many rows in every part.
fn small(task: &GlueTask, rows: usize) -> Source {
    let source = Source::of(task).unwrap();
    let parts: Vec<_> = source.parts.iter().map(|part| Part { rows, ..part.clone() }).collect();
    Source {
        parts: parts.leak(),
        ..source.clone()
    }
}

/// Converts a task whose parts all hold these rows; gives what was blanked.
fn convert_rows(task: &GlueTask, rows: &[Row], dir: &Path) -> super::Result<Vec<(String, usize)>> {
    let source = small(task, rows.len());
    for part in source.parts {
        let path = dir.join("snapshot").join(source.file(part));
        write(&path, &source, rows, part.split == Split::Test);
    }
    let mut blanked = Vec::new();
    let mut report = |event: Event<'_>| {
        if let Event::Blanked { file, texts } = event {
            blanked.push((file.to_owned(), texts));
        }
    };
    convert::convert(task, &source, &dir.join("snapshot"), &dir.join("glue"), &mut report)?;
    Ok(blanked)
}

#[test]
fn every_task_loads_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for task in TASKS {
        let rows = rows(task);
        assert_eq!(convert_rows(task, &rows, dir.path()).unwrap(), [], "{}", task.name);
        for &(split, _) in task.files {
            let loaded = task.load(&dir.path().join("glue"), split).unwrap();
            assert_eq!(loaded.len(), rows.len(), "{} {split}", task.name);
            for (loaded, row) in loaded.iter().zip(&rows) {
                assert_eq!(loaded.text_a, row.text_a, "{} {split}", task.name);
                let text_b = task.text_b.map(|_| row.text_b.as_str());
                assert_eq!(loaded.text_b.as_deref(), text_b, "{} {split}", task.name);
                let label = if split == Split::Test { Label::None } else { row.label };
                assert_eq!(loaded.label, label, "{} {split}", task.name);
            }
        }
    }
    assert!(dir.path().join("glue/MNLI/test_mismatched.tsv").is_file());
}

#[test]
fn columns_have_the_official_names() {
    let dir = tempfile::tempdir().unwrap();
    for (task, file, first) in [
        ("cola", "CoLA/train.tsv", "0\t0\t*\tplain"),
        ("cola", "CoLA/test.tsv", "index\tsentence"),
        ("mrpc", "MRPC/dev.tsv", "index\t#1 String\t#2 String\tQuality"),
        ("mnli", "MNLI/train.tsv", "index\tsentence1\tsentence2\tgold_label"),
        ("qnli", "QNLI/test.tsv", "index\tquestion\tsentence"),
    ] {
        let task = glue::find(task).unwrap();
        convert_rows(task, &rows(task), dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join("glue").join(file)).unwrap();
        assert_eq!(text.split('\n').next(), Some(first), "{file}");
    }
}

#[test]
fn tabs_and_line_breaks_become_blanks_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let task = glue::find("mrpc").unwrap();
    let row = |text_a: &str, text_b: &str| Row {
        text_a: text_a.to_owned(),
        text_b: text_b.to_owned(),
        label: Label::Class(1),
    };
    let rows = [row("a\tb\nc\r\n", "d\r"), row("e", "f")];
    let blanked = convert_rows(task, &rows, dir.path()).unwrap();
    // A return at the end of a line is lost only in the test split, where the text is the last column.
    let expected = [("MRPC/train.tsv", 1), ("MRPC/dev.tsv", 1), ("MRPC/test.tsv", 2)];
    assert_eq!(blanked, expected.map(|(file, texts)| (file.to_owned(), texts)));
    let train = task.load(&dir.path().join("glue"), Split::Train).unwrap();
    assert_eq!(
        (train[0].text_a.as_str(), train[0].text_b.as_deref()),
        ("a b c\r ", Some("d\r"))
    );
    let test = task.load(&dir.path().join("glue"), Split::Test).unwrap();
    assert_eq!(test[0].text_b.as_deref(), Some("d "));
}

#[test]
fn every_task_has_a_source() {
    for task in TASKS {
        let source = Source::of(task).unwrap();
        for (split, file) in task.files {
            let part = source.parts.iter().find(|part| part.file == *file).unwrap();
            assert_eq!(part.split, *split);
        }
    }
}

#[test]
fn odd_files_are_named_with_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let task = glue::find("rte").unwrap();
    let sentence = |rows: &[Row]| convert_rows(task, rows, dir.path()).unwrap_err().to_string();
    let mut odd = rows(task);
    odd[7].label = Label::Class(2);
    let message = sentence(&odd);
    assert!(message.contains("rte/train-00000-of-00001.parquet"), "{message}");
    assert!(
        message.contains("row 7 has the label 2, which rte does not have"),
        "{message}"
    );

    let source = small(task, 12);
    let convert = |snapshot: &Path| {
        convert::convert(task, &source, snapshot, &dir.path().join("glue"), &mut |_| ())
            .unwrap_err()
            .to_string()
    };
    let path = dir.path().join("snapshot").join(source.file(&source.parts[0]));
    parquet_file::write(&path, &[("sentence1", Column::Text(vec!["a".to_owned()]))]);
    let message = convert(&dir.path().join("snapshot"));
    assert!(message.contains("no column sentence2"), "{message}");
    fs::write(&path, "not parquet").unwrap();
    let message = convert(&dir.path().join("snapshot"));
    assert!(message.contains("no readable parquet file"), "{message}");
    // Nothing half done stays.
    assert_eq!(fs::read_dir(dir.path().join("glue")).unwrap().count(), 0);
}

fn nowhere(dir: &Path) -> Place {
    Place {
        hub_cache: dir.join("hub"),
        own_cache: dir.join("own"),
        endpoint: "http://127.0.0.1:9".to_owned(),
        mirror: None,
        token: None,
        offline: true,
    }
}

#[test]
fn a_given_model_is_taken_or_what_it_lacks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let place = nowhere(dir.path());
    let given = dir.path().join("given");
    let model = || model_at(&place, ROBERTA_BASE, Some(&given), &mut |_| ()).map_err(|error| error.to_string());
    assert!(model().unwrap_err().contains("--model is no directory"));
    fs::create_dir(&given).unwrap();
    fs::write(given.join("config.json"), "{}").unwrap();
    let message = model().unwrap_err();
    assert!(
        message.contains("--model lacks model.safetensors, tokenizer.json"),
        "{message}"
    );
    for file in ["model.safetensors", "vocab.json", "merges.txt"] {
        fs::write(given.join(file), "").unwrap();
    }
    assert_eq!(model(), Ok(given.clone()));
}

#[test]
fn given_data_is_taken_or_what_it_lacks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let place = nowhere(dir.path());
    let tasks = [glue::find("mnli").unwrap(), glue::find("cola").unwrap()];
    let given = dir.path();
    let data = || glue_at(&place, Some(given), &tasks, &mut |_| ()).map_err(|error| error.to_string());
    fs::create_dir(given.join("CoLA")).unwrap();
    fs::write(given.join("CoLA/train.tsv"), "").unwrap();
    let message = data().unwrap_err();
    let lacks = "MNLI/train.tsv, MNLI/dev_matched.tsv, MNLI/dev_mismatched.tsv, CoLA/dev.tsv";
    assert!(message.ends_with(&format!("--data lacks {lacks}")), "{message}");
    fs::create_dir(given.join("MNLI")).unwrap();
    for file in lacks.split(", ") {
        fs::write(given.join(file), "").unwrap();
    }
    // Test splits are not needed.
    assert_eq!(data(), Ok(given.to_owned()));
}
