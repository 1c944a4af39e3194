//! The HTML page of a table, read back as XML, and what every form says about the paper.

use std::path::Path;

use dylora_tasks::glue;
use dylora_tasks::nn::Method;
use dylora_tasks::paper::Published;
use dylora_tasks::record::{
    CodeVersion, LossCurve, RECORD_FORMAT, RankName, RankScores, Record, Scores, Timing, Trace,
};
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::table::{Caption, Table};
use roxmltree::{Document, Node, ParsingOptions};

const LORA: &str = "#0072B2";
const DYLORA: &str = "#D55E00";
const FROZEN: &str = "#009E73";
const METHODS: [Method; 4] = [Method::Lora, Method::DyLora, Method::DyLoraFrozen, Method::Full];
const SEEDS: [u64; 3] = [10, 42, 4242];
const RANKS: usize = 8;

/// A finished run with a metric for each rank, or the only one of fine-tuning.
fn record(task: &str, method: Method, seed: u64, values: &[f64]) -> Record {
    let metric = glue::find(task).unwrap().metrics[0].name().to_owned();
    let data = DataSource::Glue { dir: "data".into() };
    let settings = TrainSettings {
        method,
        seed,
        lr: if method == Method::Full { 2e-5 } else { 4e-4 },
        ..TrainSettings::new(task, Path::new("model"), data)
    };
    let ranks = values.iter().enumerate().map(|(index, &value)| RankScores {
        rank: if method == Method::Full {
            RankName::Full
        } else {
            RankName::At(index + 1)
        },
        scores: Scores(vec![(metric.clone(), value)]),
    });
    Record {
        format: RECORD_FORMAT,
        code: CodeVersion {
            dylora: "0.1.0".into(),
            revision: Some("0123abc".into()),
        },
        settings,
        device: "cpu, 4 threads".into(),
        train_rows: 2490,
        steps: 2340,
        trainable: vec![1; values.len()],
        loss: LossCurve {
            epochs: vec![0.7, 0.123_44],
            ..LossCurve::default()
        },
        trace: Trace::default(),
        ranks: ranks.collect(),
        notes: Vec::new(),
        timing: Timing {
            train_seconds: 3725.0,
            // 2026-01-31 and the two days after it.
            finished_unix: 1_769_860_800 + 86_400 * u64::from(seed > 10) + 86_400 * u64::from(seed > 42),
            ..Timing::default()
        },
    }
}

/// Made-up metrics with some shape: LoRA falls off below its trained rank, the others hardly.
fn value(task: usize, method: Method, seed: u64, rank: usize) -> f64 {
    let (task, depth) = (task as f64, (RANKS - rank) as f64);
    let noise = ((task * 7.3 + seed as f64 * 1.7 + rank as f64 * 3.1 + method as u8 as f64).sin()) * 0.012;
    let top = 0.9 - 0.045 * task + noise;
    match method {
        Method::Lora => top - 0.006 * depth * depth,
        Method::DyLora => top - 0.003 * depth,
        Method::DyLoraFrozen => top - 0.012 - 0.002 * depth,
        Method::Full | Method::Flop => top + 0.01,
    }
}

fn records(tasks: &[&str]) -> Vec<Record> {
    let mut records = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        for method in METHODS {
            for seed in SEEDS {
                let ranks = if method == Method::Full { 8..=8 } else { 1..=RANKS };
                let values: Vec<f64> = ranks.map(|rank| value(index, method, seed, rank)).collect();
                records.push(record(task, method, seed, &values));
            }
        }
    }
    records
}

fn table(tasks: &[&str], records: &[Record]) -> Table {
    let tasks: Vec<_> = tasks.iter().map(|name| glue::find(name).unwrap()).collect();
    Table::glue("given", &tasks, &METHODS, records)
}

fn caption(same_setting_as_paper: bool) -> Caption {
    Caption {
        model: "small <&> \"quoted\" encoder".into(),
        data: "generated sentences".into(),
        notes: vec!["The sentences were made from a grammar.\nNobody wrote them.".into()],
        same_setting_as_paper,
    }
}

/// Calls `check` with the page, once it is read as XML.
fn read(table: &Table, check: impl Fn(&Document<'_>)) {
    let page = table.to_html().unwrap();
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    check(&Document::parse_with_options(&page, options).unwrap());
}

fn named<'a, 'i: 'a>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.descendants().filter(move |node| node.tag_name().name() == name)
}

/// The charts of metrics against the rank.
fn charts<'a, 'i: 'a>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    named(node, "figure").filter(|figure| figure.attribute("class") == Some("of-rank"))
}

/// All text below a node, blanks as one.
fn words(node: Node<'_, '_>) -> String {
    let all: String = node
        .descendants()
        .filter(|node| node.is_text())
        .filter_map(|node| node.text())
        .collect();
    all.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lines_of(figure: Node<'_, '_>, color: &str) -> usize {
    named(figure, "polyline")
        .filter(|line| line.attribute("stroke") == Some(color))
        .count()
}

#[test]
fn the_page_has_every_number_of_the_table() {
    let tasks = ["rte", "cola"];
    let table = table(&tasks, &records(&tasks)).with_caption(caption(false));
    read(&table, |page| {
        let results = named(page.root(), "table").next().unwrap();
        let lines: Vec<Vec<String>> = named(results, "tr")
            .skip(1)
            .map(|line| named(line, "td").map(words).collect())
            .collect();
        assert_eq!(lines.len(), table.rows.len());
        for (row, line) in table.rows.iter().zip(&lines) {
            assert_eq!(line.len(), tasks.len() + 1);
            for ((_, cell), shown) in row.tasks.iter().zip(line) {
                let cell = cell.as_ref().unwrap();
                assert!(
                    shown.starts_with(&format!("{:.2} ± {:.2}", cell.mean, cell.std)),
                    "{shown}"
                );
                assert_eq!(
                    cell.rank.map(|rank| format!("({rank})")),
                    shown.split_once('(').map(|(_, rank)| format!("({rank}"))
                );
            }
            assert!(line[2].starts_with(&format!("{:.2}", row.average.unwrap())), "{line:?}");
        }
    });
}

#[test]
fn the_best_method_of_a_block_is_bold_and_the_best_rank_has_a_star() {
    let records = [
        record("rte", Method::Lora, 10, &[0.70, 0.76]),
        record("rte", Method::DyLora, 10, &[0.74, 0.72]),
        record("rte", Method::Full, 10, &[0.80]),
    ];
    read(&table(&["rte"], &records), |page| {
        let results = named(page.root(), "table").next().unwrap();
        let cells = |column: usize| -> Vec<(String, bool)> {
            named(results, "tr")
                .skip(1)
                .filter_map(|line| named(line, "td").nth(column))
                .map(|cell| (words(cell), named(cell, "b").next().is_some()))
                .collect()
        };
        let expected = |all: [(&str, bool); 7]| all.map(|(words, bold)| (words.to_owned(), bold)).to_vec();
        let blocks = expected([
            ("70.00", false),
            ("74.00★", true),
            ("76.00★", true),
            ("72.00", false),
            ("76.00 (2)", true),
            ("74.00 (1)", false),
            ("80.00", false),
        ]);
        assert_eq!(cells(0), blocks);
        let averages: Vec<_> = blocks
            .iter()
            .map(|(words, bold)| (words.replace(" (2)", "").replace(" (1)", ""), *bold))
            .collect();
        assert_eq!(cells(1), averages);
    });
}

#[test]
fn nothing_is_loaded_and_every_word_is_escaped() {
    let tasks = ["rte"];
    let table = table(&tasks, &records(&tasks)).with_caption(caption(false));
    assert!(!table.to_html().unwrap().contains("<&>"));
    read(&table, |page| {
        for node in page.descendants() {
            assert!(!["script", "link", "img", "iframe"].contains(&node.tag_name().name()));
            for attribute in node.attributes() {
                assert!(
                    !["src", "href", "srcset", "data"].contains(&attribute.name()),
                    "{attribute:?}"
                );
                assert!(!attribute.value().contains("url("), "{attribute:?}");
            }
        }
        let style = words(named(page.root(), "style").next().unwrap());
        assert!(!style.contains("url(") && !style.contains("@import"));
        for name in ["title", "h1", "dl"] {
            let words = words(named(page.root(), name).next().unwrap());
            assert!(words.contains("small <&> \"quoted\" encoder"), "{words}");
        }
    });
}

#[test]
fn a_chart_has_a_line_for_each_method() {
    let tasks = ["rte", "cola"];
    read(&table(&tasks, &records(&tasks)), |page| {
        let figures: Vec<_> = charts(page.root()).collect();
        let captions: Vec<_> = figures
            .iter()
            .map(|f| words(named(*f, "strong").next().unwrap()))
            .collect();
        assert_eq!(captions, ["RTE", "CoLA", "Average"]);
        for figure in &figures {
            assert_eq!([LORA, DYLORA, FROZEN].map(|color| lines_of(*figure, color)), [1; 3]);
            // Markers: circles, triangles, squares, one for each rank. An error bar brings a hollow circle.
            let filled = |name, color| {
                named(*figure, name)
                    .filter(|shape| shape.attribute("fill") == Some(color))
                    .count()
            };
            assert_eq!(filled("circle", LORA), RANKS);
            assert_eq!(filled("polygon", DYLORA), RANKS);
            assert_eq!(filled("rect", FROZEN), RANKS);
            let labels: Vec<String> = named(*figure, "text").map(words).collect();
            assert!(labels.iter().any(|label| label == "rank"), "{labels:?}");
            assert!((1..=RANKS).all(|rank| labels.contains(&rank.to_string())), "{labels:?}");
        }
        let bars = |figure: Node<'_, '_>| {
            named(figure, "line")
                .filter(|line| line.attribute("stroke") == Some(DYLORA))
                .count()
        };
        assert_eq!([bars(figures[0]), bars(figures[2])], [3 * RANKS, 0]);
        let legend = named(page.root(), "ul")
            .find(|list| list.attribute("class") == Some("legend"))
            .unwrap();
        assert_eq!(words(legend), "LoRA DyLoRA DyLoRA (Frozen) Fine-tune");
    });
}

#[test]
fn fine_tuning_is_a_level_dashed_line() {
    let level = |records: &[Record]| {
        let mut dashes = Vec::new();
        let page = table(&["rte"], records).to_html().unwrap();
        let options = ParsingOptions {
            allow_dtd: true,
            ..ParsingOptions::default()
        };
        let page = Document::parse_with_options(&page, options).unwrap();
        let figure = named(page.root(), "figure").next().unwrap();
        for line in named(figure, "polyline").filter(|line| line.attribute("stroke-width") == Some("3")) {
            dashes.push(
                line.attribute("points")
                    .unwrap()
                    .split_whitespace()
                    .map(|p| p.split_once(',').unwrap().1.to_owned())
                    .collect::<Vec<_>>(),
            );
        }
        dashes
    };
    let adapters = record("rte", Method::DyLora, 10, &[0.70, 0.74]);
    assert!(level(std::slice::from_ref(&adapters)).is_empty());
    let dashes = level(&[adapters, record("rte", Method::Full, 10, &[0.72])]);
    assert!(dashes.len() > 10, "{dashes:?}");
    assert!(dashes.iter().flatten().all(|y| *y == dashes[0][0]), "{dashes:?}");
}

#[test]
fn gaps_and_values_that_are_not_numbers_break_nothing() {
    let records = [
        record(
            "rte",
            Method::DyLora,
            10,
            &[0.70, 0.71, f64::NAN, 0.73, 0.74, f64::INFINITY, 0.75],
        ),
        record("rte", Method::Lora, 10, &[0.70]),
        record("rte", Method::DyLoraFrozen, 10, &[f64::NAN, f64::NAN]),
        record("rte", Method::Full, 10, &[f64::NAN]),
        record("cola", Method::DyLora, 10, &[f64::NAN, f64::NAN]),
    ];
    let table = table(&["rte", "cola", "mrpc"], &records);
    read(&table, |page| {
        let figures: Vec<_> = charts(page.root()).collect();
        // Ranks 1 and 2, 4 and 5; rank 7 stands alone and has only its marker.
        assert_eq!(
            [LORA, DYLORA, FROZEN].map(|color| lines_of(figures[0], color)),
            [0, 2, 0]
        );
        for figure in &figures[1..] {
            assert!(words(*figure).contains("No number to draw"), "{}", words(*figure));
        }
        for node in page.descendants() {
            for attribute in node.attributes() {
                assert!(
                    !attribute.value().contains("NaN") && !attribute.value().contains("inf"),
                    "{attribute:?}"
                );
            }
        }
        let results = named(page.root(), "table").next().unwrap();
        assert!(words(results).contains("NaN"));
        // A single seed has no deviation.
        assert!(!words(results).contains('±'));
    });
    let json = serde_json::to_value(&table).unwrap();
    assert_eq!(json["rows"][1]["tasks"]["cola"]["mean"], "nan");
}

#[test]
fn a_table_without_rows_or_without_adapters_is_still_a_page() {
    for records in [vec![], vec![record("rte", Method::Full, 10, &[0.8])]] {
        read(&table(&["rte"], &records), |page| {
            assert_eq!(
                named(page.root(), "polyline")
                    .filter(|l| l.attribute("stroke") == Some(DYLORA))
                    .count(),
                0
            );
            assert_eq!(charts(page.root()).count(), 2);
        });
    }
}

#[test]
fn runs_and_settings_stand_below() {
    let tasks = ["rte"];
    let table = table(&tasks, &records(&tasks)).with_caption(caption(false));
    read(&table, |page| {
        let runs = named(page.root(), "table")
            .find(|table| table.attribute("class") == Some("runs"))
            .unwrap();
        let lines: Vec<Vec<String>> = named(runs, "tr")
            .skip(1)
            .map(|line| named(line, "td").map(words).collect())
            .collect();
        assert_eq!(lines.len(), METHODS.len() * SEEDS.len());
        assert_eq!(
            lines[0],
            ["rte", "lora", "10", "2340", "1 h 02 min", "0.1234", "2026-01-31"]
        );
        let lists: Vec<String> = named(page.root(), "dl").map(words).collect();
        for fact in [
            "10, 42, 4242",
            "dylora 0.1.0, revision 0123abc",
            "2026-01-31 to 2026-02-02",
            "cpu, 4 threads",
        ] {
            assert!(lists[0].contains(fact), "{}", lists[0]);
        }
        assert_eq!(lists[1], "lr0.0004 lora, dylora, dylora-frozen0.00002 full");
        assert!(
            lists[2].contains("batch size32") && !lists[2].contains("lr0"),
            "{}",
            lists[2]
        );
    });
    let json = serde_json::to_value(&table).unwrap();
    assert_eq!(json["caption"]["data"], "generated sentences");
    assert_eq!(json["runs"][0]["seed"], 10);
    assert_eq!(json["runs"][0]["last_epoch_loss"], 0.123_44);
    let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["table", "number", "profile", "rows", "caption", "runs"]);
}

#[test]
fn every_form_says_that_the_papers_numbers_are_not_there() {
    let records = records(&["rte"]);
    let published = Published::default();
    for same in [false, true] {
        let table = Table::glue_beside(&published, "given", &[glue::find("rte").unwrap()], &METHODS, &records)
            .with_caption(caption(same));
        for form in [table.to_text(), table.to_markdown(), table.to_html().unwrap()] {
            assert!(form.contains("the paper's numbers are not included yet"), "{form}");
            let another = "they are of another model (RoBERTa-base) and other data (GLUE)";
            assert_eq!(form.contains(another), !same, "{form}");
            assert!(!form.contains("[–]"), "{form}");
        }
    }
}

#[test]
fn a_number_of_the_paper_is_labelled_as_of_another_model_and_other_data() {
    // Made up: no test may depend on a number of the paper that nobody has read.
    let text = "table,row,rank,task,metric,published\nglue,DyLoRA,3,rte,accuracy,12.5\n";
    let published = Published::parse(text, Path::new("numbers.csv")).unwrap();
    let records = records(&["rte"]);
    let made = Table::glue_beside(&published, "given", &[glue::find("rte").unwrap()], &METHODS, &records);
    let forms = |table: &Table| [table.to_text(), table.to_markdown(), table.to_html().unwrap()];
    let another = "another model (RoBERTa-base) and other data (GLUE)";
    // Without a caption nobody has said that the settings are the same.
    for table in [made.clone(), made.clone().with_caption(caption(false))] {
        for form in forms(&table) {
            assert!(form.contains(another), "{form}");
            assert_eq!(form.matches("[12.50]").count(), 1, "{form}");
            assert!(form.contains("[–]") && !form.contains("not included"), "{form}");
        }
        read(&table, |page| {
            let heading = named(page.root(), "thead").next().map(words).unwrap();
            assert!(
                heading.contains("another model (RoBERTa-base), other data (GLUE)"),
                "{heading}"
            );
        });
    }
    for form in forms(&made.with_caption(caption(true))) {
        assert!(
            form.contains("[12.50]") && form.contains("RoBERTa-base on GLUE"),
            "{form}"
        );
        assert!(!form.contains("another model"), "{form}");
    }
}

#[test]
fn text_and_markdown_name_model_and_data() {
    let tasks = ["rte"];
    let table = table(&tasks, &records(&tasks)).with_caption(caption(false));
    let text = table.to_text();
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    assert!(
        first.starts_with("Laid out as Table 2: small <&> \"quoted\" encoder on generated sentences"),
        "{text}"
    );
    assert!(first.contains("profile: given"), "{text}");
    assert_eq!(
        lines.next(),
        Some("Note: The sentences were made from a grammar. Nobody wrote them.")
    );
    let markdown = table.to_markdown();
    assert!(
        markdown.contains("small \\<\\&> \"quoted\" encoder on generated sentences"),
        "{markdown}"
    );
    assert!(
        markdown.contains("\n\nNote: The sentences were made from a grammar. Nobody wrote them.\n\n"),
        "{markdown}"
    );
}
