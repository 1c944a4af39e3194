//! Runs beside each other end with the bytes of runs one after the other, and do not disturb each other.

mod runs;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use dylora_tasks::experiment::{Experiment, PlanOptions, Summary};
use dylora_tasks::nn::Method;
use dylora_tasks::progress::{Event, Observer, Observers};
use dylora_tasks::record::{Record, Timing};
use dylora_tasks::settings::TrainSettings;
use dylora_tasks::study::Plan;
use runs::{Fixture, TestResult, Watcher};

/// Two tasks on the same kind of rows, so that runs differ in length and data.
fn plan(fixture: &Fixture, out: &str) -> Result<Plan, std::io::Error> {
    let rte = fixture.data().join("RTE");
    fs::create_dir_all(&rte)?;
    for (name, rows) in [("train.tsv", 13), ("dev.tsv", 5)] {
        let line = |row: usize| {
            let label = if row.is_multiple_of(2) {
                "entailment"
            } else {
                "not_entailment"
            };
            format!("{row}\tthe cat sat\t{}the dog ran\t{label}\n", "big ".repeat(row % 4))
        };
        let lines: String = (0..rows).map(line).collect();
        fs::write(rte.join(name), format!("index\tsentence1\tsentence2\tlabel\n{lines}"))?;
    }
    Ok(Plan {
        recipe: TrainSettings {
            rank: 2,
            ..fixture.settings()
        },
        full_lr: 1e-3,
        tasks: vec!["mrpc".into(), "rte".into()],
        methods: vec![Method::DyLora, Method::Full],
        seeds: vec![10, 42],
        out: fixture.path().join(out),
        profile: "given".into(),
    })
}

fn jobs(jobs: usize) -> PlanOptions {
    PlanOptions {
        jobs,
        ..PlanOptions::default()
    }
}

/// What a run leaves, without what may differ: when and on how many threads it ran.
fn result(experiment: &Experiment) -> Result<(Record, Vec<u8>), Box<dyn std::error::Error>> {
    let record = experiment.record()?.ok_or("no record")?;
    let record = Record {
        device: String::new(),
        timing: Timing::default(),
        ..record
    };
    Ok((record, fs::read(experiment.dir.join("adapter.safetensors"))?))
}

/// Every run of both plans has ended, and to the same bytes.
fn same_results(one: &Plan, other: &Plan) -> TestResult {
    let (one, other) = (one.runs()?, other.runs()?);
    let (one, other) = (one.experiments(), other.experiments());
    assert_eq!(one.len(), other.len());
    let mut seen = Vec::new();
    for (one, other) in one.iter().zip(other) {
        let (expected, found) = (result(one)?, result(other)?);
        assert_eq!(expected.0, found.0, "{}", one.name);
        assert!(
            expected.1 == found.1,
            "{}: trained tensors differ from those of a single job",
            one.name
        );
        assert!(!seen.contains(&found.1), "{}: two runs of equal bytes", one.name);
        seen.push(found.1);
    }
    Ok(())
}

fn ended(summary: &Summary) -> (usize, usize, usize, bool) {
    (summary.ran, summary.skipped, summary.failed.len(), summary.interrupted)
}

#[test]
fn two_jobs_give_the_bytes_of_one() -> TestResult {
    let fixture = Fixture::new()?;
    let (alone, beside, many) = (plan(&fixture, "1")?, plan(&fixture, "2")?, plan(&fixture, "9")?);
    // With two threads in all, one job has kernels on both, and each of two jobs has one.
    let pool = rayon_pool(2)?;
    let summary = pool.install(|| alone.run(jobs(1), &()))?;
    assert_eq!(ended(&summary), (8, 0, 0, false));
    let summary = pool.install(|| beside.run(jobs(2), &()))?;
    assert_eq!(ended(&summary), (8, 0, 0, false));
    same_results(&alone, &beside)?;
    pool.install(|| many.run(jobs(9), &()))?;
    same_results(&alone, &many)?;
    let device = |plan: &Plan| -> Result<String, Box<dyn std::error::Error>> {
        Ok(plan.runs()?.experiments()[0].record()?.ok_or("no record")?.device)
    };
    assert_eq!(device(&alone)?, "cpu, 2 threads");
    assert_eq!(device(&beside)?, "cpu, 1 threads");
    Ok(())
}

fn rayon_pool(threads: usize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build()
}

#[test]
fn two_interrupted_jobs_go_on_to_the_same_bytes() -> TestResult {
    let fixture = Fixture::new()?;
    let (whole, parts) = (plan(&fixture, "whole")?, plan(&fixture, "parts")?);
    whole.run(jobs(1), &())?;

    // Steps of both runs are seen by one watcher; the first run to reach step 3 stops both.
    let watched = Mutex::new(Watcher::stopping_after(3));
    let summary = parts.run(jobs(2), &watched)?;
    assert!(summary.interrupted && summary.failed.is_empty());
    assert_eq!(summary.ran, 0);
    let seen = watched.into_inner()?;
    assert!((1..=2).contains(&seen.experiments.len()), "{:?}", seen.experiments);
    let runs = parts.runs()?;
    let stopped: Vec<_> = runs
        .experiments()
        .iter()
        .filter(|experiment| experiment.dir.join("checkpoint.safetensors").is_file())
        .collect();
    assert_eq!(
        stopped.len(),
        seen.experiments.len(),
        "each run that began left a checkpoint"
    );
    assert_eq!(seen.checkpoints.len(), stopped.len());

    let summary = parts.run(jobs(2), &())?;
    assert_eq!(ended(&summary), (8, 0, 0, false));
    same_results(&whole, &parts)?;
    let resumed = |experiment: &Experiment| -> Result<u32, Box<dyn std::error::Error>> {
        Ok(experiment.record()?.ok_or("no record")?.timing.resumed)
    };
    for experiment in &stopped {
        assert_eq!(resumed(experiment)?, 1, "{}", experiment.name);
    }
    Ok(())
}

/// Panics in the steps of one run.
struct Tripping {
    failures: Mutex<Vec<String>>,
}

struct TrippingRun<'a> {
    of: &'a Tripping,
    name: String,
}

impl Observers for Tripping {
    fn of_run(&self) -> Box<dyn Observer + Send + '_> {
        Box::new(TrippingRun {
            of: self,
            name: String::new(),
        })
    }
}

impl Observer for TrippingRun<'_> {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Experiment { name, .. } => self.name = name.to_owned(),
            Event::Step { step: 2, .. } if self.name == "mrpc dylora seed 42" => panic!("tripped over step 2"),
            Event::ExperimentFailed { name, error } => {
                assert_eq!(name, self.name, "told to the run's own observer");
                if let Ok(mut failures) = self.of.failures.lock() {
                    failures.push(error.to_string());
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_run_that_fails_or_panics_stops_no_other() -> TestResult {
    let fixture = Fixture::new()?;
    let plan = Plan {
        full_lr: 1e30,
        ..plan(&fixture, "out")?
    };
    let plan = Plan {
        recipe: TrainSettings {
            warmup_ratio: 0.0,
            ..plan.recipe
        },
        ..plan
    };
    let watched = Tripping {
        failures: Mutex::default(),
    };
    let summary = plan.run(jobs(2), &watched)?;
    assert_eq!(ended(&summary), (3, 0, 5, false));
    let failed: Vec<_> = summary.failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        failed,
        [
            "mrpc dylora seed 42",
            "mrpc full seed 10",
            "mrpc full seed 42",
            "rte full seed 10",
            "rte full seed 42"
        ]
    );
    let message = summary.failed[0].1.to_string();
    assert!(message.contains("tripped over step 2"), "{message}");
    let failures = watched.failures.into_inner()?;
    assert_eq!(failures.len(), 5);
    assert!(failures.contains(&message), "{failures:?}");
    Ok(())
}

/// Takes a task's rows away once the first run has them.
struct Removing<'a>(&'a Path);

impl Observer for Removing<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Started { .. } = event {
            // The second run finds nothing to remove.
            let _ = fs::remove_file(self.0.join("train.tsv"));
        }
    }
}

#[test]
fn rows_are_read_once_per_task() -> TestResult {
    let fixture = Fixture::new()?;
    let plan = Plan {
        tasks: vec!["mrpc".into()],
        ..plan(&fixture, "out")?
    };
    let folder = fixture.data().join("MRPC");
    let summary = plan.run(jobs(2), &Mutex::new(Removing(&folder)))?;
    assert_eq!(ended(&summary), (4, 0, 0, false));
    assert!(!folder.join("train.tsv").exists());
    Ok(())
}

#[test]
fn no_jobs_are_refused() -> TestResult {
    let fixture = Fixture::new()?;
    let plan = plan(&fixture, "out")?;
    let message = plan.run(jobs(0), &()).err().map(|error| error.to_string());
    assert_eq!(
        message.as_deref(),
        Some("--jobs: 0 runs at a time do nothing; the smallest is 1")
    );
    assert!(!plan.out.exists());
    assert_eq!(
        rayon_pool(3)?.install(|| plan.runs()?.auto_jobs())?,
        3,
        "a narrow encoder"
    );
    let config = fixture.model().join("config.json");
    let wide = fs::read_to_string(&config)?.replace("\"hidden_size\": 16", "\"hidden_size\": 258");
    fs::write(&config, wide)?;
    assert_eq!(rayon_pool(3)?.install(|| plan.runs()?.auto_jobs())?, 1, "a wide one");
    Ok(())
}

#[test]
fn an_estimate_is_measured_and_grows_with_the_work() -> TestResult {
    let fixture = Fixture::new()?;
    let short = plan(&fixture, "out")?;
    let sizes = short.check_data()?;
    let estimate = short.measure(&sizes, 2)?;
    let names: Vec<_> = short
        .runs()?
        .experiments()
        .iter()
        .map(|each| each.name.clone())
        .collect();
    assert_eq!(
        estimate.runs.iter().map(|run| &run.name).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    assert_eq!(estimate.jobs, 2);
    assert!(estimate.train_tokens_per_second > 0.0 && estimate.eval_per_second[0].1 > 0.0);
    let whole: f64 = estimate.runs.iter().map(|run| run.seconds()).sum();
    assert!(
        estimate
            .runs
            .iter()
            .all(|run| run.train_seconds > 0.0 && run.eval_seconds > 0.0)
    );
    assert!(
        estimate.seconds > 0.49 * whole && estimate.seconds < whole,
        "{estimate:?}"
    );
    assert!(!short.out.exists(), "nothing is written");

    let long = Plan {
        recipe: TrainSettings {
            epochs: 200,
            ..short.recipe.clone()
        },
        ..short.clone()
    };
    let more = long.measure(&sizes, 2)?.seconds / estimate.seconds;
    // A hundred times the training; a busy machine measures unevenly.
    assert!((10.0..1000.0).contains(&more), "{more} times as long");

    // What is done is not counted.
    short.run(PlanOptions::default(), &Mutex::new(Watcher::stopping_after(9)))?;
    let rest = short.measure(&sizes, 2)?;
    assert_eq!(rest.runs.len(), 8);
    assert!(
        rest.runs[0].train_seconds < rest.runs[1].train_seconds / 2.0,
        "{rest:?}"
    );
    short.run(jobs(2), &())?;
    let none = short.measure(&sizes, 2)?;
    assert!(none.runs.is_empty() && none.seconds == 0.0);
    Ok(())
}
