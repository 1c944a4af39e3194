//! TER and whole chains by hand and, where `DYLORA_TEST_GOLDEN` names them, against the official scorers.
#![allow(clippy::print_stdout)] // says what was not run

mod golden;

use std::fs;

use dylora_tasks::metric::text::chain::Chain;
use dylora_tasks::metric::text::meteor::Data;
use dylora_tasks::metric::text::tokenise::{lora, python_words, treebank};
use dylora_tasks::metric::text::{Corpus, ter};
use golden::{Golden, array, golden, near, strings};

#[test]
fn ter_by_hand() {
    // One move of two words; one word of four is another; no word at all; the better of two references.
    let corpus = Corpus::new(
        &["c d a b", "a b c x", "", "a"],
        &[vec!["a b c d"], vec!["a b c d"], vec!["a"], vec!["b c", "a c"]],
        python_words,
    )
    .unwrap();
    assert_eq!(ter::segments(&corpus), [0.25, 0.25, 1.0, 0.5]);
    assert_eq!(ter::ter(&corpus), 0.5);
    let nothing = Corpus::new(&["a b", ""], &[vec![" "], vec![""]], python_words).unwrap();
    assert_eq!(ter::segments(&nothing), [1.0, 1.0]);
}

#[test]
fn a_chain_says_what_it_did_not_compute() {
    let report = Chain::E2e
        .score(
            &["A pub near here."],
            &[vec!["A pub near here.", "Near here is a pub."]],
            None,
        )
        .unwrap();
    // NIST: log2(11/2) for words, 2/4 for pairs, 2/3 for triples, times the factor for 5 words against 5.5.
    assert_eq!(
        report.to_string(),
        "SCORES:\n==============\nBLEU: 1.0000\nNIST: 3.4898\nMETEOR: not computed\nROUGE_L: 1.0000\nCIDEr: 0.0000"
    );
    assert_eq!(
        report.meteor_note().unwrap(),
        "METEOR is not computed, because its data was not given (--meteor-data)"
    );
    let report = Chain::Dart.score(&["a b c d"], &[vec!["A B C D"]], None).unwrap();
    assert_eq!(report.to_string(), "BLEU: 100.00\nMETEOR: not computed\nTER: 0.00");
    assert_eq!((report.value("BLEU"), report.value("METEOR")), (Some(100.0), None));
    assert_eq!("webnlg".parse::<Chain>().unwrap(), Chain::Webnlg);
    assert_eq!(
        "x".parse::<Chain>().unwrap_err().to_string(),
        "unknown task \"x\"; the tasks are e2e, webnlg, dart"
    );
}

#[test]
fn references_beyond_the_sixth_are_not_read() {
    let mut references = vec!["x y z w"; 6];
    references.push("a b c d");
    let report = Chain::Webnlg.score(&["a b c d"], &[references], None).unwrap();
    assert_eq!(report.value("BLEU"), Some(0.0));
    assert_eq!(report.value("TER"), Some(1.0));
}

#[test]
fn pyters_rates() {
    let Some(golden) = golden("pyter on 114 cases") else {
        return;
    };
    let values = golden.json("edge/ter.json");
    let mut mean = 0.0;
    let cases = array(&values["cases"]);
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let hypothesis = case["nltk_hyp"].as_str().unwrap();
        let references = strings(&case["nltk_refs"]);
        for (reference, expected) in references.iter().zip(array(&case["pyter_per_ref"])) {
            let corpus = Corpus::new(&[hypothesis], &[vec![reference]], python_words).unwrap();
            near(id, ter::ter(&corpus), expected);
        }
        let corpus = Corpus::new(&[hypothesis], &[references], python_words).unwrap();
        near(id, ter::ter(&corpus), &case["generationeval"]);
        mean += ter::ter(&corpus) / cases.len() as f64;
    }
    near("mean", mean, &values["corpus"]["generationeval_mean"]);
}

fn meteor_data(golden: &Golden) -> (tempfile::TempDir, Data) {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden.0.join("meteor_data")).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .replace(".golden-subset", "");
        fs::write(dir.path().join(name), fs::read(&path).unwrap()).unwrap();
    }
    let data = Data::open(dir.path()).unwrap();
    (dir, data)
}

#[test]
fn generation_evals_values_of_webnlg_and_dart() {
    let Some(golden) = golden("the WebNLG and DART chains") else {
        return;
    };
    let (_dir, data) = meteor_data(&golden);
    for (name, chain) in [
        ("webnlg/melbourne.lora_nr6", Chain::Webnlg),
        ("webnlg/tilburg_nmt.lora_nr6", Chain::Webnlg),
        ("dart/bart-large.lora_nr6", Chain::Dart),
        ("dart/bart-large.lora_grouped_nr6.every4", Chain::Dart),
    ] {
        let values = golden.json(&format!("{name}.json"));
        let (hypotheses, references) = golden.inputs(&values, str::to_owned);
        let references: Vec<Vec<String>> = references
            .into_iter()
            .map(|group| group.into_iter().flatten().collect())
            .collect();
        let report = chain.score(&hypotheses, &references, Some(&data)).unwrap();
        let value = |metric| report.value(metric).unwrap();
        near(name, value("BLEU"), &values["bleu_full_precision"]["BLEU"]);
        near(name, value("METEOR"), &values["corpus"]["METEOR"]);
        near(name, value("TER"), &values["corpus"]["TER"]);
        assert_eq!(report.meteor_note(), None);
        let group = |group: &Vec<String>| group.iter().take(6).map(|text| treebank(&lora(text))).collect();
        let prepared: Vec<Vec<String>> = references.iter().map(group).collect();
        let lines: Vec<String> = hypotheses.iter().map(|text| treebank(&lora(text))).collect();
        let rates = ter::segments(&Corpus::new(&lines, &prepared, python_words).unwrap());
        let expected = array(&values["segment_TER"]);
        assert_eq!(rates.len(), expected.len());
        for (index, (rate, expected)) in rates.iter().zip(expected).enumerate() {
            near(&format!("{name}, segment {index}"), *rate, expected);
        }
    }
}

#[test]
fn what_the_e2e_script_prints() {
    let Some(golden) = golden("the E2E chain") else {
        return;
    };
    let (_dir, data) = meteor_data(&golden);
    for name in ["example", "tgen", "slug", "sheff2", "tuda"] {
        let values = golden.json(&format!("e2e/{name}.json"));
        let (hypotheses, references) = golden.inputs(&values, str::to_owned);
        let references: Vec<Vec<String>> = references
            .into_iter()
            .map(|group| group.into_iter().flatten().collect())
            .collect();
        let report = Chain::E2e.score(&hypotheses, &references, Some(&data)).unwrap();
        let mut expected = "SCORES:\n==============".to_owned();
        for metric in ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"] {
            near(name, report.value(metric).unwrap(), &values["corpus"][metric]);
            expected += &format!("\n{metric}: {}", values["printed"][metric].as_str().unwrap());
        }
        assert_eq!(report.to_string(), expected);
    }
}
