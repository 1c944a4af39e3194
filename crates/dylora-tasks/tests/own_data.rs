//! A user's own csv, tsv and jsonl files, the label count of a check, and packing.

mod common;

use dylora_tasks::check::{self, CheckReport};
use dylora_tasks::glue;
use dylora_tasks::metric::Metric;
use dylora_tasks::pack::{PackedBatch, pack};
use dylora_tasks::tabular::{self, Columns};
use dylora_tasks::task::{Example, Head, Label, Split};
use dylora_tasks::tokens::Encoded;

use common::{file, sentence};

fn own(name: &str, bytes: impl AsRef<[u8]>, columns: &Columns) -> dylora_tasks::Result<Vec<Example>> {
    let (_dir, path) = file(name, bytes);
    tabular::load_train(&path, columns).map(|(_, rows)| rows)
}

#[test]
fn own_files_of_three_kinds_load_alike() {
    let columns = Columns::parse("a, b", Some("y"), false).unwrap();
    let csv = own(
        "train.csv",
        "y,b,a\npos,\"x, \"\"z\"\"\",1\nneg,\"two\nlines\",2\n",
        &columns,
    )
    .unwrap();
    assert_eq!(
        csv[0],
        Example {
            guid: "train-0".into(),
            text_a: "1".into(),
            text_b: Some("x, \"z\"".into()),
            label: Label::Class(1)
        }
    );
    assert_eq!(
        (csv[1].text_b.as_deref(), csv[1].label),
        (Some("two\nlines"), Label::Class(0))
    );
    let jsonl =
        "{\"a\":\"1\",\"b\":\"x, \\\"z\\\"\",\"y\":\"pos\"}\n\n{\"a\":\"2\",\"b\":\"two\\nlines\",\"y\":\"neg\"}\n";
    assert_eq!(own("train.jsonl", jsonl, &columns).unwrap(), csv);
    let tsv = own("train.TSV", "a\tb\ty\n1\tx, \"z\"\tpos\n2\t\"two\tneg\n", &columns).unwrap();
    assert_eq!((&tsv[0], tsv[1].text_b.as_deref()), (&csv[0], Some("\"two")));
}

#[test]
fn own_classes_are_those_of_the_train_file_in_order() {
    let columns = Columns::parse("a", Some("y"), false).unwrap();
    let (_keep, train) = file("train.csv", "a,y\nr,b\nr,a\nr,c\nr,b\n");
    let (_keep_too, dev) = file("dev.csv", "a,y\n\"two\n lines\",c\nr,d\n");
    let (task, rows) = tabular::load_train(&train, &columns).unwrap();
    assert_eq!(
        (task.head, task.labels.concat().as_str(), rows[3].label),
        (Head::Classify(3), "abc", Label::Class(1))
    );
    assert_eq!(task.metrics, [Metric::Accuracy, Metric::Matthews]);
    // The row with the unknown label begins on line 4, because the one above it takes up two.
    assert_eq!(
        sentence(tabular::load(&train, &dev, &columns)),
        "dev.csv, line 4, column \"y\": label \"d\" is not one of a, b, c"
    );
    let unlabelled = Columns::parse("a", None, false).unwrap();
    let rows = tabular::load_file(&dev, &unlabelled, &task, Split::Test).unwrap();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.label == Label::None));

    let numbers: String = (0..12).rev().map(|label| format!("r,{label}\n")).collect();
    let rows = own("train.csv", format!("a,y\n{numbers}"), &columns).unwrap();
    assert_eq!(rows[0].label, Label::Class(11), "whole numbers are sorted as numbers");
}

#[test]
fn own_scores_need_only_be_numbers() {
    let columns = Columns::parse("a", Some("y"), true).unwrap();
    let rows = own(
        "train.jsonl",
        "{\"a\":\"t\",\"y\":-1.5}\n{\"a\":\"t\",\"y\":\"1e3\"}",
        &columns,
    )
    .unwrap();
    assert_eq!(
        rows.iter().map(|row| row.label).collect::<Vec<_>>(),
        [Label::Score(-1.5), Label::Score(1000.0)]
    );
    assert!(sentence(own("train.csv", "a,y\nt,1\nt,nan\n", &columns)).contains("line 3, column \"y\": label \"nan\""));
}

#[test]
fn own_files_that_are_wrong_say_where() {
    let columns = Columns::parse("a", Some("y"), false).unwrap();
    for (name, text, expected) in [
        (
            "train.csv",
            "a,z\n1,2\n",
            "train.csv, line 1: no column \"y\"; the columns are \"a\", \"z\"",
        ),
        (
            "train.csv",
            "a,y\r\n\r\n1,2\r\n1\r\n",
            "train.csv, line 4: the row has 1 of 2 fields",
        ),
        (
            "train.csv",
            "a,y\nt,p\nt,q\n\"open,q\nt,p\n",
            "train.csv, line 4: the row has 1 of 2 fields",
        ),
        (
            "train.csv",
            "a,y\nt,p\nt,\"q\nt,p\nt,q\n",
            "train.csv, line 3: a quoted field begins here and never ends",
        ),
        ("train.csv", "", "train.csv is empty"),
        ("train.csv", "a,y\n", "train.csv has a header row but no data rows"),
        (
            "train.csv",
            "a,y\nt,p\n",
            "train.csv: every row has the label \"p\"; two classes are needed",
        ),
        ("train.tsv", "a\ty\nt\n", "train.tsv, line 2: the row has 1 of 2 fields"),
        ("train.tsv", "a\ty\n", "train.tsv has a header row but no data rows"),
        (
            "train.jsonl",
            "{\"a\":\"t\",\"y\":1}\n{\"a\":\"t\"}\n",
            "train.jsonl, line 2: no column \"y\"; the columns are \"a\"",
        ),
        (
            "train.jsonl",
            "{\"a\":3,\"y\":1}\n",
            "train.jsonl, line 1: \"a\" is 3, not a string",
        ),
        ("train.jsonl", "\n\n", "train.jsonl is empty"),
        (
            "train.txt",
            "a",
            "train.txt: the name does not end in .csv, .tsv, .jsonl or .parquet",
        ),
    ] {
        assert_eq!(sentence(own(name, text, &columns)), expected, "{text:?}");
    }
    assert!(
        sentence(own("train.jsonl", "{\"a\":\"t\",\"y\":1}\n{\"a\":", &columns))
            .starts_with("train.jsonl, line 2: not a JSON")
    );
    assert!(Columns::parse("a,b,c", Some("y"), false).is_err());
    assert!(Columns::parse("a,", Some("y"), false).is_err());
    assert!(Columns::parse("a,a", Some("y"), false).is_err());
}

#[test]
fn a_check_counts_labels_in_class_order() {
    let (_dir, path) = file("dev.tsv", "sentence\tlabel\nb \t1\na \t1\n");
    let report = check::glue(glue::find("sst-2").unwrap(), &path, Split::Dev).unwrap();
    assert_eq!(
        serde_json::to_string(&report).unwrap(),
        r#"{"task":"sst-2","rows":2,"labels":{"0":0,"1":2}}"#
    );
    let (_dir, path) = file("own.csv", "t,y\na,0.5\nb,-0.5\nc,0.0\n");
    let report = check::own(&path, &Columns::parse("t", Some("y"), true).unwrap()).unwrap();
    let labels = vec![("-1".to_owned(), 1), ("0".to_owned(), 2)];
    assert_eq!(
        report,
        CheckReport {
            task: "csv".into(),
            rows: 3,
            labels
        }
    );
}

#[test]
fn packing_lays_rows_end_to_end_and_drops_none() {
    let example = |ids: &[u32]| Encoded {
        ids: ids.to_vec(),
        token_types: vec![0; ids.len()],
    };
    let examples = [
        example(&[10, 11, 12]),
        example(&[20]),
        example(&[30, 31, 32, 33, 34, 35]),
        example(&[40, 41]),
    ];
    let labels = [Label::Class(0), Label::Class(1), Label::Score(2.5), Label::None];
    let batches = pack(&examples, &labels, &[3, 1, 2, 0], 2, 5).unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.rows.clone()).collect::<Vec<_>>(),
        [vec![3, 1], vec![2], vec![0]]
    );
    assert_eq!(
        batches[0],
        PackedBatch {
            ids: vec![40, 41, 20],
            positions: vec![2, 3, 2],
            token_types: vec![0, 0, 0],
            lengths: vec![2, 1],
            rows: vec![3, 1],
            labels: vec![Label::None, Label::Class(1)],
        }
    );
    assert_eq!(batches[0].first_rows(), [0, 2]);
    assert_eq!(
        pack(&examples, &labels, &[0, 1, 2, 3], 0, 0).unwrap().len(),
        4,
        "a budget of nothing still keeps every row"
    );
    assert_eq!(
        pack(&examples, &labels, &[0, 3], 0, 5).unwrap().len(),
        1,
        "the budget may be filled to the last token"
    );
    assert!(pack(&examples, &labels, &[], 0, 5).unwrap().is_empty());
    assert!(pack(&[], &[], &[], 0, 5).unwrap().is_empty());
    assert!(pack(&examples, &labels, &[4], 0, 5).is_err());
    assert!(pack(&examples, &labels[1..], &[0], 0, 5).is_err());
    assert!(pack(&[example(&[])], &labels[..1], &[0], 0, 5).is_err());
    assert!(pack(&[example(&[u32::MAX])], &labels[..1], &[0], 0, 5).is_err());
}
