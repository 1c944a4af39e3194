//! The command as a person or a script meets it: exit status, stdout, one sentence on stderr.

mod output;
#[path = "../../dylora-tasks/tests/runs/mod.rs"]
mod runs;

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Output};

use output::stdout;
use runs::{Fixture, TestResult};
use serde_json::Value;

fn dylora<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dylora")).args(args).output().unwrap()
}

/// Fails with this status; gives the last line of stderr.
fn sentence(output: &Output, status: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(output.stdout.is_empty());
    stderr.trim_end().lines().last().unwrap_or_default().to_owned()
}

/// `train` on the fixture's MRPC, with these flags more.
fn train(fixture: &Fixture, run: &str, more: &[&str]) -> Output {
    let (model, data, out) = (fixture.model(), fixture.data(), fixture.run(run));
    let paths = [model, data, out].map(|path| path.to_string_lossy().into_owned());
    let mut args = vec![
        "train", "--task", "mrpc", "--model", &paths[0], "--data", &paths[1], "--out", &paths[2],
    ];
    args.extend(["--epochs", "1", "--batch-size", "8", "--rank", "2"]);
    // A flag given twice is an error, so what comes later takes the earlier one's place.
    for pair in more.chunks(2) {
        match args.iter().position(|arg| *arg == pair[0]) {
            Some(at) => args[at + 1] = pair[1],
            None => args.extend(pair),
        }
    }
    dylora(args)
}

#[test]
fn a_run_is_trained_evaluated_predicted_and_scored() -> TestResult {
    let fixture = Fixture::new()?;
    let output = train(&fixture, "run", &[]);
    let text = stdout(&output);
    assert!(text.lines().count() == 2 && text.starts_with("rank 1 "), "{text}");

    let run = fixture.run("run").to_string_lossy().into_owned();
    let eval: Value = serde_json::from_str(&stdout(&dylora(["eval", "--run", &run, "--json"])))?;
    assert_eq!(eval["task"], "mrpc");
    assert_eq!(eval["ranks"].as_array().map(Vec::len), Some(2));
    let second: Value = serde_json::from_str(&stdout(&dylora(["eval", "--run", &run, "--ranks", "2", "--json"])))?;
    assert_eq!(second["ranks"], serde_json::json!([eval["ranks"][1]]));

    let file = fixture.path().join("predictions.tsv").to_string_lossy().into_owned();
    stdout(&dylora([
        "predict", "--run", &run, "--rank", "2", "--task", "mrpc", "--split", "dev", "--out", &file,
    ]));
    let predictions = fs::read_to_string(&file)?;
    assert!(
        predictions.starts_with("index\tprediction\tlogits\n0\t"),
        "{predictions}"
    );
    assert_eq!(predictions.lines().count(), 10);

    let references = fixture.path().join("references.txt");
    let labels: Vec<_> = (0..9).map(|row| if row % 3 == 0 { "1" } else { "0" }).collect();
    fs::write(&references, labels.join("\r\n"))?;
    let references = references.to_string_lossy().into_owned();
    let scored: Value = serde_json::from_str(&stdout(&dylora([
        "score",
        "--task",
        "mrpc",
        "--predictions",
        &file,
        "--references",
        &references,
        "--json",
    ])))?;
    for metric in ["accuracy", "f1"] {
        assert_eq!(scored[metric], second["ranks"][0][metric], "{metric}");
    }
    Ok(())
}

#[test]
fn reproduce_prints_and_writes_the_table() -> TestResult {
    let fixture = Fixture::new()?;
    let out = fixture.path().join("out");
    let paths = [fixture.model(), fixture.data(), out.clone()].map(|path| path.to_string_lossy().into_owned());
    let args = [
        "reproduce",
        "glue",
        "--model",
        &paths[0],
        "--data",
        &paths[1],
        "--out",
        &paths[2],
        "--tasks",
        "mrpc",
        "--methods",
        "lora,dylora",
        "--seeds",
        "10",
        "--epochs",
        "1",
        "--rank",
        "2",
    ];
    let output = dylora(args);
    let text = stdout(&output);
    assert!(
        text.contains("Table 2") && text.contains("DyLoRA") && text.contains("best"),
        "{text}"
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.starts_with("reproduce glue: 2 runs; profile: given model and data"),
        "{stderr}"
    );
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines[1].starts_with("2 of 2 runs to do, in "), "{stderr}");
    assert!(
        lines[2].starts_with("about ") && lines[2].contains(" for 2 runs") && lines[2].contains("(measured: "),
        "{stderr}"
    );
    assert!(
        lines.last().is_some_and(|last| last.ends_with("index.html")),
        "{stderr}"
    );
    let mut ended = lines[3..lines.len() - 1].to_vec();
    ended.sort_unstable();
    assert_eq!(ended.len(), 2, "one line per run: {stderr}");
    for (line, method) in ended.iter().zip(["dylora", "lora"]) {
        assert!(
            line.starts_with(&format!("mrpc {method} seed 10: accuracy 0.")) && line.contains(" at ranks 1, 2; "),
            "{stderr}"
        );
    }
    let table: Value = serde_json::from_str(&fs::read_to_string(out.join("table.json"))?)?;
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(6));
    assert!(fs::read_to_string(out.join("table.md"))?.contains("| Rank | Method | MRPC | Avg |"));
    assert!(fs::read_to_string(out.join("table.html"))?.contains("the paper's numbers are not included yet"));
    let record: Value = serde_json::from_str(&fs::read_to_string(out.join("mrpc/dylora/seed-10/record.json"))?)?;
    assert_eq!(
        (&record["settings"]["update"], &record["settings"]["optimizer"]),
        (&"dense".into(), &"huggingface4".into())
    );

    let again = dylora(args);
    assert_eq!(stdout(&again), text);
    assert!(String::from_utf8_lossy(&again.stderr).contains("0 of 2 runs to do"));

    let mut other = args;
    other[15] = "2";
    let message = sentence(&dylora(other), 1);
    assert!(message.contains("epochs 1, not 2"), "{message}");
    Ok(())
}

#[test]
fn bad_input_is_one_sentence_and_a_status() -> TestResult {
    let fixture = Fixture::new()?;
    let cases: [(&[&str], &str); 8] = [
        (&["--rank", "0"], "error: --rank: 0 is not a rank"),
        (&["--rank-min", "3"], "error: --rank-min: 3 is above the rank 2"),
        (&["--task", "mrcp"], "error: unknown task \"mrcp\"; the tasks are mnli"),
        (&["--lr", "nan"], "error: --lr: NaN is not a number"),
        (&["--model", "nowhere"], "error: cannot read"),
        (&["--data", "nowhere"], "error: cannot read"),
        (
            // The driver's library, or a device of this number, is what no machine of the tests has.
            &["--device", "cuda:99"],
            "error: --device cuda:99: cuda: ",
        ),
        (&["--device", "tpu"], "error: --device tpu is not auto, cpu or cuda:N"),
    ];
    for (flags, expected) in cases {
        let message = sentence(&train(&fixture, "bad", flags), 1);
        assert!(message.starts_with(expected), "{flags:?}: {message}");
        assert!(!fixture.run("bad").exists(), "{flags:?} left a directory behind");
    }
    let file = fixture.path().join("file");
    fs::write(&file, "")?;
    let message = sentence(&train(&fixture, "../file/run", &[]), 1);
    assert!(message.starts_with("error: cannot create"), "{message}");
    for (flags, expected) in [
        (["--method", "dilora"], "lora, dylora, dylora-frozen, full"),
        (["--targets", "query,quay"], "query, key, value"),
        (["--precision", "f16"], "f32, f64, tf32, bf16"),
    ] {
        let output = train(&fixture, "bad", &flags);
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert_eq!(dylora(["train"]).status.code(), Some(2));
    assert_eq!(dylora(["reproduce", "table10"]).status.code(), Some(2));
    for jobs in ["0", "two"] {
        let output = dylora(["reproduce", "glue", "--jobs", jobs]);
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            stderr.contains(&format!("{jobs:?} is not auto or a number from 1")),
            "{stderr}"
        );
    }
    Ok(())
}

#[test]
fn a_run_that_is_there_is_resumed_only_when_asked() -> TestResult {
    let fixture = Fixture::new()?;
    let first = stdout(&train(&fixture, "run", &[]));
    let message = sentence(&train(&fixture, "run", &[]), 1);
    assert!(message.contains("--resume"), "{message}");
    let run = fixture.run("run").to_string_lossy().into_owned();
    assert_eq!(stdout(&dylora(["train", "--resume", &run])), first);
    let message = sentence(&dylora(["train", "--resume", &run, "--lr", "0.001"]), 1);
    assert!(
        message.contains("lr 0.0004") && message.contains("lr 0.001"),
        "{message}"
    );
    let message = sentence(&dylora(["train", "--resume", "nowhere"]), 1);
    assert!(message.contains("nowhere: holds no run"), "{message}");
    let message = sentence(&dylora(["predict", "--run", &run, "--rank", "3"]), 1);
    assert!(message.contains("3 is above the run's rank 2"), "{message}");
    let message = sentence(&dylora(["predict", "--run", &run, "--task", "rte"]), 1);
    assert!(message.contains("the run's task is mrpc, not rte"), "{message}");
    Ok(())
}

/// Ctrl-C: the step ends, a checkpoint is written, and the run goes on later.
#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_go_on() -> TestResult {
    let fixture = Fixture::new()?;
    let run = fixture.run("run").to_string_lossy().into_owned();
    let (model, data) = (fixture.model(), fixture.data());
    let child = Command::new(env!("CARGO_BIN_EXE_dylora"))
        .args([
            "train",
            "--task",
            "mrpc",
            "--out",
            &run,
            "--epochs",
            "100000",
            "--checkpoint-every",
            "1",
            "--model",
        ])
        .arg(model)
        .arg("--data")
        .arg(data)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let checkpoint = fixture.run("run").join("checkpoint.safetensors");
    while !checkpoint.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    assert!(status.success());
    let message = sentence(&child.wait_with_output()?, 130);
    assert!(
        message.starts_with("stopped after step ") && message.ends_with(&format!("--resume {run}")),
        "{message}"
    );
    Ok(())
}

/// Ctrl-C with two runs side by side: both write a checkpoint.
#[cfg(unix)]
#[test]
fn interrupted_runs_all_leave_a_checkpoint() -> TestResult {
    let fixture = Fixture::new()?;
    let out = fixture.path().join("out");
    let child = Command::new(env!("CARGO_BIN_EXE_dylora"))
        .args([
            "reproduce",
            "glue",
            "--tasks",
            "mrpc",
            "--methods",
            "lora",
            "--seeds",
            "1,2,3",
        ])
        .args(["--epochs", "100000", "--jobs", "2", "--model"])
        .arg(fixture.model())
        .arg("--data")
        .arg(fixture.data())
        .arg("--out")
        .arg(&out)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let checkpoint = |seed: u32| out.join(format!("mrpc/lora/seed-{seed}/checkpoint.safetensors"));
    while !(checkpoint(1).exists() && checkpoint(2).exists()) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    assert!(status.success());
    let message = sentence(&child.wait_with_output()?, 130);
    assert_eq!(message, "stopped; the same command goes on where it was");
    assert!(!checkpoint(3).exists());
    Ok(())
}

#[test]
fn data_check_counts_or_names_the_line() -> TestResult {
    let fixture = Fixture::new()?;
    let data = fixture.data().to_string_lossy().into_owned();
    let report: Value = serde_json::from_str(&stdout(&dylora([
        "data", "check", "--task", "mrpc", "--split", "dev", "--data", &data, "--json",
    ])))?;
    assert_eq!(
        report,
        serde_json::json!({"task": "mrpc", "rows": 9, "labels": {"0": 6, "1": 3}})
    );
    let file = fixture.path().join("own.csv");
    fs::write(&file, "text,mood\n\"a, b\",good\nc,bad\n")?;
    let file = file.to_string_lossy().into_owned();
    let own = [
        "data", "check", "--task", "csv", "--file", &file, "--text", "text", "--label", "mood",
    ];
    assert_eq!(
        stdout(&dylora(own)),
        "csv: 2 rows\n  bad: 1 (50.0 %)\n  good: 1 (50.0 %)\n  1 to 2 words a row, half up to 1, 95 of 100 up to 2\n"
    );
    fs::write(&file, "text,mood\na,good\nb\n")?;
    let message = sentence(&dylora(own), 1);
    assert!(
        message.starts_with("error: ") && message.contains("own.csv, line 3"),
        "{message}"
    );
    Ok(())
}

#[test]
fn data_check_counts_every_split_of_a_generation_task() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("e2e"))?;
    fs::write(
        dir.path().join("e2e/trainset.csv"),
        "mr,ref\nname[A],One.\n\"name[B], food[French]\",Two.\nname[A],Three.\n",
    )?;
    fs::write(
        dir.path().join("e2e/devset.csv"),
        "mr,ref\n\"name[A], area[riverside]\",One.\n",
    )?;
    let data = dir.path().to_string_lossy().into_owned();
    let check = ["data", "check", "--task", "e2e", "--data", &data];
    assert_eq!(
        stdout(&dylora(check)),
        "e2e\n  \
         train: 3 texts for 2 inputs, from 1 file; partial: 3 of 42061 texts, for 2 of 4862 inputs\n    \
         3 rows to train on, 2 prompts to write from\n  \
         dev: 1 text for 1 input, from 1 file; partial: 1 of 4672 texts, for 1 of 547 inputs\n    \
         1 row to train on, 1 prompt to write from\n    \
         1 relation that train does not have: area\n  \
         test: not there\n"
    );
    let report: Value = serde_json::from_str(&stdout(&dylora(check.into_iter().chain(["--json", "--split", "dev"]))))?;
    assert_eq!(
        report,
        serde_json::json!({"task": "e2e", "splits": [{"split": "dev", "files": 1, "meanings": 1, "texts": 1, "pairs": 1,
            "prompts": 1, "published": {"meanings": 547, "texts": 4672}, "whole": false}]})
    );
    let message = sentence(&dylora(check.into_iter().chain(["--split", "test"])), 1);
    assert!(
        message.contains("no test split of e2e here; looked for e2e/testset_w_refs.csv"),
        "{message}"
    );
    fs::write(dir.path().join("e2e/devset.csv"), "mr,ref\nname[A],One.\nname[A,Two.\n")?;
    let message = sentence(&dylora(check), 1);
    assert!(
        message.ends_with("devset.csv, line 3: no ] ends the value of \"name\""),
        "{message}"
    );
    Ok(())
}

#[test]
fn score_reads_one_value_a_line() -> TestResult {
    let dir = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> std::io::Result<String> {
        let path = dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let score = |task: &str, predictions: &str, references: &str| {
        dylora([
            "score",
            "--task",
            task,
            "--predictions",
            predictions,
            "--references",
            references,
            "--json",
        ])
    };
    let names = file("names", "entailment\nnot_entailment\nentailment\n")?;
    let numbers = file("numbers", "0\n1\n1\n")?;
    let report: Value = serde_json::from_str(&stdout(&score("rte", &names, &numbers)))?;
    assert_eq!(report, serde_json::json!({"accuracy": 2.0 / 3.0}));
    // A constant side has no correlation.
    let (flat, rising) = (file("flat", "1.5\n1.5\n")?, file("rising", "1\n2\n")?);
    let report: Value = serde_json::from_str(&stdout(&score("sts-b", &flat, &rising)))?;
    assert_eq!(report, serde_json::json!({"pearson": "nan", "spearman": "nan"}));
    let message = sentence(&score("rte", &file("wrong", "0\nmaybe\n")?, &numbers), 1);
    assert!(
        message.contains("wrong, line 2: \"maybe\" is not one of entailment, not_entailment"),
        "{message}"
    );
    let message = sentence(&score("rte", &file("short", "0\n1\n")?, &numbers), 1);
    assert!(message.contains("2 predictions for 3 labels"), "{message}");
    Ok(())
}

#[test]
fn score_of_generated_text() -> TestResult {
    let dir = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> std::io::Result<String> {
        let path = dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let texts = file("texts", "A pub near here.\nIt is a cheap pub.\n")?;
    let references = file(
        "references",
        "A pub near here.\nNear here is a pub.\n\nIt is a cheap pub.\n",
    )?;
    let score = |task: &str, references: &str, more: &[&str]| {
        let fixed = [
            "score",
            "--task",
            task,
            "--hypotheses",
            &texts,
            "--references",
            references,
        ];
        dylora(fixed.iter().chain(more))
    };
    let output = score("e2e", &references, &[]);
    let text = stdout(&output);
    assert!(
        text.starts_with("SCORES:\n==============\nBLEU: 1.0000\nNIST: "),
        "{text}"
    );
    assert!(text.contains("\nMETEOR: not computed\n"), "{text}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("METEOR is not computed"), "{stderr}");

    fs::create_dir(dir.path().join("data"))?;
    let data = dir.path().to_string_lossy().into_owned();
    file("english.words", "a\n.\n")?;
    file("english.prefixes", "Mr\n")?;
    let report: Value = serde_json::from_str(&stdout(&score("e2e", &references, &["--meteor-data", &data, "--json"])))?;
    assert_eq!(
        (&report["BLEU"], &report["METEOR"]),
        (&Value::from(1.0), &Value::from(1.0))
    );
    assert_eq!(report["meteor_stages"], serde_json::json!(["exact", "stem"]));
    let note = report["note"].as_str().unwrap_or_default();
    assert!(
        note.starts_with("METEOR ran with exact, stem only") && note.contains("paraphrase needs"),
        "{note}"
    );

    let (one, two) = (
        file("0", "a pub near here\nx\n")?,
        file("1", "\nit is a cheap pub .\n")?,
    );
    let report: Value = serde_json::from_str(&stdout(&score("webnlg", &one, &[&two, "--json"])))?;
    // The first text has a dot more than its one reference of four words.
    assert_eq!(report["TER"], 0.125);

    assert!(sentence(&score("e2e", &one, &["--meteor-data", "no/such"]), 1).contains("no/such"));
    let message = sentence(&score("e2e", &file("short", "a\n")?, &[]), 1);
    assert!(message.contains("short: 1 lines for 2 hypotheses"), "{message}");
    let message = sentence(&dylora(["score", "--task", "dart", "--references", &one]), 1);
    assert!(message.contains("--task dart needs --hypotheses FILE"), "{message}");
    let message = sentence(&dylora(["score", "--task", "rte", "--references", &one]), 1);
    assert!(message.contains("--task rte needs --predictions FILE"), "{message}");
    let message = sentence(&score("no", &one, &[]), 1);
    assert!(message.contains("e2e, webnlg, dart"), "{message}");
    Ok(())
}

#[test]
fn bench_reports_speed_as_json() -> TestResult {
    let fixture = Fixture::new()?;
    let shape = fixture.model().to_string_lossy().into_owned();
    let rows = fixture.path().join("rows.json");
    fs::write(&rows, "[[2,5,6,3],[2,7,3],[2,8,9,10,3]]")?;
    let rows = rows.to_string_lossy().into_owned();
    let fixed = [
        "bench", "step", "--shape", &shape, "--batch", "2", "--seq", "8", "--steps", "3",
    ];
    let real = [
        "bench",
        "step",
        "--shape",
        &shape,
        "--batch",
        "2",
        "--rows-file",
        &rows,
        "--steps",
        "3",
    ];
    let causal = fixture.path().join("gpt2");
    fs::create_dir(&causal)?;
    let config = r#"{"model_type":"gpt2","vocab_size":30,"n_embd":16,"n_layer":1,"n_head":2,"n_positions":8}"#;
    fs::write(causal.join("config.json"), config)?;
    let causal = causal.to_string_lossy().into_owned();
    let mut predicted = fixed;
    predicted[3] = &causal;
    let too_long = sentence(&dylora(["bench", "step", "--shape", &causal, "--seq", "9"]), 1);
    assert!(too_long.contains("longer than the 8 positions"), "{too_long}");
    for args in [fixed, predicted, real] {
        let report: Value = serde_json::from_str(&stdout(&dylora(args)))?;
        for key in ["step_med_s", "step_min_s", "tokens_per_s", "rows_per_s"] {
            assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {report}");
        }
        assert!(report.get("peak_rss_MiB").is_some());
    }
    Ok(())
}

#[test]
fn a_model_is_pretrained_on_text_and_then_trained_on_a_task() -> TestResult {
    let fixture = Fixture::new()?;
    let text = fixture.path().join("text.txt");
    let lines: Vec<String> = (0..40)
        .map(|n| format!("the cat sat on mat {}\tthe dog ran {}", n % 4, n % 3))
        .collect();
    fs::write(&text, lines.join("\n"))?;
    let (text, out) = (text.to_string_lossy().into_owned(), fixture.path().join("encoder"));
    let out = out.to_string_lossy().into_owned();
    let pretrain = |more: &[&str]| {
        let small = "--vocab-size 280 --layers 1 --hidden-size 16 --heads 2 --intermediate-size 16 --max-positions 64";
        let mut args = vec!["pretrain", "--out", &out];
        args.extend(small.split(' ').chain(["--steps", "3", "--batch-size", "8"]));
        args.extend(more);
        dylora(args)
    };
    let message = sentence(&pretrain(&["--text", &text, "--heads=3"]), 2);
    assert!(message.contains("--help"), "a flag twice: {message}");
    let message = sentence(&pretrain(&["--text", "nowhere.txt"]), 1);
    assert!(
        message.contains("cannot read") && message.contains("nowhere.txt"),
        "{message}"
    );
    let message = sentence(&pretrain(&["--text", &text, "--weights", "f8"]), 2);
    assert!(message.contains("--help"), "{message}");
    let record: Value = serde_json::from_str(&stdout(&pretrain(&["--text", &text, "--json"])))?;
    assert_eq!(record["steps"], 3);
    assert_eq!(record["evaluations"][0]["step"], 3);
    let (file, again) = (format!("{out}/pretrain.toml"), format!("{out}-again"));
    stdout(&dylora(["pretrain", "--config", &file, "--out", &again]));
    for name in ["model.safetensors", "tokenizer.json", "pretrain.toml"] {
        let read = |dir: &str| fs::read(std::path::Path::new(dir).join(name));
        assert_eq!(read(&out)?, read(&again)?, "{name}");
    }
    let message = sentence(&pretrain(&["--text", &text]), 1);
    assert!(message.contains("already holds a pre-training"), "{message}");
    let again: Value = serde_json::from_str(&stdout(&pretrain(&["--resume", "--json"])))?;
    assert_eq!(again, record);
    let message = sentence(&pretrain(&["--resume", "--seed", "3"]), 1);
    assert!(message.contains("seed 10") && message.contains("seed 3"), "{message}");

    let trained = train(&fixture, "on-top", &["--model", &out]);
    assert!(stdout(&trained).starts_with("rank 1 "));
    Ok(())
}
