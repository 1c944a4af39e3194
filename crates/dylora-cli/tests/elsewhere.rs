//! Several processes on one results directory: every run is trained once, and what a killed process leaves is finished.
#![cfg(unix)]

mod output;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use output::{stderr, stdout};
use serde_json::Value;

/// `dylora reproduce glue`: RTE with these methods, seeds 10 and 42.
fn plan<'a>(methods: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "reproduce",
        "glue",
        "--tasks=rte",
        "--seeds=10,42",
        "--max-train-rows=64",
        "--rank=2",
        "--jobs=1",
    ];
    [&fixed, ["--methods", methods, "--out", out].as_slice(), more].concat()
}

/// Steps enough to be seen at work.
const LONG: [&str; 3] = ["--batch-size=4", "--epochs=6", "--checkpoint-every=1"];

fn start(dir: &Path, flags: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_dylora"))
        .args(flags)
        .env_clear()
        .current_dir(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(dir: &Path, flags: &[&str]) -> Output {
    start(dir, flags).wait_with_output().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The lines that say that a run ended in this process.
fn ended(output: &Output) -> Vec<String> {
    let said = stderr(output);
    let lines = said.lines().filter(|line| line.contains(": accuracy "));
    lines
        .map(|line| line.split(':').next().unwrap_or_default().to_owned())
        .collect()
}

/// Waits until a run is under way or has ended.
fn wait_for(run: &Path) {
    let begun = Instant::now();
    while !run.join("checkpoint.safetensors").exists() && !run.join("record.json").exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} is not begun",
            run.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn processes_share_the_runs_of_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let methods = "lora,dylora,dylora-frozen";
    let alone = stdout(&run(dir, &plan(methods, "alone", &["--epochs=1"])));

    let flags = plan(methods, "shared", &["--epochs=1"]);
    let processes: Vec<Child> = (0..3).map(|_| start(dir, &flags)).collect();
    let outputs: Vec<Output> = processes
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let mut all: Vec<String> = outputs.iter().flat_map(ended).collect();
    all.sort();
    let expected = [
        "rte dylora seed 10",
        "rte dylora seed 42",
        "rte dylora-frozen seed 10",
        "rte dylora-frozen seed 42",
        "rte lora seed 10",
        "rte lora seed 42",
    ];
    let said = outputs.iter().map(stderr).collect::<String>();
    assert_eq!(all, expected, "{said}");
    assert!(outputs.iter().all(|output| output.status.success()), "{said}");
    assert!(outputs.iter().any(|output| stdout(output) == alone), "{said}");
    let rows = |out: &str| json(&dir.join(out).join("table.json"))["rows"].to_string();
    assert_eq!(rows("shared"), rows("alone"));
    for output in &outputs {
        let said = stderr(output);
        assert!(!said.contains("failed"), "{said}");
        let here = ended(output).len();
        if said.contains("6 of 6 runs to do") {
            assert!(said.contains(&format!("{here} runs ended here, ")), "{said}");
        }
    }
    let again = run(dir, &flags);
    assert_eq!(stdout(&again), alone);
    assert!(stderr(&again).contains("0 of 6 runs to do"));
    // Nothing but what one process leaves.
    let names = |out: &str| {
        let mut names: Vec<_> = fs::read_dir(dir.join(out))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("shared"), names("alone"));
}

#[test]
fn what_a_killed_process_was_at_is_finished_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let alone = stdout(&run(dir, &plan("dylora", "alone", &LONG)));

    let flags = plan("dylora", "shared", &LONG);
    let [first, second] = [10, 42].map(|seed| dir.join(format!("shared/rte/dylora/seed-{seed}")));
    let killed = start(dir, &flags);
    wait_for(&first);
    // Its run is in good hands as long as it lives, stopped or not.
    signal(&killed, "-STOP");
    let resumed = run(dir, &["train", "--resume", first.to_str().unwrap()]);
    let said = stderr(&resumed);
    assert_eq!(resumed.status.code(), Some(1), "{said}");
    let by = format!("process {}", killed.id());
    let last = said.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("error: ") && last.contains(&by) && last.contains("seed-10: "),
        "{said}"
    );

    let other = start(dir, &flags);
    wait_for(&second);
    signal(&killed, "-KILL");
    killed.wait_with_output().unwrap();
    let other = other.wait_with_output().unwrap();
    assert_eq!(stdout(&other), alone, "{}", stderr(&other));
    assert!(
        stderr(&other).contains(&format!("rte dylora seed 10: {by}")),
        "{}",
        stderr(&other)
    );
    assert_eq!(ended(&other), ["rte dylora seed 42", "rte dylora seed 10"]);
    assert_eq!(json(&first.join("record.json"))["timing"]["resumed"], 1);
}

#[test]
fn a_run_elsewhere_is_missing_and_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let flags = plan("dylora", "shared", &LONG);
    let first = dir.join("shared/rte/dylora/seed-10");
    let holder = start(dir, &flags);
    wait_for(&first);
    signal(&holder, "-STOP");
    // The first run is held, the second one is done here.
    let output = run(dir, &flags);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    for words in [
        "1 runs ended here, 0 elsewhere, 1 running elsewhere",
        "not in the table yet: rte dylora seed 10; the same command adds them",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(!first.join("record.json").exists());
    // Nothing to do but what is held.
    let output = run(dir, &flags);
    assert!(stderr(&output).contains("0 runs ended here, 0 elsewhere, 1 running elsewhere"));
    signal(&holder, "-CONT");
    let output = holder.wait_with_output().unwrap();
    assert!(
        stderr(&output).contains("1 runs ended here, 1 elsewhere, 0 running elsewhere"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        json(&dir.join("shared/table.json"))["rows"][0]["seeds"].to_string(),
        "[10,42]"
    );
}
