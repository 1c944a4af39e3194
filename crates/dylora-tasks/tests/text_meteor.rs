//! METEOR by hand and, where `DYLORA_TEST_GOLDEN` names them, against the official jar's statistics of every segment.
#![allow(clippy::print_stdout)] // says what was not run

mod golden;

use std::fs;
use std::path::Path;

use dylora_tasks::metric::text::Corpus;
use dylora_tasks::metric::text::meteor::{Data, Meteor, Stage, StageCounts, Statistics};
use dylora_tasks::metric::text::tokenise::{Normaliser, lora, ptb};
use golden::{Golden, array, golden, near, string, strings};
use serde_json::Value;

/// A directory with lists of our own: what METEOR reads, in the layout of its archive.
fn lists() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("function/english.words", "the\na\n.\n"),
        ("nonbreaking/english.prefixes", "# titles\nMr\n"),
        ("synonym/english.exceptions", "child\nchildren\n"),
        ("synonym/english.synsets", "kid\n7\nchild\n7 8\n"),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    gzip(
        &dir.path().join("paraphrase-en.gz"),
        "0.5\na lot of\nmany\n0.5\nno such words\nmany\n",
    );
    dir
}

fn gzip(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    file.write_all(text.as_bytes()).unwrap();
    file.finish().unwrap();
}

fn statistics(data: &Data, stages: &[Stage], hypothesis: &str, references: &[&str]) -> Statistics {
    let corpus = Corpus::new(&[hypothesis], &[references.to_vec()], |text| {
        data.normaliser().words(text)
    })
    .unwrap();
    Meteor::new(&corpus, data, stages).unwrap().segments()[0]
}

#[test]
fn equal_texts_score_1_and_empty_ones_0() {
    let dir = lists();
    let data = Data::open(dir.path()).unwrap();
    let score = |hypothesis, reference| statistics(&data, &Stage::ALL, hypothesis, &[reference]).score();
    assert_eq!(score("The kid runs .", "the kid runs ."), 1.0);
    assert_eq!(score("", "the kid"), 0.0);
    assert_eq!(score("the kid", ""), 0.0);
    assert_eq!(score("", ""), 0.0);
    assert_eq!(score("x", "y"), 0.0);
}

#[test]
fn each_stage_adds_its_matches() {
    let dir = lists();
    let data = Data::open(dir.path()).unwrap();
    let (hypothesis, reference) = ("the children running see many", "the kid runs a lot of");
    let of = |stages: &[Stage]| statistics(&data, stages, hypothesis, &[reference]);
    let exact = of(&Stage::ALL[..1]);
    assert_eq!((exact.length, exact.reference_length), (5, 6));
    assert_eq!((exact.function, exact.reference_function), (1, 2));
    assert_eq!((exact.chunks, exact.matched, exact.reference_matched), (1, 1, 1));
    let all = of(&Stage::ALL);
    let one = StageCounts {
        content: 1,
        reference_content: 1,
        ..StageCounts::default()
    };
    let the = StageCounts {
        function: 1,
        reference_function: 1,
        ..StageCounts::default()
    };
    let many = StageCounts {
        content: 1,
        reference_content: 2,
        reference_function: 1,
        ..StageCounts::default()
    };
    assert_eq!(all.stages, [the, one, one, many]);
    // "see" stands between.
    assert_eq!((all.chunks, all.matched, all.reference_matched), (2, 4, 6));
    let precision = (0.25 + 0.6 * 0.75 + 0.8 * 0.75 + 0.6 * 0.75) / (0.75 * 4.0 + 0.25);
    let recall = (0.25 + 0.6 * 0.75 + 0.8 * 0.75 + 0.6 * (0.75 * 2.0 + 0.25)) / (0.75 * 4.0 + 0.25 * 2.0);
    let mean = 1.0 / (0.15 / precision + 0.85 / recall);
    let expected = mean * (1.0 - 0.6 * (2.0_f64 / 5.0).powf(0.2));
    assert!((all.score() - expected).abs() < 1e-15, "{} {expected}", all.score());
}

#[test]
fn the_best_reference_counts_and_chunks_of_whole_matches_do_not_add_up() {
    let dir = lists();
    let data = Data::open(dir.path()).unwrap();
    let whole = statistics(&data, &Stage::ALL, "a kid runs", &["nothing", "a kid runs"]);
    assert_eq!((whole.chunks, whole.reference_length), (1, 3));
    let mut sum = Statistics::default();
    sum.add(&whole);
    sum.add(&whole);
    assert_eq!((sum.chunks, sum.matched), (0, 6));
    assert_eq!(sum.score(), 1.0);
}

#[test]
fn missing_files_are_named_with_their_stages() {
    let dir = lists();
    fs::remove_file(dir.path().join("paraphrase-en.gz")).unwrap();
    fs::remove_file(dir.path().join("synonym/english.synsets")).unwrap();
    let data = Data::open(dir.path()).unwrap();
    assert_eq!(data.stages(), [Stage::Exact, Stage::Stem]);
    let missing: Vec<String> = data
        .missing()
        .iter()
        .map(|(stage, file)| format!("{stage} {}", file.rsplit('/').next().unwrap()))
        .collect();
    assert_eq!(missing, ["synonym english.synsets", "paraphrase paraphrase-en.gz"]);
    fs::remove_file(dir.path().join("function/english.words")).unwrap();
    let message = Data::open(dir.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("holds neither meteor-1.5.jar nor function/english.words, which METEOR cannot do without"),
        "{message}"
    );
    assert!(Data::open(&dir.path().join("absent")).is_err());
}

#[test]
fn a_cut_table_is_an_error() {
    let dir = lists();
    gzip(&dir.path().join("paraphrase-en.gz"), "0.5\na\nb\n0.5\na\n");
    let data = Data::open(dir.path()).unwrap();
    let corpus = Corpus::new(&["a"], &[vec!["b"]], |text| data.normaliser().words(text)).unwrap();
    let message = Meteor::new(&corpus, &data, &Stage::ALL).err().unwrap().to_string();
    assert!(
        message.ends_with("paraphrase-en.gz, line 6: the table ends within a pair"),
        "{message}"
    );
}

#[test]
fn more_words_than_fit_in_a_machine_word() {
    let dir = lists();
    let data = Data::open(dir.path()).unwrap();
    let text: Vec<String> = (0..200).map(|word| (word % 70).to_string()).collect();
    let (left, right) = (text[..150].join(" "), text[3..].join(" "));
    let long = statistics(&data, &Stage::ALL, &left, &[&right]);
    assert_eq!((long.length, long.reference_length), (150, 197));
    assert!(long.matched >= 147, "{long:?}");
}

/// METEOR's lists beside the part of its table that the golden texts need.
fn data_of(golden: &Golden) -> (tempfile::TempDir, Data) {
    let dir = tempfile::tempdir().unwrap();
    let source = golden.0.join("meteor_data");
    for (from, to) in [
        ("english.words", "english.words"),
        ("english.prefixes", "english.prefixes"),
        ("english.exceptions.gz", "english.exceptions.gz"),
        ("english.synsets.gz", "english.synsets.gz"),
        ("paraphrase-en.golden-subset.gz", "paraphrase-en.gz"),
    ] {
        fs::write(dir.path().join(to), fs::read(source.join(from)).unwrap()).unwrap();
    }
    let data = Data::open(dir.path()).unwrap();
    assert!(data.missing().is_empty());
    (dir, data)
}

/// The 23 numbers of the jar's statistics line.
fn line(statistics: &Statistics) -> Vec<u64> {
    let mut line = vec![
        statistics.length,
        statistics.reference_length,
        statistics.function,
        statistics.reference_function,
    ];
    for stage in &statistics.stages {
        line.extend([
            stage.content,
            stage.reference_content,
            stage.function,
            stage.reference_function,
        ]);
    }
    line.extend([statistics.chunks, statistics.matched, statistics.reference_matched]);
    line
}

fn compare(name: &str, data: &Data, corpus: &Corpus, values: &Value) {
    let sets = ["exact", "exact_stem", "exact_stem_synonym", "all"];
    for (number, set) in sets.into_iter().enumerate() {
        let meteor = Meteor::new(corpus, data, &Stage::ALL[..=number]).unwrap();
        let segments = meteor.segments();
        let rows = array(&values[format!("{set}_segment")]);
        assert_eq!(rows.len(), segments.len());
        for (index, (statistics, row)) in segments.iter().zip(rows).enumerate() {
            let row = array(row);
            let expected: Vec<u64> = row[row.len() - 23..]
                .iter()
                .map(|value| value.as_f64().unwrap() as u64)
                .collect();
            assert_eq!(line(statistics), expected, "{name}, {set}, segment {index}");
            near(&format!("{name}, {set}, segment {index}"), statistics.score(), &row[0]);
        }
        near(name, meteor.score(), &values[format!("{set}_corpus")]["Final score"]);
    }
}

#[test]
fn the_jars_statistics_of_every_segment() {
    let Some(golden) = golden("METEOR 1.5 on E2E, WebNLG and DART, four sets of stages") else {
        return;
    };
    let (_dir, data) = data_of(&golden);
    for name in [
        "e2e_tgen.ptb.every2",
        "webnlg_melbourne.lora.every3",
        "dart_bart-large.every5",
    ] {
        let values = golden.json(&format!("meteor/{name}.json"));
        let prepared = values["lora_preprocess"].as_bool().unwrap();
        let prepare = |text: &str| if prepared { lora(text) } else { text.to_owned() };
        let (hypotheses, references) = golden.inputs(&values, prepare);
        let references: Vec<Vec<String>> = references
            .into_iter()
            .map(|group| group.into_iter().flatten().collect())
            .collect();
        let corpus = Corpus::new(&hypotheses, &references, |text| data.normaliser().words(text)).unwrap();
        compare(name, &data, &corpus, &values);
    }
    let (_, (hypotheses, references)) = golden.edge_cases();
    let values = golden.json("edge/meteor.json");
    let corpus = Corpus::new(&hypotheses, &references, |text| data.normaliser().words(text)).unwrap();
    compare("edge cases", &data, &corpus, &values);
}

#[test]
fn meteor_of_the_e2e_systems() {
    let Some(golden) = golden("METEOR of four E2E systems, as the challenge's script calls it") else {
        return;
    };
    let (_dir, data) = data_of(&golden);
    for name in ["example", "tgen", "slug", "sheff2", "tuda"] {
        let values = golden.json(&format!("e2e/{name}.json"));
        let (hypotheses, references) = golden.inputs(&values, |text| ptb(text).join(" "));
        let references: Vec<Vec<String>> = references
            .into_iter()
            .map(|group| group.into_iter().flatten().collect())
            .collect();
        let corpus = Corpus::new(&hypotheses, &references, |text| data.normaliser().words(text)).unwrap();
        let meteor = Meteor::new(&corpus, &data, &Stage::ALL).unwrap();
        near(name, meteor.score(), &values["corpus"]["METEOR"]);
        for (statistics, row) in meteor.segments().iter().zip(array(&values["segment"])) {
            near(name, statistics.score(), &row[3]);
        }
    }
}

#[test]
fn the_jars_normaliser_stems_and_synonyms() {
    let Some(golden) = golden("METEOR's normaliser, stems and synonyms") else {
        return;
    };
    let normaliser = Normaliser::new(&golden.text("meteor_data/english.prefixes"));
    for line in array(&golden.json("words/normaliser.json")["lines"]) {
        let line = strings(line);
        assert_eq!(normaliser.normalise(&line[0]), line[1], "{:?}", line[0]);
    }
    let (_dir, data) = data_of(&golden);
    let match_of = |left: &str, right: &str, stage: Stage| {
        let corpus = Corpus::new(&[left], &[vec![right]], |text| data.normaliser().words(text)).unwrap();
        Meteor::new(&corpus, &data, &[stage]).unwrap().segments()[0].matched > 0
    };
    for pair in array(&golden.json("words/synonyms.json")["pairs"]) {
        let (left, right) = (string(&pair[0]), string(&pair[1]));
        assert_eq!(
            match_of(&left, &right, Stage::Synonym),
            pair[2].as_bool().unwrap(),
            "{left} {right}"
        );
    }
    let file = golden.json("words/stems.json");
    let stemmer = rust_stemmers::Stemmer::create(rust_stemmers::Algorithm::English);
    let mut wrong = Vec::new();
    for (word, stem) in file["stems"].as_object().unwrap() {
        if stemmer.stem(word) != stem.as_str().unwrap() {
            wrong.push(format!("{word} {} {stem}", stemmer.stem(word)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
