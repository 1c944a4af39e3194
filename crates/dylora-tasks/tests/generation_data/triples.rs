//! WebNLG and DART: xml and json, categories, groups, and what is wrong with bad ones.

use std::fs;

use dylora_tasks::generation::{Corpus, Counts, Edition, GenerationTask, Meaning, inspect, webnlg};
use dylora_tasks::task::Split;

use crate::common::{file, sentence};
use crate::{golden_json, real_data, strings};

fn load(task: GenerationTask, name: &str, bytes: impl AsRef<[u8]>) -> dylora_tasks::Result<Corpus> {
    let (_dir, path) = file(name, bytes);
    task.load_file(&path, Split::Dev)
}

fn web(bytes: impl AsRef<[u8]>) -> dylora_tasks::Result<Corpus> {
    load(GenerationTask::WebNlg, "a.xml", bytes)
}

/// A benchmark with these lines as its entries; the first of them is line 3.
fn benchmark(entries: &str) -> String {
    format!("<benchmark>\n<entries>\n{entries}\n</entries>\n</benchmark>\n")
}

const ENTRY: &str = "<entry category=\"Food\" eid=\"Id1\" size=\"2\">
<originaltripleset><otriple>A_B | R | C</otriple></originaltripleset>
<originaltripleset><otriple>A_B | r | \"C\"@en</otriple></originaltripleset>
<modifiedtripleset>
<mtriple>A_B | leaderName | Dé &amp; Co</mtriple>
<mtriple>A_B | Is_in | \"X\"</mtriple>
</modifiedtripleset>
<lex comment=\"good\" lid=\"Id1\">One &lt;b&gt;. </lex>
<lex comment=\"toFix\" lid=\"Id2\">Two.</lex>
<lex comment=\"good\" lid=\"Id3\">Three.</lex>
</entry>";

#[test]
fn webnlg_xml() {
    let corpus = web(benchmark(ENTRY)).unwrap();
    let Meaning::Triples { triples, original } = &corpus.entries[0].meaning else {
        panic!("attributes");
    };
    assert_eq!((triples.len(), original.len()), (2, 2));
    assert_eq!(original[1][0].object, "\"C\"@en");
    let context = "A_B : leaderName : Dé & Co | A_B : Is_in : \"X\"";
    let pairs: Vec<_> = corpus
        .pairs()
        .into_iter()
        .map(|pair| (pair.context, pair.target.into_owned()))
        .collect();
    assert_eq!(
        pairs,
        [
            (context.to_owned(), "One <b>. ".to_owned()),
            (context.to_owned(), "Three.".to_owned())
        ]
    );
    assert_eq!(corpus.entries[0].references.len(), 3, "nothing is lost");
    assert_eq!(corpus.edition, Some(Edition::WebNlg2017));
    assert_eq!(corpus.counts(), Counts { meanings: 1, texts: 3 });
}

#[test]
fn webnlg_edition_of_2020_has_shapes_and_links() {
    let entry = ENTRY
        .replace(
            "<entry category=\"Food\"",
            "<entry category=\"Film\" shape=\"(X (X) (X))\" shape_type=\"sibling\"",
        )
        .replace(
            "</entry>",
            "<dbpedialinks><dbpedialink>a | sameAs | b</dbpedialink></dbpedialinks><links/></entry>",
        );
    let corpus = web(benchmark(&format!(
        "{entry}\n{}",
        entry.replace("Film", "Artist").replace("A_B", "C")
    )))
    .unwrap();
    assert_eq!(corpus.edition, Some(Edition::WebNlg2020));
    let categories = |seen| {
        corpus
            .groups_of(seen)
            .iter()
            .map(|group| group.category.unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!((categories(true), categories(false)), (vec!["Artist"], vec!["Film"]));
    assert_eq!(webnlg::is_seen(Edition::WebNlg2017, "Artist"), Some(false));
    assert_eq!(webnlg::is_seen(Edition::WebNlg2020, "Nothing"), None);
}

#[test]
fn webnlg_json_reads_as_the_xml_does() {
    let json = r#"{"entries": [{"1": {"category": "Food", "size": "2", "xml_id": "Id1", "shape": "NA", "dbpedialinks": [],
        "lexicalisations": [{"comment": "good", "lang": "", "lex": "One <b>. ", "xml_id": "Id1"},
            {"comment": "toFix", "lex": "Two."}, {"comment": "good", "lex": "Three."}],
        "modifiedtripleset": [{"object": "Dé & Co", "property": "leaderName", "subject": "A_B"},
            {"object": "\"X\"", "property": "Is_in", "subject": "A_B"}],
        "originaltriplesets": {"originaltripleset": [[{"object": "C", "property": "R", "subject": "A_B"}],
            [{"object": "\"C\"@en", "property": "r", "subject": "A_B"}]]}}}]}"#;
    let corpus = load(GenerationTask::WebNlg, "a.json", json).unwrap();
    let xml = web(benchmark(ENTRY)).unwrap();
    assert_eq!(corpus.entries[0].meaning, xml.entries[0].meaning);
    assert_eq!((corpus.pairs(), corpus.groups()), (xml.pairs(), xml.groups()));
    assert_eq!(corpus.edition, xml.edition);
    for (from, to, expected) in [
        (
            "Food",
            "Foot",
            "line 1: not the json of this task: unknown category \"Foot\"",
        ),
        (
            "Three.",
            " ",
            "line 3: not the json of this task: the reference is empty",
        ),
        (
            "leaderName",
            "",
            "line 4: not the json of this task: the part of a triple is empty",
        ),
        (
            "\"property\": \"Is_in\",",
            "",
            "line 5: not the json of this task: missing field `property`",
        ),
        ("}]}", "}]", "line 7: not the json of this task: EOF"),
    ] {
        let wrong = load(GenerationTask::WebNlg, "a.json", json.replace(from, to));
        let found = sentence(wrong);
        assert!(found.starts_with(&format!("a.json, {expected}")), "{found}");
    }
    assert_eq!(
        sentence(load(GenerationTask::WebNlg, "a.json", r#"{"entries": []}"#)),
        "a.json: no entry stands in the file"
    );
}

#[test]
fn webnlg_bad_xml_is_named() {
    let good = benchmark(ENTRY);
    for (from, to, expected) in [
        ("</mtriple>", "", "line 9: not well-formed xml: "),
        ("&amp;", "&", "line 7: not well-formed xml: "),
        ("</benchmark>", "", "line 15: not well-formed xml: "),
        (
            " | Is_in",
            "",
            "line 8: \"A_B | \\\"X\\\"\" is not subject | property | object",
        ),
        (
            "leaderName",
            " ",
            "line 7: \"A_B |   | Dé & Co\" is not subject | property | object",
        ),
        ("Three.", "", "line 12: the reference is empty"),
        (
            "Food",
            "Foot",
            "line 3: unknown category \"Foot\"; the categories are Airport, ",
        ),
        ("category=\"Food\" ", "", "line 3: the entry has no category"),
        (
            "Three.",
            "Three <b>!</b>",
            "line 12: <b> stands inside <lex>, which holds text only",
        ),
        (
            "<lex comment=\"good\" lid=\"Id3\">Three.</lex>",
            "<lexx/>",
            "line 12: <lexx> stands where <originaltripleset>",
        ),
        ("entries", "entry", "line 2: <entry> stands where <entries> is expected"),
        (
            "benchmark",
            "bench",
            "line 1: <bench> stands where <benchmark> is expected",
        ),
        (
            "modifiedtripleset",
            "originaltripleset",
            "line 7: <mtriple> stands where <otriple> is expected",
        ),
    ] {
        let found = sentence(web(good.replace(from, to)));
        assert!(found.starts_with(&format!("a.xml, {expected}")), "{found}");
    }
    // A download that broke off: in a text, and in a tag.
    for (from, line) in [("Two.", 11), ("comment=\"toFix\"", 11), ("<lex", 10)] {
        let (start, _) = good.split_once(from).unwrap();
        let found = sentence(web(start));
        let expected = format!(
            "a.xml, line {}: not well-formed xml: ",
            if start.ends_with('\n') { line - 1 } else { line }
        );
        assert!(found.starts_with(&expected), "{found}");
    }
    let without = |tag: &str| {
        let lines = good.lines().filter(|line| !line.starts_with(tag));
        sentence(web(lines.collect::<Vec<_>>().join("\n")))
    };
    assert_eq!(without("<lex"), "a.xml, line 3: the entry has no <lex>");
    assert_eq!(without("<mtriple"), "a.xml, line 3: the entry has no triples");
    assert_eq!(
        sentence(web(benchmark(""))),
        "a.xml, line 1: no entry stands in the file"
    );
    assert_eq!(sentence(web(b"<benchmark>\n\xff")), "a.xml, line 2: not valid UTF-8");
}

#[test]
fn webnlg_takes_any_line_ends() {
    let good = benchmark(ENTRY);
    let expected = web(&good).unwrap().entries;
    assert_eq!(web(good.replace('\n', "\r\n")).unwrap().entries, expected);
    assert_eq!(web(good.replacen('\n', "\r\n", 4)).unwrap().entries, expected);
    assert_eq!(
        web(format!("\u{feff}<?xml version='1.0'?>\r\n{good}")).unwrap().entries,
        expected
    );
}

#[test]
fn webnlg_reads_folders_in_order_and_leaves_other_tests_alone() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, benchmark(&ENTRY.replace("One", text))).unwrap();
    };
    put("train/2triples/Airport.xml", "third");
    put("train/1triples/Food.xml", "second");
    put("train/1triples/Airport.xml", "first");
    put("test/testdata_with_lex.xml", "test");
    put("test/testdata_unseen.xml", "other");
    fs::write(dir.path().join("train/notes.txt"), "none").unwrap();
    let texts = |split| {
        let corpus = GenerationTask::WebNlg.load(dir.path(), split).unwrap();
        let first =
            |entry: &dylora_tasks::generation::Entry| entry.references[0].text.split(' ').next().unwrap().to_owned();
        corpus.entries.iter().map(first).collect::<Vec<_>>()
    };
    assert_eq!(texts(Split::Train), ["first", "second", "third"]);
    assert_eq!(texts(Split::Test), ["test"]);
    let missing = GenerationTask::WebNlg
        .load(dir.path(), Split::Dev)
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("no dev split of webnlg here; looked for webnlg_challenge_2017/dev, "),
        "{missing}"
    );
    assert!(GenerationTask::WebNlg.load(dir.path(), Split::DevMismatched).is_err());
}

const DART: &str = r#"[
{"tripleset": [["Mars Hill", "JOINED", "1973"], ["[TABLECONTEXT]", "[TITLE]", "Teams"]],
 "subtree_was_extended": true,
 "annotations": [{"source": "e2e", "text": "One."}, {"source": "webnlg", "text": "Two. "}]},
{"tripleset": [["mars", "R", "x"]], "annotations": [{"source": "e2e", "text": "Three."}]},
{"tripleset": [["Mars Hill", "joined", "1973"], ["[TABLECONTEXT]", "[title]", "Teams"]],
 "annotations": [{"source": "e2e", "text": "Four."}]}
]"#;

#[test]
fn dart_json_groups_by_the_prompt() {
    let corpus = load(GenerationTask::Dart, "a.json", DART).unwrap();
    let groups = corpus.groups();
    let context = "Mars Hill : joined : 1973 | [TABLECONTEXT] : [title] : Teams";
    assert_eq!((groups[0].context.as_str(), groups.len()), (context, 2));
    assert_eq!(groups[0].references, ["One.", "Two. ", "Four."]);
    assert_eq!(corpus.entries[0].references[1].comment, "webnlg");
    assert_eq!(corpus.pairs().len(), 4);
    assert_eq!(corpus.pairs()[1].target, "Two. ");
    for (from, to, expected) in [
        (
            ", \"1973\"",
            "",
            "line 2: not the json of this task: [\"Mars Hill\", \"JOINED\"] is not a triple",
        ),
        (
            "JOINED",
            " ",
            "line 2: not the json of this task: a part of the triple [\"Mars Hill\", \" \", \"1973\"] is empty",
        ),
        (
            "\"text\": \"Four.\"",
            "\"txt\": \"Four.\"",
            "line 7: not the json of this task: missing field `text`",
        ),
        (
            "[{\"source\": \"e2e\", \"text\": \"Three.\"}]",
            "[]",
            "line 5: not the json of this task: an entry has no triples or no",
        ),
        ("\n]", "", "line 7: not the json of this task: EOF"),
    ] {
        let found = sentence(load(GenerationTask::Dart, "a.json", DART.replacen(from, to, 1)));
        assert!(found.starts_with(&format!("a.json, {expected}")), "{found}");
    }
}

#[test]
fn dart_xml_reads_as_the_json_does() {
    let xml = benchmark(
        "<entry category=\"MISC\" eid=\"Id1\" size=\"2\"><modifiedtripleset>
<mtriple>Mars Hill | JOINED | 1973</mtriple><mtriple>[TABLECONTEXT] | [TITLE] | Teams</mtriple></modifiedtripleset>
<lex comment=\"e2e\" lid=\"Id1\">One.</lex><lex comment=\"webnlg\" lid=\"Id2\">Two. </lex></entry>
<entry category=\"MISC\" eid=\"Id2\" size=\"1\"><modifiedtripleset><mtriple>mars | R | x</mtriple></modifiedtripleset>
<lex comment=\"e2e\">Three.</lex>\n<lex comment=\"e2e\" /></entry>",
    );
    let corpus = load(GenerationTask::Dart, "a.xml", xml).unwrap();
    let json = load(GenerationTask::Dart, "a.json", DART).unwrap();
    assert_eq!(corpus.pairs(), json.pairs()[..3]);
    assert_eq!(
        corpus.groups()[1].references,
        ["Three.", ""],
        "an empty text stays among the references"
    );
    assert_eq!(corpus.remarks.len(), 1);
    assert!(
        corpus.remarks[0].ends_with("a.xml, line 8: the reference is empty"),
        "{:?}",
        corpus.remarks
    );
    assert!(corpus.entries[0].category.is_none());
}

#[test]
fn a_split_beside_its_publication() {
    let corpus = load(GenerationTask::Dart, "a.json", DART).unwrap();
    assert_eq!(
        corpus.coverage().to_string(),
        "partial: 4 of 6980 texts, for 3 of 2768 inputs"
    );
    let (_dir, path) = file("train.json", DART.replace("joined", "left"));
    let train = GenerationTask::Dart.load_file(&path, Split::Train).unwrap();
    let report = inspect(&corpus, Some(&train));
    assert!(!report.whole);
    assert_eq!(
        report.unknown_relations.unwrap().into_iter().collect::<Vec<_>>(),
        ["joined"]
    );
    assert_eq!(
        report.comments.into_iter().collect::<Vec<_>>(),
        [("e2e".to_owned(), 3), ("webnlg".to_owned(), 1)]
    );
    let corpus = web(benchmark(ENTRY)).unwrap();
    let report = serde_json::to_value(inspect(&corpus, None)).unwrap();
    assert_eq!(
        report,
        serde_json::json!({"split": "dev", "files": 1, "meanings": 1, "texts": 3, "pairs": 2, "prompts": 1, "edition": "2017",
            "published": {"meanings": 872, "texts": 2268}, "whole": false,
            "categories": {"Food": {"meanings": 1, "texts": 3, "seen": true}}, "comments": {"good": 2, "toFix": 1}})
    );
}

/// Sizes as published; references, their groups and categories as the scripts of the LoRA paper and the challenge have them.
#[test]
fn webnlg_real_files() {
    let Some(data) = real_data("the real WebNLG files") else {
        return;
    };
    for (split, good) in [(Split::Train, 18025), (Split::Dev, 2258), (Split::Test, 4928)] {
        let corpus = GenerationTask::WebNlg.load(&data, split).unwrap();
        assert_eq!(corpus.coverage().to_string(), "whole", "{split}");
        assert_eq!(corpus.pairs().len(), good, "{split}");
        assert_eq!(corpus.edition, Some(Edition::WebNlg2017));
    }
    let test = GenerationTask::WebNlg.load(&data, Split::Test).unwrap();
    assert_eq!((test.groups_of(true).len(), test.groups_of(false).len()), (971, 891));
    let what = "WebNLG's references and categories";
    if let (Some(references), Some(categories)) = (
        golden_json("webnlg_test.refs.json", what),
        golden_json("webnlg_test.category.json", what),
    ) {
        let groups = test.groups();
        assert_eq!(groups.len(), references.len());
        for ((group, references), category) in groups.iter().zip(&references).zip(&categories) {
            assert_eq!(group.references, strings(references));
            assert_eq!(group.category, category.as_str());
        }
    }
}

#[test]
fn dart_real_files() {
    let Some(data) = real_data("the real DART files") else {
        return;
    };
    let dev = GenerationTask::Dart.load(&data, Split::Dev).unwrap();
    assert_eq!(
        (dev.coverage().to_string().as_str(), dev.pairs().len()),
        ("whole", 6980)
    );
    let test = GenerationTask::Dart.load(&data, Split::Test).unwrap();
    assert_eq!(test.coverage().to_string(), "whole");
    assert_eq!(test.pairs().len(), 12551, "one text of the published file is empty");
    assert!(
        test.remarks[0].ends_with("dart-v1.1.1-full-test.xml, line 888: the reference is empty"),
        "{:?}",
        test.remarks
    );
    let groups = test.groups();
    let sizes = groups.iter().map(|group| group.references.len());
    assert_eq!(
        (
            groups.len(),
            sizes.clone().min(),
            sizes.clone().max(),
            sizes.sum::<usize>()
        ),
        (4159, Some(1), Some(35), 12552)
    );
    if let Some(golden) = golden_json("dart_test.lora_grouped.every4.refs.json", "DART's groups of references") {
        let every4: Vec<_> = groups.iter().step_by(4).collect();
        assert_eq!(every4.len(), golden.len());
        for (group, references) in every4.iter().zip(&golden) {
            assert_eq!(group.references, strings(references));
        }
    }
}
