//! Tables as data: which runs they need, and what stands in their lines.

use std::error::Error;
use std::path::Path;

use dylora_tasks::experiment::Experiment;
use dylora_tasks::nn::Method;
use dylora_tasks::paper::Published;
use dylora_tasks::record::{
    CodeVersion, LossCurve, RECORD_FORMAT, RankName, RankScores, Record, Scores, Timing, Trace,
};
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::study::{Recipe, Sheet, Study};
use dylora_tasks::table::{Mark, Table};
use dylora_tasks::tables::{self, Kind, Measure, TableSpec};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

fn study(specs: Vec<TableSpec>) -> Study {
    let recipe = |settings| {
        Some(Recipe {
            settings,
            full_lr: 1e-5,
        })
    };
    let glue = TrainSettings::paper("", Path::new("model"), DataSource::Glue { dir: "data".into() });
    let text = TrainSettings::paper_generation(
        dylora_tasks::generation::GenerationTask::E2e,
        Path::new("model"),
        Path::new("data"),
    );
    Study {
        sheets: specs
            .into_iter()
            .map(|spec| Sheet {
                spec,
                seeds: vec![10, 42],
            })
            .collect(),
        glue: recipe(glue),
        text: recipe(text),
        out: "out".into(),
        profile: "given".into(),
        published: Published::embedded(),
    }
}

/// The record of a run whose metric at rank b is `value(b)`, trained for `seconds`.
fn record(experiment: &Experiment, seconds: f64, value: impl Fn(usize) -> f64) -> Record {
    let settings = experiment.settings.clone();
    let metric = match settings.task.as_str() {
        "cola" => "matthews",
        "sts-b" => "pearson",
        _ => "accuracy",
    };
    let scores = |rank: Option<usize>| RankScores {
        rank: RankName::new(rank),
        scores: Scores(vec![(metric.into(), value(rank.unwrap_or(0)))]),
    };
    let ranks: Vec<RankScores> = settings.ranks().into_iter().map(scores).collect();
    Record {
        trainable: (1..=ranks.len()).map(|place| 1000 * place).collect(),
        format: RECORD_FORMAT,
        code: CodeVersion::current(),
        device: "cpu".into(),
        train_rows: 1,
        steps: 1,
        loss: LossCurve::default(),
        trace: Trace::default(),
        ranks,
        notes: Vec::new(),
        timing: Timing {
            train_seconds: seconds,
            ..Timing::default()
        },
        settings,
    }
}

/// The first table, each of whose runs has a record that `make` gives.
fn filled(study: &Study, make: impl Fn(&Experiment) -> Record) -> TestResult<Table> {
    let sheet = &study.sheets[0];
    let found: Vec<_> = study
        .of_sheet(sheet)?
        .into_iter()
        .map(|experiment| {
            let record = make(&experiment);
            (experiment, Some(record))
        })
        .collect();
    Ok(study.table(sheet, &found)?)
}

fn names(study: &Study) -> TestResult<Vec<String>> {
    let runs = study.runs()?;
    Ok(runs.experiments().iter().map(|each| each.name.clone()).collect())
}

#[test]
fn runs_that_several_tables_need_are_there_once() -> TestResult {
    let table = |name: &str| {
        let mut spec = tables::find(name)?;
        spec.tasks = vec!["mrpc".into()];
        Ok::<_, dylora_tasks::Error>(spec)
    };
    let alone = names(&study(vec![table("table1")?]))?;
    assert_eq!(alone.len(), 12, "six ranks, two seeds");
    assert!(alone.contains(&"mrpc lora rank 1 seed 10".to_owned()), "{alone:?}");
    assert!(
        alone.contains(&"mrpc lora seed 10".to_owned()),
        "rank 8 is the recipe's: {alone:?}"
    );
    // Table 5 has rank 64 and two runs of DyLoRA beside those.
    let both = names(&study(vec![table("table1")?, table("table5")?]))?;
    let new: Vec<_> = both
        .iter()
        .filter(|name| !alone.contains(name) && name.ends_with("seed 10"))
        .collect();
    assert_eq!(new.len(), 3, "{new:?}");
    let all = study(vec![table("table1")?, table("table5")?]);
    let runs = all.runs()?;
    let place = |name: &str| {
        runs.experiments()
            .iter()
            .find(|each| each.name.starts_with(name))
            .map(|each| &each.dir)
    };
    assert_eq!(
        place("mrpc lora rank 16 seed 10").map(|dir| dir.as_path()),
        Some(Path::new("out/mrpc/lora/rank-16/seed-10"))
    );
    let dirs: std::collections::BTreeSet<_> = runs.experiments().iter().map(|each| &each.dir).collect();
    assert_eq!(dirs.len(), runs.experiments().len());
    let numbers: Vec<_> = runs.experiments().iter().map(|each| each.number).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn every_table_of_this_program_has_runs_whose_settings_can_be_used() -> TestResult {
    for spec in tables::all()? {
        let name = spec.name.clone();
        let study = study(vec![spec]);
        let runs = study.runs().map_err(|error| format!("{name}: {error}"))?;
        assert!(!runs.experiments().is_empty(), "{name}");
        if study.sheets[0].spec.kind == Kind::Glue {
            // Every line that a description names is there once its runs are.
            let table = filled(&study, |experiment| record(experiment, 1.0, |rank| rank as f64 / 100.0))?;
            let lines: usize = study.sheets[0].spec.rows.iter().map(|row| row.ranks.len()).sum();
            assert!(
                table.rows.len() >= lines,
                "{name}: {} of {lines} lines",
                table.rows.len()
            );
            for row in &table.rows {
                assert!(row.tasks.iter().all(|(_, cell)| cell.is_some()), "{name}: {row:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_search_takes_each_columns_best_rank_and_the_time_of_all_its_runs() -> TestResult {
    let mut spec = tables::find("table5")?;
    spec.tasks = vec!["mrpc".into(), "cola".into()];
    let study = study(vec![spec]);
    let table = filled(&study, |experiment| {
        let rank = experiment.settings.rank;
        match (experiment.settings.method, experiment.settings.task.as_str()) {
            // LoRA is best trained at 16 for MRPC, at 2 for CoLA; what it is worth at another rank does not count.
            (Method::Lora, task) => record(experiment, 3.0, |at| match (at == rank, task, rank) {
                (false, ..) => 0.99,
                (true, "mrpc", 16) | (true, "cola", 2) => 0.9,
                _ => 0.5,
            }),
            _ => record(experiment, 6.0, |at| if at == 4 { 0.8 } else { 0.7 }),
        }
    })?;
    let cell = |row: usize, task: usize| table.rows[row].tasks[task].1.clone().ok_or("no cell");
    assert_eq!((cell(0, 0)?.mean, cell(0, 0)?.rank), (90.0, Some(16)));
    assert_eq!((cell(0, 1)?.mean, cell(0, 1)?.rank), (90.0, Some(2)));
    assert_eq!((cell(1, 0)?.mean, cell(1, 0)?.rank), (80.0, Some(4)));
    let measure = |row: usize, measure: Measure| {
        let (_, cell) = table.rows[row].measures.iter().find(|(each, _)| *each == measure)?;
        cell.as_ref().map(|cell| cell.mean)
    };
    // Seven ranks and two tasks of 3 s, against two tasks of 6 s.
    assert_eq!(measure(0, Measure::Runs), Some(7.0));
    assert_eq!(measure(0, Measure::Seconds), Some(42.0));
    assert_eq!(measure(0, Measure::TimeRatio), Some(3.5));
    assert_eq!(measure(1, Measure::TimeRatio), Some(1.0));
    assert_eq!(
        measure(2, Measure::TimeRatio),
        Some(3.0),
        "the other block has its own reference"
    );
    Ok(())
}

#[test]
fn means_are_over_ranks_first_and_extremes_are_marked() -> TestResult {
    let mut spec = tables::find("table7")?;
    spec.tasks = vec!["mrpc".into()];
    let summed = study(vec![spec]);
    let table = filled(&summed, |experiment| {
        let seed = experiment.settings.seed as f64 / 1000.0;
        record(experiment, 1.0, |rank| rank as f64 / 100.0 + seed)
    })?;
    // Ranks 1 to 8 are 4.5 on average; seeds 10 and 42 add 1.0 and 4.2.
    let cell = table.rows[0].tasks[0].1.as_ref().ok_or("no cell")?;
    assert!((cell.mean - 7.1).abs() < 1e-9 && cell.runs == 2, "{cell:?}");
    assert!((cell.std - 3.2 / 2f64.sqrt()).abs() < 1e-9, "{cell:?}");
    assert_eq!(table.rows[0].rank, RankName::Mean);

    let mut spec = tables::find("table1")?;
    spec.tasks = vec!["mrpc".into()];
    let table = filled(&study(vec![spec]), |experiment| {
        record(
            experiment,
            1.0,
            |rank| if rank == 4 { 0.9 } else { 0.80 + 1e-7 * rank as f64 },
        )
    })?;
    let marks: Vec<_> = table
        .rows
        .iter()
        .map(|row| row.tasks[0].1.as_ref().and_then(|cell| cell.mark))
        .collect();
    let worst = Some(Mark::Worst);
    assert_eq!(
        marks,
        [worst, worst, Some(Mark::Best), worst, worst, worst],
        "as far as digits show"
    );
    let text = table.to_text();
    assert!(text.contains("90.00 ± 0.00 ▲") && text.contains("Parameters"), "{text}");
    let json = serde_json::to_value(&table)?;
    assert_eq!(json["rows"][2]["variant"], "rank 4");
    assert_eq!(json["rows"][2]["measures"]["parameters"]["mean"], 1000.0);
    Ok(())
}

#[test]
fn a_row_whose_settings_cannot_be_used_is_named_before_anything_starts() -> TestResult {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("own.toml");
    let head = "name = \"own\"\nnumber = \"Own\"\nabout = \"x\"\nkind = \"glue\"\ntasks = [\"rte\"]\n";
    for (set, words) in [
        ("rank_min = 9", "rank-min"),
        ("ranc = 4", "ranc"),
        ("lr = \"fast\"", "fast"),
        ("distribution = \"poisson\"", "poisson"),
    ] {
        std::fs::write(
            &file,
            format!("{head}[[rows]]\nmethod = \"dylora\"\nset = {{ {set} }}\nranks = [1]\n"),
        )?;
        let message = study(vec![tables::read(&file)?])
            .runs()
            .err()
            .map(|error| error.to_string());
        let message = message.unwrap_or_default();
        assert!(message.contains("own, row 1") && message.contains(words), "{message}");
    }
    Ok(())
}
