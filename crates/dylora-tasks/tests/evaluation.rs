//! A finished run is read back: the same metrics at every rank, from its directory alone and the base weights.

mod runs;

use std::fs;
use std::path::PathBuf;

use dylora_tasks::cost::{CostOptions, Costs, Timing, costs_of};
use dylora_tasks::evaluate::{TrainedModel, evaluate};
use dylora_tasks::nn::Method;
use dylora_tasks::prepare::Prepared;
use dylora_tasks::record::RankName;
use dylora_tasks::settings::{DataSource, TrainSettings};
use dylora_tasks::tabular::Columns;
use dylora_tasks::task::Split;
use dylora_tasks::train::{Outcome, RunOptions, train};
use runs::{Fixture, TestResult};

#[test]
fn a_run_read_back_gives_its_record() -> TestResult {
    let fixture = Fixture::new()?;
    let dir = fixture.run("dylora");
    let Outcome::Finished(record) = train(&fixture.settings(), &dir, RunOptions::default(), &mut ())? else {
        return Err("interrupted".into());
    };
    assert_eq!(
        record.ranks.iter().map(|row| row.rank).collect::<Vec<_>>(),
        [1, 2, 3, 4].map(RankName::At)
    );
    assert!(record.trainable.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(record.loss.epochs.len(), 2);

    // The base has moved, and its configuration and tokenizer are not asked for any more.
    let moved = fixture.path().join("moved");
    fs::create_dir(&moved)?;
    fs::rename(
        fixture.model().join("model.safetensors"),
        moved.join("model.safetensors"),
    )?;
    fs::remove_dir_all(fixture.model())?;
    let model = TrainedModel::open(&dir, Some(&moved))?;
    let rows = model.rows(Split::Dev, None)?;
    let dev = [(Split::Dev, model.prepare(&rows)?)];
    let scores = evaluate(&model.classifier, &model.task, &dev, &model.ranks(&[])?, 50, &mut ())?;
    assert_eq!(scores, record.ranks);

    let logits = |rank| model.classifier.logits(&dev[0].1, Some(rank), 50, |_| ());
    assert_ne!(logits(1)?, logits(4)?, "ranks differ");
    for (rank, words) in [(0, "0 is not a rank"), (5, "5 is above the run's rank 4")] {
        let message = model
            .ranks(&[rank])
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(message.contains(words), "{message}");
    }
    Ok(())
}

#[test]
fn what_ranks_cost_is_measured_once_for_an_adapter_and_a_device() -> TestResult {
    let fixture = Fixture::new()?;
    let dir = fixture.run("costs");
    train(&fixture.settings(), &dir, RunOptions::default(), &mut ())?;
    let options = CostOptions {
        timing: Timing {
            rows: 3,
            batches: 2,
            batch_rows: 4,
        },
        ..CostOptions::default()
    };
    assert_eq!(Costs::read(&dir)?, None);
    let first = costs_of(&dir, &options)?;
    assert_eq!(
        first.iter().map(|cost| cost.rank).collect::<Vec<_>>(),
        [1, 2, 3, 4].map(RankName::At)
    );
    for cost in &first {
        let times = [
            Some(cost.latency_ms),
            cost.merged_latency_ms,
            cost.rows_per_second,
            cost.merged_rows_per_second,
        ];
        assert!(times.iter().all(|time| time.is_some_and(|time| time > 0.0)), "{cost:?}");
        assert_eq!(cost.adapter_bytes, 4 * cost.parameters);
    }
    assert!(first.windows(2).all(|pair| pair[0].parameters < pair[1].parameters));

    // Merged and not, the model says the same: 1e-4 is a thousand roundings of logits of about 1.
    let model = TrainedModel::open(&dir, None)?;
    let rows = model.prepare(&model.rows(Split::Dev, None)?)?;
    let beside = model.classifier.logits(&rows, Some(2), 50, |_| ())?;
    let merged = model.classifier.merged(2)?.logits(&rows, None, 50, |_| ())?;
    assert!(
        beside.iter().zip(&merged).all(|(a, b)| (a - b).abs() < 1e-4),
        "{beside:?} {merged:?}"
    );

    // Read again: not even the base model is looked at.
    let weights = fixture.model().join("model.safetensors");
    let aside = fixture.path().join("aside.safetensors");
    fs::rename(&weights, &aside)?;
    assert_eq!(costs_of(&dir, &options)?, first);
    assert_eq!(Costs::read(&dir)?.map(|costs| costs.ranks), Some(first.clone()));
    // Timed otherwise, on another device, for another adapter, or not readable: measured, for which the base is needed.
    let others = CostOptions {
        timing: Timing {
            batches: 1,
            ..options.timing
        },
        ..options.clone()
    };
    assert!(costs_of(&dir, &others).is_err());
    let file = dir.join("costs.json");
    let text = fs::read_to_string(&file)?;
    for changed in [text.replace("cpu, ", "gpu, "), "{".to_owned()] {
        assert_ne!(changed, text);
        fs::write(&file, &changed)?;
        assert!(costs_of(&dir, &options).is_err(), "{changed}");
    }
    fs::write(&file, &text)?;
    let mut adapter = fs::read(dir.join("adapter.safetensors"))?;
    *adapter.last_mut().ok_or("empty")? ^= 1;
    fs::write(dir.join("adapter.safetensors"), adapter)?;
    assert!(costs_of(&dir, &options).is_err());
    assert_eq!(Costs::read(&dir)?, None);
    fs::rename(&aside, &weights)?;
    costs_of(&dir, &options)?;
    assert!(Costs::read(&dir)?.is_some());
    Ok(())
}

#[test]
fn only_the_ranks_asked_for_are_evaluated() -> TestResult {
    let fixture = Fixture::new()?;
    let (every, some) = (fixture.run("every"), fixture.run("some"));
    let settings = TrainSettings {
        eval_ranks: Some(vec![1, 3]),
        ..fixture.settings()
    };
    let Outcome::Finished(all) = train(&fixture.settings(), &every, RunOptions::default(), &mut ())? else {
        return Err("interrupted".into());
    };
    let Outcome::Finished(few) = train(&settings, &some, RunOptions::default(), &mut ())? else {
        return Err("interrupted".into());
    };
    assert_eq!(few.ranks, [all.ranks[0].clone(), all.ranks[2].clone()]);
    assert_eq!(few.trainable, [all.trainable[0], all.trainable[2]]);
    assert_eq!(few.trace, all.trace);
    // The model still has every rank, and answers at the largest unless told otherwise.
    let (all, few) = (TrainedModel::open(&every, None)?, TrainedModel::open(&some, None)?);
    assert_eq!(few.ranks(&[])?, [Some(1), Some(3)]);
    let rows = few.rows(Split::Dev, None)?;
    assert_eq!(few.predict(&rows, None)?, all.predict(&rows, Some(4))?);
    Ok(())
}

#[test]
fn how_rows_share_passes_does_not_matter() -> TestResult {
    let fixture = Fixture::new()?;
    let dir = fixture.run("full");
    let settings = TrainSettings {
        method: Method::Full,
        lr: 1e-3,
        ..fixture.settings()
    };
    train(&settings, &dir, RunOptions::default(), &mut ())?;
    let model = TrainedModel::open(&dir, None)?;
    assert!(model.ranks(&[1]).is_err(), "fine-tuning has no ranks");
    let rows = model.prepare(&model.rows(Split::Dev, None)?)?;
    let one_by_one = model.classifier.logits(&rows, None, 1, |_| ())?;
    let together = model.classifier.logits(&rows, None, 10_000, |_| ())?;
    assert_eq!(one_by_one.len(), rows.len() * 2);
    let last = Prepared {
        encoded: rows.encoded[8..].to_vec(),
        labels: rows.labels[8..].to_vec(),
    };
    let alone = model.classifier.logits(&last, None, 1, |_| ())?;
    assert_eq!(alone, one_by_one[16..], "rows keep their places");
    for (left, right) in one_by_one.iter().zip(&together) {
        assert!((left - right).abs() < 1e-5, "{left} {right}");
    }
    Ok(())
}

#[test]
fn a_run_that_has_not_ended_cannot_be_evaluated() -> TestResult {
    let fixture = Fixture::new()?;
    let dir = fixture.run("stopped");
    train(
        &fixture.settings(),
        &dir,
        RunOptions::default(),
        &mut runs::Watcher::stopping_after(3),
    )?;
    let message = TrainedModel::open(&dir, None)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(message.contains("--resume"), "{message}");
    Ok(())
}

#[test]
fn own_files_with_scores_train_too() -> TestResult {
    let fixture = Fixture::new()?;
    let file = |name: &str, rows: usize| -> std::io::Result<PathBuf> {
        let line = |row: usize| format!("{}.5,the cat sat{}\n", row % 4, " on".repeat(row % 4));
        let path = fixture.path().join(name);
        fs::write(&path, format!("y,text\n{}", (0..rows).map(line).collect::<String>()))?;
        Ok(path)
    };
    let (train_file, dev_file) = (file("train.csv", 16)?, file("dev.csv", 6)?);
    let settings = TrainSettings {
        task: "csv".into(),
        data: DataSource::Files {
            train: train_file,
            dev: dev_file.clone(),
            columns: Columns::parse("text", Some("y"), true)?,
        },
        ..fixture.settings()
    };
    let dir = fixture.run("scores");
    let Outcome::Finished(record) = train(&settings, &dir, RunOptions::default(), &mut ())? else {
        return Err("interrupted".into());
    };
    assert!(record.loss.epochs[1] < record.loss.epochs[0], "{:?}", record.loss);
    assert!(record.ranks.iter().all(|row| row.scores.get("pearson").is_some()));
    let model = TrainedModel::open(&dir, None)?;
    assert_eq!(model.rows(Split::Dev, None)?, model.rows(Split::Dev, Some(&dev_file))?);
    assert!(model.rows(Split::Test, None).is_err(), "own files have no test split");
    Ok(())
}
