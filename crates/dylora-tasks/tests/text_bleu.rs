//! BLEU and NIST by hand and, where `DYLORA_TEST_GOLDEN` names them, against the official scripts' values.
#![allow(clippy::print_stdout)] // says what was not run

mod golden;

use dylora_tasks::metric::text::bleu::{self, BleuCounts};
use dylora_tasks::metric::text::nist::nist;
use dylora_tasks::metric::text::tokenise::{ascii_words, lora, mteval, multi_bleu_detok};
use dylora_tasks::metric::text::{Corpus, Segment};
use golden::{array, golden, near, strings};
use serde_json::Value;

fn one(hypothesis: &str, references: &[&str], tokenise: fn(&str) -> Vec<String>) -> Corpus {
    Corpus::new(&[hypothesis], &[references.to_vec()], tokenise).unwrap()
}

#[test]
fn bleu_by_hand() {
    // Runs of 1 to 4 words: 4 of 5, 3 of 4, 2 of 3, 1 of 2; references of 6 and 4 words are as close, the shorter counts.
    let corpus = one("a b c d x", &["a b c d y z", "q r s t"], ascii_words);
    let counts = bleu::corpus_counts(&corpus);
    assert_eq!(
        counts,
        BleuCounts {
            hits: [4, 3, 2, 1],
            totals: [5, 4, 3, 2],
            lengths: [5, 4, 3, 2],
            reference_length: 4
        }
    );
    let expected = (0.8_f64 * 0.75 * (2.0 / 3.0) * 0.5).powf(0.25);
    assert!((counts.mteval(0.0) - expected).abs() < 1e-15);
    let perl = counts.multi_bleu().unwrap();
    assert!((perl.bleu - 100.0 * expected).abs() < 1e-13);
    assert_eq!(
        perl.to_string(),
        "BLEU = 66.87, 80.0/75.0/66.7/50.0 (BP=1.000, ratio=1.250, hyp_len=5, ref_len=4)"
    );
}

#[test]
fn a_short_hypothesis_is_penalised() {
    let counts = bleu::corpus_counts(&one("a b c d", &["a b c d e f g h"], ascii_words));
    assert!((counts.mteval(0.0) - (-1.0_f64).exp()).abs() < 1e-15);
    assert!((counts.multi_bleu().unwrap().brevity_penalty - (-1.0_f64).exp()).abs() < 1e-15);
}

#[test]
fn what_multi_bleu_does_without_words() {
    let no_words = bleu::corpus_counts(&one("", &["a"], ascii_words)).multi_bleu();
    assert_eq!(
        no_words.unwrap_err().to_string(),
        "bleu is not defined: the hypotheses hold no word"
    );
    let no_reference = bleu::corpus_counts(&one("a", &[""], ascii_words)).multi_bleu().unwrap();
    assert_eq!(
        no_reference.to_string(),
        "BLEU = 0, 0/0/0/0 (BP=0, ratio=0, hyp_len=0, ref_len=0)"
    );
}

#[test]
fn nist_by_hand() {
    // Every word of the reference occurs once among 5: log2(5) bits each; no longer run tells more than its beginning.
    let value = nist(&one("a b c d e", &["a b c d e"], ascii_words)).unwrap();
    assert!((value - 5.0_f64.log2()).abs() < 1e-15);
    let short = nist(&one("a b", &["a b c"], ascii_words));
    assert_eq!(
        short.unwrap_err().to_string(),
        "nist is not defined: the hypotheses are too short for runs of 3 words"
    );
    // Two thirds of the expected length halve the score.
    let words: Vec<String> = (0..9).map(|word| word.to_string()).collect();
    let value = nist(&one(&words[..6].join(" "), &[&words.join(" ")], ascii_words)).unwrap();
    assert!((value - 0.5 * 9.0_f64.log2()).abs() < 1e-15);
}

#[test]
fn what_cannot_be_a_corpus() {
    let message = |hypotheses: &[&str], references: &[Vec<&str>]| {
        Corpus::new(hypotheses, references, ascii_words)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(message(&["a"], &[]), "hypotheses: 1 of them for 0 groups of references");
    assert_eq!(message(&[], &[]), "hypotheses: there is none to score");
    assert_eq!(
        message(&["a", "b"], &[vec!["a"], vec![]]),
        "references: segment 2 has no reference"
    );
}

fn numbers<T: TryFrom<i64>>(value: &Value) -> Vec<T> {
    let number = |value: &Value| T::try_from(value.as_i64().unwrap()).ok().unwrap();
    array(value).iter().map(number).collect()
}

#[test]
fn the_python_scripts_values_of_single_segments() {
    let Some(golden) = golden("the E2E script's BLEU and NIST of 114 cases") else {
        return;
    };
    let (ids, (hypotheses, references)) = golden.edge_cases();
    let file = golden.json("edge/bleu_nist.json");
    let corpus = Corpus::new(&hypotheses, &references, mteval).unwrap();
    let all = &file["corpus_over_all_cases"];
    near("BLEU", bleu::corpus_counts(&corpus).mteval(0.0), &all["BLEU"]);
    near("NIST", nist(&corpus).unwrap(), &all["NIST"]);
    for (index, case) in array(&file["cases"]).iter().enumerate() {
        let id = &ids[index];
        let (hypothesis, references) = (&hypotheses[index], &references[index]);
        let lower = |value| {
            strings(value)
                .iter()
                .map(|word| word.to_lowercase())
                .collect::<Vec<_>>()
        };
        assert_eq!(mteval(hypothesis), lower(&case["tokens_hyp"]), "{id}");
        for (reference, tokens) in references.iter().zip(array(&case["tokens_refs"])) {
            assert_eq!(mteval(reference), lower(tokens), "{id}");
        }
        let corpus = Corpus::new(&[hypothesis], std::slice::from_ref(references), mteval).unwrap();
        let counts = bleu::corpus_counts(&corpus);
        assert_eq!(counts.hits.to_vec(), numbers::<u64>(&case["hits"]), "{id}");
        assert_eq!(counts.lengths.to_vec(), numbers::<i64>(&case["cand_lens"]), "{id}");
        assert_eq!(Some(counts.reference_length), case["ref_len"].as_u64(), "{id}");
        near(id, counts.mteval(0.0), &case["BLEU"]);
        near(id, counts.mteval(1.0), &case["BLEU_smooth1"]);
        match nist(&corpus) {
            Ok(value) => near(id, value, &case["NIST"]),
            Err(_) => assert_eq!(case["NIST"]["raises"], "ZeroDivisionError", "{id}"),
        }
    }
}

#[test]
fn the_python_scripts_values_of_the_e2e_systems() {
    let Some(golden) = golden("the E2E script's BLEU and NIST of four systems") else {
        return;
    };
    for name in ["example", "tgen", "slug", "sheff2", "tuda"] {
        let values = golden.json(&format!("e2e/{name}.json"));
        let (hypotheses, references) = golden.inputs(&values, str::to_owned);
        let references: Vec<Vec<String>> = references
            .into_iter()
            .map(|group| group.into_iter().flatten().collect())
            .collect();
        let corpus = Corpus::new(&hypotheses, &references, mteval).unwrap();
        let counts = bleu::corpus_counts(&corpus);
        assert_eq!(counts.hits.to_vec(), numbers::<u64>(&values["bleu_counts"]["hits"]));
        assert_eq!(Some(counts.reference_length), values["bleu_counts"]["ref_len"].as_u64());
        near(name, counts.mteval(0.0), &values["corpus"]["BLEU"]);
        near(name, nist(&corpus).unwrap(), &values["corpus"]["NIST"]);
        for (index, row) in array(&values["segment"]).iter().enumerate() {
            let counts = bleu::counts(&corpus.segments()[index]);
            near(name, counts.mteval(0.0), &row[0]);
            near(name, counts.mteval(1.0), &row[1]);
            let one = Corpus::new(&hypotheses[index..=index], &references[index..=index], mteval).unwrap();
            match row[2].as_f64() {
                Some(_) => near(name, nist(&one).unwrap(), &row[2]),
                None => assert!(nist(&one).is_err(), "{name} {index}: {}", row[2]),
            }
        }
    }
}

#[test]
fn the_perl_scripts_values_of_single_segments() {
    let Some(golden) = golden("multi-bleu.perl and multi-bleu-detok.perl on 114 cases") else {
        return;
    };
    let (ids, (hypotheses, references)) = golden.edge_cases();
    let file = golden.json("edge/perl_bleu.json");
    let lower_words = |text: &str| ascii_words(&text.to_ascii_lowercase());
    let forms = [
        ("multi_bleu", ascii_words as fn(&str) -> Vec<String>),
        ("multi_bleu_lc", lower_words),
        ("multi_bleu_detok", multi_bleu_detok),
    ];
    for (index, case) in array(&file["cases"]).iter().enumerate() {
        for (name, tokenise) in forms {
            let id = format!("{} {name}", ids[index]);
            let expected = &case[name];
            let corpus = Corpus::new(&hypotheses[index..=index], &references[index..=index], tokenise).unwrap();
            let result = bleu::corpus_counts(&corpus).multi_bleu();
            if expected.get("raw").is_some() {
                assert!(result.is_err(), "{id}");
                continue;
            }
            let result = result.unwrap();
            // The script was made to print 12 decimals.
            let printed = |what: &str, value: f64, expected: &Value| {
                let expected = expected.as_f64().unwrap();
                assert!(
                    (value - expected).abs() <= 0.51e-12,
                    "{id} {what}: {value} is not {expected}"
                );
            };
            printed("BLEU", result.bleu, &expected["BLEU"]);
            printed("BP", result.brevity_penalty, &expected["BP"]);
            for (value, expected) in result.precisions.iter().zip(array(&expected["precisions"])) {
                printed("precision", *value, expected);
            }
            assert_eq!(Some(result.hypothesis_length), expected["hyp_len"].as_u64(), "{id}");
            assert_eq!(Some(result.reference_length), expected["ref_len"].as_u64(), "{id}");
        }
    }
}

/// At most `most` references; a missing one is a copy of the first, as LoRA's script writes them.
fn filled(references: Vec<Vec<Option<String>>>, most: usize) -> Vec<Vec<String>> {
    let fill = |group: Vec<Option<String>>| {
        let mut group: Vec<String> = group.into_iter().flatten().collect();
        group.resize(most.max(1), group[0].clone());
        group
    };
    references.into_iter().map(fill).collect()
}

#[test]
fn the_lines_of_the_webnlg_and_dart_scorers() {
    let Some(golden) = golden("multi-bleu-detok.perl on WebNLG and DART") else {
        return;
    };
    for name in [
        "webnlg/melbourne.lora_nr6",
        "webnlg/tilburg_nmt.lora_nr6",
        "dart/bart-large.lora_nr6",
        "dart/bart-large.lora_grouped_nr6.every4",
    ] {
        let values = golden.json(&format!("{name}.json"));
        let (hypotheses, references) = golden.inputs(&values, lora);
        let references = filled(references, values["nr"].as_u64().unwrap() as usize);
        let corpus = Corpus::new(&hypotheses, &references, multi_bleu_detok).unwrap();
        let result = bleu::corpus_counts(&corpus).multi_bleu().unwrap();
        assert_eq!(result.to_string(), values["bleu_line"], "{name}");
        near(name, result.bleu, &values["bleu_full_precision"]["BLEU"]);
    }
}

#[test]
fn the_line_of_darts_own_script() {
    let Some(golden) = golden("multi-bleu.perl -lc on DART") else {
        return;
    };
    let values = golden.json("dart/bart-large.dart_official.json");
    let (hypotheses, references) = golden.inputs(&values, str::to_owned);
    // A missing reference is an empty line there, and an empty line is a reference.
    let whole = |group: Vec<Option<String>>| group.into_iter().map(Option::unwrap_or_default).collect();
    let references: Vec<Vec<String>> = references.into_iter().map(whole).collect();
    let corpus = Corpus::new(&hypotheses, &references, |text| ascii_words(&text.to_ascii_lowercase())).unwrap();
    let result = bleu::corpus_counts(&corpus).multi_bleu().unwrap();
    assert_eq!(result.to_string(), values["bleu_line"]);
}

#[test]
fn counts_of_segments_add_up() {
    let corpus = Corpus::new(&["a b c", "d"], &[vec!["a b", "c"], vec!["d e"]], ascii_words).unwrap();
    let by_hand = |segment: &Segment| bleu::counts(segment);
    let mut sum = by_hand(&corpus.segments()[0]);
    sum += by_hand(&corpus.segments()[1]);
    assert_eq!(sum, bleu::corpus_counts(&corpus));
    assert_eq!(sum.lengths, [4, 2, 0, -2]);
    assert_eq!(sum.totals, [4, 2, 1, 0]);
}
