//! `dylora train --task text` and `dylora generate`, as a script meets them.

mod output;
#[path = "../../dylora-tasks/tests/pairs/mod.rs"]
mod pairs;

use std::fs;
use std::process::{Command, Output};

use output::stdout;
use pairs::{Loaded, Place, TestResult};
use serde_json::Value;

fn dylora(args: &[&str]) -> Loaded<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_dylora")).args(args).output()?)
}

/// The last line of stderr of a command that fails.
fn sentence(args: &[&str]) -> Loaded<String> {
    let output = dylora(args)?;
    assert!(!output.status.success() && output.stdout.is_empty());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(stderr.trim_end().lines().last().unwrap_or_default().to_owned())
}

#[test]
fn a_run_is_trained_and_writes_at_any_rank() -> TestResult {
    let place = Place::new()?;
    let path = |name: &str| place.path(name).to_string_lossy().into_owned();
    let (model, train, dev, run) = (path("model"), path("train.jsonl"), path("dev.jsonl"), path("run"));
    let flags = ["train", "--task", "text", "--model", &model, "--train", &train];
    let more = [
        "--dev", &dev, "--out", &run, "--epochs", "2", "--rank", "2", "--lr", "0.01", "--json", "--device", "cpu",
    ];
    let record: Value = serde_json::from_str(&stdout(&dylora(&[&flags[..], &more[..]].concat())?))?;
    let settings = &record["settings"];
    assert_eq!(
        (settings["label_smoothing"].as_f64(), settings["alpha"].as_f64()),
        (Some(0.1), Some(32.0))
    );
    assert_eq!(
        (settings["clip"].as_f64(), settings["warmup_steps"].as_u64()),
        (Some(0.0), Some(500))
    );
    assert_eq!(record["ranks"].as_array().map(Vec::len), Some(2));
    assert!(
        record["ranks"][1]["perplexity"]
            .as_f64()
            .is_some_and(|value| value > 1.0)
    );

    let base = [
        "generate",
        "--run",
        &run,
        "--contexts",
        &dev,
        "--max-new-tokens",
        "8",
        "--device",
        "cpu",
    ];
    let texts = |more: &[&str]| -> Loaded<String> { Ok(stdout(&dylora(&[&base[..], more].concat())?)) };
    let all = [
        texts(&[])?,
        texts(&["--greedy"])?,
        texts(&["--sample", "--top-k", "5", "--seed", "3"])?,
    ];
    for text in &all {
        assert_eq!(text.trim_end_matches('\n').split('\n').count(), 3, "{text:?}");
    }
    assert_eq!(all[2], texts(&["--sample", "--top-k", "5", "--seed", "3"])?);
    assert_ne!(all[2], texts(&["--sample", "--top-k", "5", "--seed", "4"])?);
    let file = path("texts.txt");
    assert_eq!(texts(&["--beams", "3", "--rank", "1", "--out", &file])?, "");
    assert_eq!(fs::read_to_string(&file)?.lines().count(), 3);

    let short = &["--max-new-tokens", "8"][..];
    for (more, named) in [
        ([&["--rank", "3"][..], short].concat(), "--rank: 3 is not in 1..=2"),
        ([&["--beams", "0"][..], short].concat(), "--beams"),
        (
            [&["--sample", "--temperature", "0"][..], short].concat(),
            "--temperature",
        ),
        (vec!["--max-new-tokens", "80"], "--max-new-tokens"),
    ] {
        let found = sentence(&[&base[..5], &more].concat())?;
        assert!(found.contains(named), "{named}: {found}");
    }
    assert!(sentence(&["eval", "--run", &run])?.contains("--task text"));
    assert!(sentence(&[&flags[..5], &["--out", &path("other")]].concat())?.contains("--train and --dev"));
    fs::write(place.path("bad.jsonl"), "{\"context\": \"a\"}\n")?;
    let bad = path("bad.jsonl");
    let found = sentence(&[&flags[..6], &[&bad, "--dev", &dev, "--out", &path("other")]].concat())?;
    assert!(found.contains("bad.jsonl, line 1"), "{found}");
    Ok(())
}
