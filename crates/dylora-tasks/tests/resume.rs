//! A run that is stopped and taken up again ends with the same bytes as one that is not.

mod runs;

use std::fs;

use dylora_tasks::nn::{Method, Objective, ScaleRule, Update};
use dylora_tasks::run_dir::RunDir;
use dylora_tasks::settings::{Optimizer, TrainSettings};
use dylora_tasks::tensorboard;
use dylora_tasks::train::{Outcome, RunOptions, resume, train};
use runs::{Fixture, TestResult, Watcher};

/// Trains without interruption, then with one after each of `stops`, and compares.
fn stopped_equals_whole(settings: &TrainSettings, fixture: &Fixture, name: &str, stops: &[u64]) -> TestResult {
    let whole = fixture.run(&format!("{name}-whole"));
    let mut watched = Watcher::default();
    let outcome = train(settings, &whole, RunOptions::default(), &mut watched)?;
    let Outcome::Finished(expected) = outcome else {
        return Err("the whole run was interrupted".into());
    };
    assert_eq!(expected.steps, 12);
    assert_eq!(watched.steps.len(), 12);
    assert_eq!(watched.checkpoints, [6, 12]);

    let parts = fixture.run(&format!("{name}-parts"));
    let mut seen = Watcher::stopping_after(stops[0]);
    let mut outcome = train(settings, &parts, RunOptions::default(), &mut seen)?;
    let mut steps = seen.steps;
    for stop in stops[1..].iter().map(Some).chain([None]) {
        assert!(matches!(outcome, Outcome::Interrupted { step, of: 12 } if step == steps.len() as u64));
        let mut seen = Watcher {
            stop_after: stop.copied(),
            ..Watcher::default()
        };
        outcome = resume(&parts, Some(settings), RunOptions::default(), &mut seen)?;
        steps.extend(seen.steps);
    }
    let Outcome::Finished(record) = outcome else {
        return Err("the resumed run did not end".into());
    };

    assert_eq!(steps, watched.steps, "losses and ranks, step by step");
    let bytes =
        |run: &std::path::Path| fs::read(RunDir::open(run)?.adapter()).map_err(Box::<dyn std::error::Error>::from);
    assert_eq!(bytes(&parts)?, bytes(&whole)?, "trained tensors");
    assert_eq!(record.ranks, expected.ranks);
    assert_eq!(record.loss, expected.loss);
    assert_eq!(
        serde_json::to_string(&record.trace)?,
        serde_json::to_string(&expected.trace)?
    );
    assert_eq!(record.trace.step, (1..=12).collect::<Vec<_>>());
    let drawn = |rank| steps.iter().filter(|step| step.2 == Some(rank)).count() as u64;
    let drawn: Vec<_> = (1..=4)
        .map(|rank| (rank, drawn(rank)))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(record.trace.ranks.into_iter().collect::<Vec<_>>(), drawn);
    let seen = tensorboard::read(&whole)?;
    assert_eq!(tensorboard::read(&parts)?, seen, "every step once, in its place");
    let losses = seen.iter().filter(|scalar| scalar.tag == "train/loss");
    let expected: Vec<_> = steps.iter().map(|(step, loss, _)| (*step, *loss as f32)).collect();
    assert_eq!(
        losses.map(|scalar| (scalar.step, scalar.value)).collect::<Vec<_>>(),
        expected
    );
    let metrics = seen.iter().filter(|scalar| scalar.tag.starts_with("dev/accuracy"));
    assert_eq!(metrics.count(), record.ranks.len());
    assert_eq!(record.timing.resumed as usize, stops.len());
    Ok(())
}

#[test]
fn dylora_stops_at_any_step() -> TestResult {
    let fixture = Fixture::new()?;
    for stop in [1, 5, 6, 7, 11] {
        stopped_equals_whole(&fixture.settings(), &fixture, &format!("at-{stop}"), &[stop])?;
    }
    Ok(())
}

#[test]
fn every_method_stops_twice() -> TestResult {
    let fixture = Fixture::new()?;
    let base = fixture.settings();
    let cases = [
        (
            "frozen",
            TrainSettings {
                method: Method::DyLoraFrozen,
                scale: ScaleRule::OverSqrtB,
                ..base.clone()
            },
        ),
        (
            "dense",
            TrainSettings {
                update: Update::Dense,
                optimizer: Optimizer::HuggingFace4,
                ..base.clone()
            },
        ),
        (
            "lora",
            TrainSettings {
                method: Method::Lora,
                ..base.clone()
            },
        ),
        (
            "full",
            TrainSettings {
                method: Method::Full,
                lr: 1e-3,
                ..base.clone()
            },
        ),
        (
            "flop",
            TrainSettings {
                method: Method::Flop,
                lr: 1e-3,
                gate_lr: Some(0.3),
                ..base.clone()
            },
        ),
        (
            "sum",
            TrainSettings {
                objective: Objective::Summation,
                scale: ScaleRule::OverR,
                clip: 0.0,
                ..base.clone()
            },
        ),
    ];
    for (name, settings) in cases {
        stopped_equals_whole(&settings, &fixture, name, &[3, 8])?;
    }
    Ok(())
}

#[test]
fn a_point_of_the_trace_that_was_begun_is_ended_after_a_stop() -> TestResult {
    let fixture = Fixture::new()?;
    let settings = TrainSettings {
        batch_size: 1,
        epochs: 10,
        eval_ranks: Some(vec![4]),
        ..fixture.settings()
    };
    let Outcome::Finished(whole) = train(&settings, &fixture.run("whole"), RunOptions::default(), &mut ())? else {
        return Err("interrupted".into());
    };
    // Of 220 steps every second one ends a point.
    assert_eq!(whole.trace.step, (1..=110).map(|point| 2 * point).collect::<Vec<_>>());
    let parts = fixture.run("parts");
    train(
        &settings,
        &parts,
        RunOptions::default(),
        &mut Watcher::stopping_after(101),
    )?;
    let Outcome::Finished(record) = resume(&parts, None, RunOptions::default(), &mut ())? else {
        return Err("interrupted".into());
    };
    assert_eq!(record.timing.resumed, 1);
    assert_eq!(
        serde_json::to_string(&record.trace)?,
        serde_json::to_string(&whole.trace)?
    );
    Ok(())
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint_or_from_the_start() -> TestResult {
    let fixture = Fixture::new()?;
    let settings = fixture.settings();
    let whole = fixture.run("whole");
    train(&settings, &whole, RunOptions::default(), &mut ())?;
    let expected = fs::read(RunDir::open(&whole)?.adapter())?;
    // Killed before the first checkpoint, while one was being written.
    let killed = fixture.run("killed");
    train(
        &settings,
        &killed,
        RunOptions::default(),
        &mut Watcher::stopping_after(2),
    )?;
    let run = RunDir::open(&killed)?;
    fs::rename(run.checkpoint(), killed.join(".checkpoint.safetensors.tmp"))?;
    fs::write(killed.join(".task.json.tmp"), "{")?;
    resume(&killed, None, RunOptions::default(), &mut ())?;
    assert_eq!(fs::read(run.adapter())?, expected);
    assert_eq!(tensorboard::read(&killed)?, tensorboard::read(&whole)?);
    let mut names: Vec<_> = fs::read_dir(&killed)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.retain(|name| !name.to_string_lossy().starts_with("events.out.tfevents."));
    names.sort();
    assert_eq!(
        names,
        [
            ".lock",
            "adapter.safetensors",
            "model",
            "record.json",
            "run.toml",
            "settings.json",
            "task.json"
        ]
    );
    Ok(())
}

#[test]
fn checkpoints_come_as_often_as_asked() -> TestResult {
    let fixture = Fixture::new()?;
    let mut watched = Watcher::default();
    let options = RunOptions {
        checkpoint_every: Some(4),
        ..RunOptions::default()
    };
    train(&fixture.settings(), &fixture.run("often"), options, &mut watched)?;
    assert_eq!(watched.checkpoints, [4, 6, 8, 12]);
    Ok(())
}

#[test]
fn a_finished_run_is_read_and_not_run_again() -> TestResult {
    let fixture = Fixture::new()?;
    let dir = fixture.run("once");
    let settings = fixture.settings();
    let first = train(&settings, &dir, RunOptions::default(), &mut ())?;
    let written = fs::metadata(dir.join("record.json"))?.modified()?;
    let mut watched = Watcher::default();
    assert_eq!(
        resume(&dir, Some(&settings), RunOptions::default(), &mut watched)?,
        first
    );
    assert!(watched.steps.is_empty());
    assert_eq!(fs::metadata(dir.join("record.json"))?.modified()?, written);
    let record = RunDir::open(&dir)?.record()?;
    assert!(
        RunDir::open(&dir)?.write_record(&record).is_err(),
        "a record is never overwritten"
    );
    Ok(())
}

#[test]
fn other_settings_do_not_resume_a_run() -> TestResult {
    let fixture = Fixture::new()?;
    let dir = fixture.run("settings");
    train(
        &fixture.settings(),
        &dir,
        RunOptions::default(),
        &mut Watcher::stopping_after(2),
    )?;
    let other = TrainSettings {
        seed: 11,
        ..fixture.settings()
    };
    let error = resume(&dir, Some(&other), RunOptions::default(), &mut ())
        .err()
        .map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("seed 10") && error.contains("seed 11")));
    Ok(())
}
