//! Runs of the method `flop`: the target is reached, what is dropped is gone, and the rest of the program knows such a run.
#![allow(clippy::print_stdout)] // says what was not run

mod runs;

use std::env;
use std::fs;
use std::path::Path;

use dylora_tasks::adapter::{ExportFormat, export, inspect};
use dylora_tasks::evaluate::{TrainedModel, evaluate};
use dylora_tasks::experiment::PlanOptions;
use dylora_tasks::nn::Method;
use dylora_tasks::record::{RankName, Record};
use dylora_tasks::run_dir::RunDir;
use dylora_tasks::settings::TrainSettings;
use dylora_tasks::study::Plan;
use dylora_tasks::task::Split;
use dylora_tasks::train::{Outcome, RunOptions, train};
use runs::{Fixture, TestResult, Watcher};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn finished(settings: &TrainSettings, dir: &Path) -> Fallible<Record> {
    match train(settings, dir, RunOptions::default(), &mut ())? {
        Outcome::Finished(record) => Ok(*record),
        Outcome::Interrupted { .. } => Err("interrupted".into()),
    }
}

/// 180 steps: the defaults' rates follow from their number.
fn settings(fixture: &Fixture) -> TrainSettings {
    TrainSettings {
        method: Method::Flop,
        lr: 1e-3,
        epochs: 30,
        ..fixture.settings()
    }
}

/// The two sparsities of a record's note.
fn sparsities(record: &Record) -> Fallible<(f64, f64)> {
    let note = record.notes.first().ok_or("no note")?;
    let after = |words: &str| -> Fallible<f64> {
        let rest = note.split(words).nth(1).ok_or("the note says nothing of it")?;
        Ok(rest.split([' ', ',']).next().unwrap_or_default().parse()?)
    };
    Ok((after("a sparsity of ")?, after(", and ")?))
}

#[test]
fn the_target_is_reached_and_equal_seeds_give_equal_bytes() -> TestResult {
    let fixture = Fixture::new()?;
    for target in [0.3, 0.55] {
        let settings = TrainSettings {
            target_sparsity: target,
            ..settings(&fixture)
        };
        let (first, second) = (fixture.run(&format!("{target}-a")), fixture.run(&format!("{target}-b")));
        let record = finished(&settings, &first)?;
        let (sparsity, expected) = sparsities(&record)?;
        // The multipliers still swing a little around the target when a run ends; closed gates are whole ones, at most half a
        // component per layer away from their expectation.
        assert!((expected - target).abs() < 0.05, "{target}: expected {expected}");
        assert!(
            (sparsity - expected).abs() < 0.06,
            "{target}: {sparsity} for {expected}"
        );
        assert_eq!(record.ranks.len(), 1);
        assert_eq!(record.ranks[0].rank, RankName::Full);
        // Everything but the linear layers: 17 + 24 + 2 rows of 16, five norms, biases, pooler and classifier.
        let rest = (17 + 24 + 2) * 16 + 5 * 32 + 2 * (5 * 16 + 32) + (16 * 16 + 16) + (2 * 16 + 2);
        let dense = 2 * (4 * 16 * 16 + 2 * 16 * 32);
        let left = ((1.0 - sparsity) * f64::from(dense)).round() as usize;
        assert!(record.trainable[0].abs_diff(rest as usize + left) <= 1, "{record:?}");

        finished(&settings, &second)?;
        let bytes = |run: &Path| -> Fallible<Vec<u8>> { Ok(fs::read(RunDir::open(run)?.adapter())?) };
        assert_eq!(bytes(&first)?, bytes(&second)?);
        let other = fixture.run(&format!("{target}-c"));
        finished(&TrainSettings { seed: 11, ..settings }, &other)?;
        assert_ne!(bytes(&first)?, bytes(&other)?);
    }
    Ok(())
}

#[test]
fn a_pruned_run_is_evaluated_predicted_exported_and_looked_at() -> TestResult {
    let fixture = Fixture::new()?;
    let run = fixture.run("flop");
    let record = finished(&settings(&fixture), &run)?;
    let model = TrainedModel::open(&run, None)?;
    let rows = model.rows(Split::Dev, None)?;
    let budget = model.settings.token_budget;
    let splits = [(Split::Dev, model.prepare(&rows)?)];
    let found = evaluate(
        &model.classifier,
        &model.task,
        &splits,
        &model.ranks(&[])?,
        budget,
        &mut (),
    )?;
    assert_eq!(found, record.ranks, "the record's numbers are the pruned model's");
    let refused = |message: Fallible<()>| message.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused(model.ranks(&[2]).map(drop).map_err(Into::into)).contains("has no ranks"));

    // A directory like any other, whose model says the same.
    let (merged, peft) = (fixture.path().join("merged"), fixture.path().join("peft"));
    export(&run, None, &merged, ExportFormat::Merged, None, false)?;
    let again = TrainSettings {
        method: Method::Lora,
        model: merged,
        lr: 0.0,
        epochs: 1,
        ..settings(&fixture)
    };
    let plain = fixture.run("plain");
    finished(&again, &plain)?;
    let plain = TrainedModel::open(&plain, None)?;
    for (pruned, plain) in model.predict(&rows, None)?.iter().zip(plain.predict(&rows, None)?) {
        for (pruned, plain) in pruned.logits.iter().zip(plain.logits) {
            // f32 sums over widths of 16 and 32 in another order.
            assert!((pruned - plain).abs() < 1e-5, "{pruned} {plain}");
        }
    }
    let message = refused(
        export(&run, None, &peft, ExportFormat::Peft, None, false)
            .map(drop)
            .map_err(Into::into),
    );
    assert!(message.contains("has no adapter"), "{message}");

    let contents = inspect(&run)?;
    assert_eq!(contents.facts["remaining parameters"], record.trainable[0]);
    assert!(!contents.facts.contains_key("ranks"));
    assert!(contents.tensors.iter().any(|kind| kind.name == "gates.log_alpha"));
    Ok(())
}

#[test]
fn a_plan_has_it_beside_other_methods() -> TestResult {
    let fixture = Fixture::new()?;
    let plan = Plan {
        recipe: TrainSettings {
            rank: 2,
            epochs: 1,
            ..fixture.settings()
        },
        full_lr: 1e-3,
        tasks: vec!["mrpc".into()],
        methods: vec![Method::Lora, Method::Full, Method::Flop],
        seeds: vec![10],
        out: fixture.path().join("out"),
        profile: "given".into(),
    };
    let estimate = plan.measure(&plan.check_data()?, 1)?;
    assert_eq!(estimate.runs.len(), 3);
    assert!(estimate.runs[2].name.contains("flop") && estimate.runs[2].seconds() > 0.0);
    let summary = plan.run(PlanOptions::default(), &std::sync::Mutex::new(Watcher::default()))?;
    assert_eq!((summary.ran, summary.failed.len()), (3, 0));
    let runs = plan.runs()?;
    let settings = &runs.experiments()[2].settings;
    assert_eq!((settings.method, settings.lr), (Method::Flop, 1e-3));
    let table = plan.table(None)?;
    let last = table.rows.last().ok_or("no rows")?;
    assert_eq!((last.method, last.rank), (Method::Flop, RankName::Full));
    assert!(table.to_text().contains("FLOP"));
    Ok(())
}

/// A real encoder: factors give back its matrices; sixty steps do not reach the target, but prune, and the gates' expectation
/// is what is dropped.
#[test]
fn minilm_is_pruned() -> TestResult {
    let Some(model) = env::var_os("DYLORA_TEST_MODEL") else {
        println!("not run: pruning a real encoder needs DYLORA_TEST_MODEL");
        return Ok(());
    };
    let fixture = Fixture::new()?;
    let settings = TrainSettings {
        model: model.into(),
        epochs: 10,
        lr: 2e-5,
        token_budget: 512,
        ..settings(&fixture)
    };
    let record = finished(&settings, &fixture.run("minilm"))?;
    let (sparsity, expected) = sparsities(&record)?;
    assert!(
        (0.1..0.6).contains(&sparsity) && (sparsity - expected).abs() < 0.05,
        "{sparsity} {expected}"
    );
    assert!(
        record.loss.epochs.iter().all(|loss| loss.is_finite() && *loss < 2.0),
        "{:?}",
        record.loss
    );
    Ok(())
}
