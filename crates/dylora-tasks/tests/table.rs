//! Tables from literal records.

use std::path::Path;

use dylora_tasks::glue;
use dylora_tasks::nn::Method;
use dylora_tasks::record::{
    CodeVersion, LossCurve, RECORD_FORMAT, RankName, RankScores, Record, Scores, Timing, Trace,
};
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::table::Table;

/// A record whose metric at rank b is the b-th of `values`, or the only one without a rank.
fn record(task: &str, method: Method, seed: u64, metric: &str, values: &[f64]) -> Record {
    let data = DataSource::Glue { dir: "data".into() };
    let settings = TrainSettings {
        method,
        seed,
        ..TrainSettings::new(task, Path::new("model"), data)
    };
    let ranks = values.iter().enumerate().map(|(index, &value)| RankScores {
        rank: if method == Method::Full {
            RankName::Full
        } else {
            RankName::At(index + 1)
        },
        // A metric that the table does not show comes first.
        scores: Scores(vec![("other".into(), 0.0), (metric.into(), value)]),
    });
    Record {
        format: RECORD_FORMAT,
        code: CodeVersion::current(),
        settings,
        device: "cpu".into(),
        train_rows: 1,
        steps: 1,
        trainable: vec![1; values.len()],
        loss: LossCurve::default(),
        trace: Trace::default(),
        ranks: ranks.collect(),
        notes: Vec::new(),
        timing: Timing::default(),
    }
}

fn table() -> Table {
    let records = [
        record("rte", Method::DyLora, 10, "accuracy", &[0.70, 0.74]),
        record("rte", Method::DyLora, 42, "accuracy", &[0.72, 0.70]),
        record("rte", Method::Lora, 10, "accuracy", &[0.50, 0.75]),
        record("rte", Method::Lora, 42, "accuracy", &[0.54, 0.77]),
        record("cola", Method::DyLora, 10, "matthews", &[0.60, 0.50]),
        record("cola", Method::Full, 10, "matthews", &[0.61]),
    ];
    let tasks = ["rte", "cola"].map(|name| glue::find(name).unwrap());
    Table::glue("given", &tasks, &[Method::Lora, Method::DyLora, Method::Full], &records)
}

#[test]
fn ranks_are_blocks_of_methods_then_best_then_fine_tuning() {
    let rows: Vec<_> = table().rows.iter().map(|row| (row.rank, row.method)).collect();
    use Method::{DyLora, Full, Lora};
    assert_eq!(
        rows,
        [
            (RankName::At(1), Lora),
            (RankName::At(1), DyLora),
            (RankName::At(2), Lora),
            (RankName::At(2), DyLora),
            (RankName::Best, Lora),
            (RankName::Best, DyLora),
            (RankName::Full, Full),
        ]
    );
}

#[test]
fn json_has_percentages_by_task() {
    let json = serde_json::to_value(table()).unwrap();
    assert_eq!((&json["table"], &json["profile"]), (&"glue".into(), &"given".into()));
    let row = &json["rows"][1];
    assert_eq!((&row["method"], &row["rank"]), (&"dylora".into(), &1.into()));
    assert_eq!(row["seeds"], serde_json::json!([10, 42]));
    let near = |value: &serde_json::Value, expected: f64| {
        assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value} {expected}");
    };
    assert_eq!(row["tasks"]["rte"]["metric"], "accuracy");
    near(&row["tasks"]["rte"]["mean"], 71.0);
    // Sample standard deviation of 70 and 72.
    near(&row["tasks"]["rte"]["std"], 2f64.sqrt());
    near(&row["tasks"]["cola"]["mean"], 60.0);
    near(&row["tasks"]["cola"]["std"], 0.0);
    near(&row["average"], 65.5);
    // LoRA has no CoLA run, so no cell and no average.
    let lora = &json["rows"][0];
    assert!(lora["tasks"].get("cola").is_none() && lora["average"].is_null());
    // The best rank is chosen for each task by its mean.
    let best = &json["rows"][5];
    assert_eq!(best["rank"], "best");
    near(&best["tasks"]["rte"]["mean"], 72.0);
    assert_eq!(
        (&best["tasks"]["rte"]["rank"], &best["tasks"]["cola"]["rank"]),
        (&2.into(), &1.into())
    );
    assert_eq!(json["rows"][6]["rank"], "full");
}

#[test]
fn text_and_markdown_say_the_same() {
    let table = table();
    let text = table.to_text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].contains("Table 2") && lines[0].contains("profile: given"),
        "{text}"
    );
    let cells = |line: &str| {
        line.split("  ")
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        cells(lines[2]),
        ["Rank", "Method", "RTE", "CoLA", "Avg"].map(String::from)
    );
    let line = |start: &str| {
        lines
            .iter()
            .find(|line| line.starts_with(start))
            .map(|line| cells(line))
            .unwrap_or_default()
    };
    let dylora = lines
        .iter()
        .find(|line| line.contains("71.00"))
        .map(|line| cells(line))
        .unwrap_or_default();
    assert!(
        dylora[2].starts_with("71.00 ± 1.41") && dylora[3].starts_with("60.00"),
        "{text}"
    );
    assert!(line("best")[2].starts_with("76.00 ± 1.41 (2)"), "{text}");
    assert!(line("–").contains(&"Fine-tune".to_owned()), "{text}");
    let markdown = table.to_markdown();
    let rows: Vec<&str> = markdown.lines().filter(|line| line.starts_with("| ")).collect();
    // Heading and rule.
    assert_eq!(rows.len(), table.rows.len() + 2);
    assert!(rows.iter().all(|row| row.matches('|').count() == 6), "{markdown}");
    assert!(markdown.contains("| 1 | DyLoRA | 71.00 ± 1.41"), "{markdown}");
}

#[test]
fn a_metric_that_is_not_a_number_is_never_the_best() {
    let records = [record(
        "sts-b",
        Method::DyLora,
        10,
        "pearson",
        &[f64::NAN, 0.3, f64::NAN],
    )];
    let table = Table::glue("given", &[glue::find("sts-b").unwrap()], &[Method::DyLora], &records);
    let json = serde_json::to_value(&table).unwrap();
    assert_eq!(json["rows"][0]["tasks"]["sts-b"]["mean"], "nan");
    assert_eq!(json["rows"][3]["tasks"]["sts-b"]["rank"], 2);
}
