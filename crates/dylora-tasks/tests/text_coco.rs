//! PTB tokens, ROUGE-L and CIDEr by hand and, where `DYLORA_TEST_GOLDEN` names them, against the official scripts' values.
#![allow(clippy::print_stdout)] // says what was not run

mod golden;

use dylora_tasks::metric::text::tokenise::{ascii_words, ptb};
use dylora_tasks::metric::text::{Corpus, cider, rouge};
use golden::{array, golden, near, strings};

#[test]
fn rouge_takes_the_best_precision_and_the_best_recall() {
    // "a c" of 3 words against 4: 2/3 and 2/4; "a" against 1 word: 1/3 and 1.
    let corpus = Corpus::new(&["a b c"], &[vec!["x a y c", "a"]], ascii_words).unwrap();
    let (precision, recall) = (2.0 / 3.0, 1.0);
    let expected = 2.44 * precision * recall / (recall + 1.44 * precision);
    assert!((rouge::rouge_l(&corpus) - expected).abs() < 1e-15);
    let nothing = Corpus::new(&["", "", "a"], &[vec![""], vec!["a"], vec![""]], ascii_words).unwrap();
    let scores: Vec<f64> = nothing.segments().iter().map(rouge::segment).collect();
    assert_eq!(scores, [1.0, 0.0, 0.0]);
}

#[test]
fn cider_by_hand() {
    // "a" is in both segments' references and weighs nothing; "b" and "a b" are in one and weigh ln 2.
    let corpus = Corpus::new(&["a b", "a c"], &[vec!["a b"], vec!["a d"]], ascii_words).unwrap();
    let scores = cider::segments(&corpus);
    // Two of four orders are there and equal; the others have no run.
    assert!((scores[0] - 5.0).abs() < 1e-14, "{scores:?}");
    assert_eq!(scores[1], 0.0);
    assert!((cider::cider(&corpus) - 2.5).abs() < 1e-14);
    let alone = Corpus::new(&["a b"], &[vec!["a b"]], ascii_words).unwrap();
    assert_eq!(cider::cider(&alone), 0.0);
}

#[test]
fn the_ptb_tokenisers_lines() {
    let Some(golden) = golden("the PTB tokeniser on the texts of E2E and 280 odd lines") else {
        return;
    };
    for line in array(&golden.json("edge/ptb.json")["lines"]) {
        let line = strings(line);
        assert_eq!(ptb(&line[0]).join(" "), line[2], "{:?}", line[0]);
    }
    let compare = |texts: Vec<String>, expected: Vec<String>| {
        assert_eq!(texts.len(), expected.len());
        for (text, expected) in texts.iter().zip(&expected) {
            assert_eq!(ptb(text).join(" "), *expected, "{text:?}");
        }
    };
    let (texts, expected) = (
        golden.json("data/e2e_test.refs.json"),
        golden.json("ptb/e2e_test.refs.json"),
    );
    for (texts, expected) in array(&texts).iter().zip(array(&expected)) {
        compare(strings(texts), strings(expected));
    }
    for name in ["tgen", "tuda", "zhaw1"] {
        let file = format!("e2e_test.{name}.txt");
        compare(
            golden.lines(&format!("data/{file}")),
            golden.lines(&format!("ptb/{file}")),
        );
    }
}

#[test]
fn coco_captions_values_of_the_e2e_systems() {
    let Some(golden) = golden("ROUGE-L and CIDEr of four E2E systems and 114 cases") else {
        return;
    };
    let names = ["example", "tgen", "slug", "sheff2", "tuda"].map(|name| format!("e2e/{name}.json"));
    for name in names.iter().map(String::as_str).chain(["edge/coco.json"]) {
        let values = golden.json(name);
        // Columns of a segment: .., ROUGE-L, CIDEr.
        let (hypotheses, references) = if name == "edge/coco.json" {
            golden.edge_cases().1
        } else {
            let (hypotheses, references) = golden.inputs(&values, str::to_owned);
            let given = |group: Vec<Option<String>>| group.into_iter().flatten().collect();
            (hypotheses, references.into_iter().map(given).collect())
        };
        let corpus = Corpus::new(&hypotheses, &references, ptb).unwrap();
        near(name, rouge::rouge_l(&corpus), &values["corpus"]["ROUGE_L"]);
        near(name, cider::cider(&corpus), &values["corpus"]["CIDEr"]);
        let scores = cider::segments(&corpus);
        let rows = array(&values["segment"]);
        assert_eq!(rows.len(), scores.len());
        for (index, row) in rows.iter().enumerate() {
            let row = array(row);
            let what = format!("{name}, segment {index}");
            near(&what, rouge::segment(&corpus.segments()[index]), &row[row.len() - 2]);
            near(&what, scores[index], &row[row.len() - 1]);
        }
    }
}
