//! A list of runs: what is there is kept, what was stopped goes on, what fails does not stop the rest.

mod runs;

use std::fs;
use std::sync::Mutex;

use dylora_tasks::experiment::PlanOptions;
use dylora_tasks::nn::Method;
use dylora_tasks::record::RankName;
use dylora_tasks::settings::TrainSettings;
use dylora_tasks::study::Plan;
use dylora_tasks::train::{RunOptions, train};
use runs::{Fixture, TestResult, Watcher};

fn plan(fixture: &Fixture) -> Plan {
    Plan {
        recipe: TrainSettings {
            rank: 2,
            epochs: 1,
            ..fixture.settings()
        },
        full_lr: 1e-3,
        tasks: vec!["mrpc".into()],
        methods: vec![Method::Lora, Method::DyLora, Method::Full],
        seeds: vec![10, 42],
        out: fixture.path().join("out"),
        profile: "given".into(),
    }
}

fn seen(watched: Mutex<Watcher>) -> Watcher {
    watched.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[test]
fn runs_that_are_there_are_skipped_and_stopped_ones_go_on() -> TestResult {
    let fixture = Fixture::new()?;
    let plan = plan(&fixture);
    let runs = plan.runs()?;
    let experiments = runs.experiments();
    assert_eq!(experiments.len(), 6);
    assert!(experiments[3].dir.ends_with("mrpc/dylora/seed-42"));
    train(
        &experiments[0].settings,
        &experiments[0].dir,
        RunOptions::default(),
        &mut (),
    )?;
    let kept = fs::read(experiments[0].dir.join("record.json"))?;

    let watched = Mutex::new(Watcher::stopping_after(3));
    let summary = plan.run(PlanOptions::default(), &watched)?;
    let watched = seen(watched);
    assert!(summary.interrupted);
    assert_eq!((summary.ran, summary.skipped, watched.steps.len()), (0, 1, 3));

    let watched = Mutex::new(Watcher::default());
    let summary = plan.run(PlanOptions::default(), &watched)?;
    let watched = seen(watched);
    assert_eq!((summary.ran, summary.skipped, summary.failed.len()), (5, 1, 0));
    assert_eq!(watched.experiments[0], "mrpc lora seed 42");
    assert_eq!(watched.steps[0].0, 4, "the stopped run goes on after its third step");
    assert_eq!(fs::read(experiments[0].dir.join("record.json"))?, kept);
    assert_eq!(plan.run(PlanOptions::default(), &())?.skipped, 6);

    let table = plan.table(None)?;
    let ranks: Vec<_> = table.rows.iter().map(|row| row.rank).collect();
    let expected = [
        RankName::At(1),
        RankName::At(1),
        RankName::At(2),
        RankName::At(2),
        RankName::Best,
        RankName::Best,
    ];
    assert_eq!(ranks[..6], expected);
    assert_eq!(ranks[6..], [RankName::Full]);
    assert!(table.rows.iter().all(|row| row.seeds == [10, 42]));
    Ok(())
}

#[test]
fn a_run_that_fails_is_reported_and_the_next_one_runs() -> TestResult {
    let fixture = Fixture::new()?;
    let plan = Plan {
        full_lr: 1e30,
        seeds: vec![10],
        ..plan(&fixture)
    };
    let plan = Plan {
        recipe: TrainSettings {
            warmup_ratio: 0.0,
            ..plan.recipe
        },
        methods: vec![Method::Full, Method::DyLora],
        ..plan
    };
    let watched = Mutex::new(Watcher::default());
    let summary = plan.run(PlanOptions::default(), &watched)?;
    let watched = seen(watched);
    assert_eq!((summary.ran, summary.failed.len()), (1, 1));
    assert_eq!(summary.failed[0].0, "mrpc full seed 10");
    assert!(watched.failures[0].contains("at step"), "{:?}", watched.failures);
    assert!(plan.table(None)?.rows.iter().all(|row| row.method == Method::DyLora));
    Ok(())
}

#[test]
fn runs_of_other_settings_are_not_mixed_up() -> TestResult {
    let fixture = Fixture::new()?;
    let first = Plan {
        methods: vec![Method::Lora],
        seeds: vec![10],
        ..plan(&fixture)
    };
    first.run(PlanOptions::default(), &())?;
    let second = Plan {
        recipe: TrainSettings {
            epochs: 2,
            ..first.recipe.clone()
        },
        ..first
    };
    let message = second
        .run(PlanOptions::default(), &())
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(message.contains("epochs 1, not 2"), "{message}");
    Ok(())
}

#[test]
fn lists_and_data_are_checked_before_anything_runs() -> TestResult {
    let fixture = Fixture::new()?;
    let base = plan(&fixture);
    let refused = |plan: Plan| plan.runs().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(
        refused(Plan {
            tasks: vec!["mrcp".into()],
            ..base.clone()
        })
        .contains("mrpc, cola")
    );
    assert!(
        refused(Plan {
            seeds: vec![10, 42, 10],
            ..base.clone()
        })
        .contains("10 is named twice")
    );
    assert!(
        refused(Plan {
            methods: vec![],
            ..base.clone()
        })
        .contains("--methods")
    );
    let work = base.check_data()?;
    assert!(work.len() == 1 && work[0].task == "mrpc");
    assert_eq!((work[0].train.rows, work[0].eval.rows), (22, 9));
    assert!(work[0].train.tokens > 22.0 * 9.0, "{}", work[0].train.tokens);
    fs::write(fixture.data().join("MRPC/dev.tsv"), "")?;
    assert!(
        base.check_data()
            .is_err_and(|error| error.to_string().contains("dev.tsv is empty"))
    );
    Ok(())
}
