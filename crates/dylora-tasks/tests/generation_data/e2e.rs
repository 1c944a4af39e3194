//! E2E: the csv, the text form, and what is wrong with bad ones.

use dylora_tasks::generation::{Corpus, GenerationTask, Meaning, e2e};
use dylora_tasks::task::Split;

use crate::common::{file, sentence};
use crate::{golden_json, real_data, strings};

fn load(name: &str, bytes: impl AsRef<[u8]>) -> dylora_tasks::Result<Corpus> {
    let (_dir, path) = file(name, bytes);
    GenerationTask::E2e.load_file(&path, Split::Test)
}

const CSV: &str = "mr,ref\n";

#[test]
fn rows_of_the_csv() {
    let corpus = load(
        "a.csv",
        format!("{CSV}\"name[The Mill], priceRange[£20-25]\",\"A \"\"fine\"\" place, it's £20-25.\"\n\"name[Aromi]\",One \nname[The Mill],Two\n"),
    )
    .unwrap();
    let Meaning::Attributes(attributes) = &corpus.entries[0].meaning else {
        panic!("triples");
    };
    assert_eq!(
        *attributes,
        [
            ("name".to_owned(), "The Mill".to_owned()),
            ("priceRange".to_owned(), "£20-25".to_owned())
        ]
    );
    let pairs = corpus.pairs();
    assert_eq!(pairs[0].context, "name : The Mill | price : £ 20 - 25");
    assert_eq!(pairs[0].target, "A \" fine \" place , it 's £ 20 - 25 .");
    assert_eq!(
        corpus.entries[1].references[0].text, "One ",
        "kept character for character"
    );
    assert_eq!(pairs[2].context, "name : The Mill");
    assert_eq!(corpus.entries[2].id, "test-2");
}

#[test]
fn groups_keep_the_order_of_the_file() {
    let corpus = load("a.csv", format!("{CSV}name[B],1\nname[A],2\nname[B],3\n")).unwrap();
    let groups = corpus.groups();
    let seen: Vec<_> = groups
        .iter()
        .map(|group| (group.context.as_str(), group.references.clone()))
        .collect();
    assert_eq!(seen, [("name : B", vec!["1", "3"]), ("name : A", vec!["2"])]);
}

#[test]
fn text_form_reads_as_the_csv_does() {
    let text = load(
        "a.txt",
        "name : Aromi | Type : pub | family friendly : no||It isn 't . \n",
    )
    .unwrap();
    let csv = load(
        "a.csv",
        format!("{CSV}\"name[Aromi], eatType[pub], familyFriendly[no]\",It isn't.\n"),
    )
    .unwrap();
    assert_eq!(text.pairs(), csv.pairs());
    assert_eq!(text.entries[0].meaning, csv.entries[0].meaning);
    assert_eq!(text.entries[0].references[0].text, "It isn 't .");
}

#[test]
fn test_set_without_references() {
    let corpus = load("testset.csv", "MR\n\"name[Aromi], eatType[pub]\"\nname[B]\n").unwrap();
    assert!(corpus.pairs().is_empty());
    assert_eq!(corpus.groups().len(), 2);
    let (_dir, path) = file("train.csv", "MR\nname[Aromi]\n");
    assert_eq!(
        sentence(GenerationTask::E2e.load_file(&path, Split::Train)),
        "train.csv, line 1: no column \"mr\"; the columns are \"MR\""
    );
}

#[test]
fn takes_any_line_ends() {
    let text = "name : A||One .\nname : B||Two .\nname : C||Three .\n";
    let expected = load("a.txt", text).unwrap().entries;
    assert_eq!(load("a.txt", text.replace('\n', "\r\n")).unwrap().entries, expected);
    assert_eq!(load("a.txt", text.replacen('\n', "\r\n", 1)).unwrap().entries, expected);
    assert_eq!(
        load("a.txt", format!("\u{feff}{}", text.trim_end())).unwrap().entries,
        expected
    );
    let csv = format!("{CSV}name[A],One .\nname[B],Two .\nname[C],Three .\n");
    assert_eq!(load("a.csv", &csv).unwrap().entries, expected);
    assert_eq!(load("a.csv", csv.replacen('\n', "\r\n", 2)).unwrap().entries, expected);
    assert_eq!(load("a.csv", csv.replacen('\n', "\r", 2)).unwrap().entries, expected);
    assert_eq!(
        sentence(load("a.txt", text.replacen('\n', "\r", 1))),
        "a.txt, line 1: a carriage return stands inside the line"
    );
}

#[test]
fn bad_rows_are_named() {
    let once = "|| stands between meaning representation and reference exactly once, here it stands";
    for (rows, expected) in [
        ("name : A||Fine .\nname : A | Fine .\n", format!("line 2: {once} 0 times")),
        ("name : A||Fine .||More .\n", format!("line 1: {once} 2 times")),
        ("name : A||Fine .\n\nname : A||Fine .\n", format!("line 2: {once} 0 times")),
        ("name : A|| \n", "line 1: the reference is empty".to_owned()),
        ("name A||B\n", "line 1: no \" : \" parts name and value in \"name A\"".to_owned()),
        (
            "name : A | eatType : pub||B\n",
            "line 1: unknown attribute \"eatType\"; the attributes are name, Type, food, price, customer rating, area, \
             family friendly, near"
                .to_owned(),
        ),
    ] {
        assert_eq!(sentence(load("a.txt", rows)), format!("a.txt, {expected}"));
    }
    for (row, expected) in [
        ("name[A],\n", "line 2: the reference is empty"),
        ("name[A,B\n", "line 2: no ] ends the value of \"name\""),
        ("name A,B\n", "line 2: no [ follows the attribute in \"name A\""),
        ("name[A] food[B],B\n", "line 2: no comma follows the value of \"name\""),
        ("name[],B\n", "line 2: the value of \"name\" is empty"),
        (
            "\"name[A], name[B]\",B\n",
            "line 2: \"name\" stands there more than once",
        ),
        ("name[A],B\nname[A],\"B\n\",C\n", "line 3: the row has 3 of 2 fields"),
        (
            "name[A],\"B\nname[A],B\n",
            "line 2: a quoted field begins here and never ends",
        ),
        (
            "colour[A],B\n",
            "line 2: unknown attribute \"colour\"; the attributes are name, eatType, food, priceRange, customer rating, \
             area, familyFriendly, near",
        ),
    ] {
        assert_eq!(
            sentence(load("a.csv", format!("{CSV}{row}"))),
            format!("a.csv, {expected}")
        );
    }
    assert_eq!(sentence(load("a.csv", CSV)), "a.csv has a header row but no data rows");
    assert_eq!(sentence(load("a.txt", "")), "a.txt is empty");
    assert_eq!(
        sentence(load("a.txt", b"name : A||B\n\xff")),
        "a.txt, line 2: not valid UTF-8"
    );
    let dir = tempfile::tempdir().unwrap();
    let missing = GenerationTask::E2e
        .load(dir.path(), Split::Dev)
        .unwrap_err()
        .to_string();
    assert!(
        missing.ends_with("no dev split of e2e here; looked for e2e/devset.csv, e2e/valid.txt, devset.csv, valid.txt, e2e-dataset/devset.csv, e2e-dataset/valid.txt, e2e_lora/devset.csv, e2e_lora/valid.txt"),
        "{missing}"
    );
}

/// Rows and meaning representations as published; and both forms of the dev set, which were made by different people, give
/// the same prompts and targets on all 4672 rows.
#[test]
fn real_files() {
    let Some(data) = real_data("the real E2E files") else {
        return;
    };
    for (split, rows, meanings) in [
        (Split::Train, 42061, 4862),
        (Split::Dev, 4672, 547),
        (Split::Test, 4693, 630),
    ] {
        let corpus = GenerationTask::E2e.load(&data, split).unwrap();
        assert_eq!(
            (corpus.pairs().len(), corpus.groups().len()),
            (rows, meanings),
            "{split}"
        );
    }
    let csv = GenerationTask::E2e.load(&data, Split::Dev).unwrap();
    let text = GenerationTask::E2e.load(&data.join("e2e_lora"), Split::Dev).unwrap();
    assert!(text.files[0].ends_with("valid.txt"), "{:?}", text.files);
    let raw = std::fs::read_to_string(&text.files[0]).unwrap();
    let (csv, text) = (csv.pairs(), text.pairs());
    for (row, line) in raw.lines().enumerate() {
        let (context, reference) = line.split_once("||").unwrap();
        assert_eq!(
            (csv[row].context.as_str(), &*csv[row].target),
            (context, reference.trim_end()),
            "row {row}"
        );
        assert_eq!(text[row], csv[row]);
    }
    assert_eq!(csv.len(), 4672);
    let blind = GenerationTask::E2e
        .load_file(&data.join("e2e/testset.csv"), Split::Test)
        .unwrap();
    let test = GenerationTask::E2e.load(&data, Split::Test).unwrap();
    let contexts = |corpus: &Corpus| {
        corpus
            .groups()
            .into_iter()
            .map(|group| group.context)
            .collect::<Vec<_>>()
    };
    assert_eq!(contexts(&blind), contexts(&test));
    if let Some(golden) = golden_json("e2e_test.refs.json", "E2E's groups of references") {
        let groups = test.groups();
        assert_eq!(groups.len(), golden.len());
        for (group, references) in groups.iter().zip(&golden) {
            assert_eq!(group.references, strings(references));
        }
    }
}

#[test]
fn tokenised_text() {
    for (text, tokens) in [
        ("A 5-star pub.", "A 5 - star pub ."),
        ("£20- £30.99, isn't it?!", "£ 20- £ 30.99 , isn 't it ? !"),
        ("'The Mill' -- O'Neil's...", "' The Mill ' -- O'Neil 's ..."),
        (
            "rated 5 out of 5. in all; 5 of 5. It",
            "rated 5 out of 5. in all ; 5 of 5 . It",
        ),
        ("food .price (low)\r\n  x_y", "food .price ( low ) x_y"),
        ("5.", "5 ."),
        ("", ""),
        (".", "."),
    ] {
        assert_eq!(e2e::tokenise(text), tokens);
        assert_eq!(e2e::tokenise(tokens), tokens, "already tokenised");
    }
}
