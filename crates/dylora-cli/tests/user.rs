//! What somebody does with their own data: look at it, train, choose a rank, take the result elsewhere.

mod output;
#[path = "hub/parquet_file.rs"]
#[allow(dead_code)]
mod parquet_file;
#[path = "../../dylora-tasks/tests/runs/mod.rs"]
mod runs;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use output::{sentence, stderr, stdout};
use parquet_file::Column;
use runs::{Fixture, TestResult};
use serde_json::Value;

const SENTENCES: [(&str, &str); 6] = [
    ("the cat sat on the mat", "rest"),
    ("the dog ran on the road", "run"),
    ("a big dog sat today", "rest"),
    ("the small cat never ran", "never"),
    ("the small dog ran today", "run"),
    ("never big", "never"),
];

fn dylora(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dylora"));
    command.args(words);
    command
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The sentences as a file of this kind.
fn own_file(path: &Path) -> String {
    let rows = SENTENCES.iter().cycle().take(18);
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("parquet") => {
            let (texts, labels) = rows.map(|(text, label)| (text.to_string(), label.to_string())).unzip();
            parquet_file::write(path, &[("mood", Column::Text(labels)), ("say", Column::Text(texts))]);
        }
        Some("jsonl") => {
            let line =
                |(text, label): &(&str, &str)| serde_json::json!({"say": text, "mood": label}).to_string() + "\n";
            fs::write(path, rows.map(line).collect::<String>()).unwrap();
        }
        kind => {
            let between = if kind == Some("tsv") { "\t" } else { "," };
            let lines = rows.map(|(text, label)| format!("{text}{between}{label}\n"));
            fs::write(path, format!("say{between}mood\n") + &lines.collect::<String>()).unwrap();
        }
    }
    text(path)
}

/// A run on the sentences in this format.
fn train(fixture: &Fixture, format: &str, run: &str, more: &[&str]) -> (PathBuf, Output) {
    let (model, out) = (text(&fixture.model()), fixture.run(run));
    let data = fixture.path().join("own");
    fs::create_dir_all(&data).unwrap();
    let file = own_file(&data.join(format!("rows.{format}")));
    let place = text(&out);
    let mut words = vec![
        "train", "--task", format, "--model", &model, "--train", &file, "--dev", &file,
    ];
    words.extend(["--text", "say", "--label", "mood", "--out", &place]);
    words.extend(["--rank", "3", "--epochs", "2", "--batch-size", "6", "--lr", "0.01"]);
    words.extend(more);
    let output = dylora(&words);
    (out, output)
}

#[test]
fn four_kinds_of_files_give_one_run_and_one_report() -> TestResult {
    let fixture = Fixture::new()?;
    let mut adapters = Vec::new();
    for format in ["csv", "tsv", "jsonl", "parquet"] {
        let (run, output) = train(&fixture, format, format, &[]);
        stdout(&output);
        let said = stderr(&output);
        assert!(
            said.contains("training rows by label: never 6 (33.3 %), rest 6 (33.3 %), run 6 (33.3 %)"),
            "{said}"
        );
        assert!(said.contains(" tokens a row, half up to "), "{said}");
        adapters.push(fs::read(run.join("adapter.safetensors"))?);
        let file = text(&fixture.path().join(format!("own/rows.{format}")));
        let check = [
            "data", "check", "--task", format, "--file", &file, "--text", "say", "--label", "mood",
        ];
        let said = stdout(&dylora(&check));
        assert!(
            said.starts_with(&format!("{format}: 18 rows\n  never: 6 (33.3 %)\n")),
            "{said}"
        );
        assert!(
            said.contains("  2 to 6 words a row, half up to 5, 95 of 100 up to 6"),
            "{said}"
        );
        let json: Value = serde_json::from_str(&stdout(&dylora(&[&check[..], &["--json"]].concat())))?;
        let labels = serde_json::json!({"never": 6, "rest": 6, "run": 6});
        assert_eq!(json, serde_json::json!({"task": format, "rows": 18, "labels": labels}));
    }
    assert!(adapters.iter().all(|adapter| *adapter == adapters[0]));
    let model = text(&fixture.model());
    let file = text(&fixture.path().join("own/rows.csv"));
    let check = [
        "data", "check", "--task", "csv", "--file", &file, "--text", "say", "--label", "mood",
    ];
    let json: Value = serde_json::from_str(&stdout(&dylora(&[&check[..], &["--model", &model, "--json"]].concat())))?;
    // [CLS] and [SEP] stand around every text.
    assert_eq!(
        (&json["lengths"]["min"], &json["lengths"]["max"]),
        (&4.into(), &8.into())
    );
    Ok(())
}

#[test]
fn pairs_of_texts_are_looked_at_too() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("pairs.jsonl");
    fs::write(
        &path,
        "{\"context\": \"a b\", \"completion\": \"c\"}\n{\"context\": \"a\", \"completion\": \"c d e\"}\n",
    )?;
    let file = text(&path);
    let check = ["data", "check", "--task", "text", "--file", &file];
    assert_eq!(
        stdout(&dylora(&check)),
        "text: 2 rows\n  contexts: 1 to 2 words a row, half up to 1, 95 of 100 up to 2\n  \
         completions: 1 to 3 words a row, half up to 1, 95 of 100 up to 3\n"
    );
    fs::write(&path, "{\"context\": \"a b\"}\n")?;
    assert!(sentence(&dylora(&check)).contains("pairs.jsonl, line 1"));
    Ok(())
}

#[test]
fn eval_says_what_each_rank_costs_and_suggests_one() -> TestResult {
    let fixture = Fixture::new()?;
    let (run, output) = train(&fixture, "csv", "run", &[]);
    stdout(&output);
    let run = text(&run);
    let report: Value = serde_json::from_str(&stdout(&dylora(&["eval", "--run", &run, "--json"])))?;
    assert_eq!(report["task"], "csv");
    let costs = report["costs"].as_array().unwrap();
    assert_eq!(report["ranks"].as_array().map(Vec::len), Some(costs.len()));
    // Two blocks, query and value, A and B of width 16; a pooler of 16 x 16 and three classes.
    let head = 16 * 16 + 16 + 3 * 16 + 3;
    for (index, cost) in costs.iter().enumerate() {
        let parameters = 2 * 2 * 2 * 16 * (index + 1) + head;
        assert_eq!(cost["parameters"], parameters);
        assert_eq!(cost["adapter_bytes"], 4 * parameters);
        for form in ["latency_ms", "merged_latency_ms"] {
            assert!(cost[form].as_f64().is_some_and(|time| time > 0.0), "{cost}");
        }
        assert_eq!(cost["rows_per_second"], Value::Null);
    }
    let small = costs[0]["adapter_bytes"].to_string();
    let limited: Value = serde_json::from_str(&stdout(&dylora(&[
        "eval",
        "--run",
        &run,
        "--json",
        "--max-bytes",
        &small,
    ])))?;
    assert_eq!(limited["suggestion"]["rank"], 1);
    let nothing: Value =
        serde_json::from_str(&stdout(&dylora(&["eval", "--run", &run, "--json", "--max-bytes", "1"])))?;
    assert_eq!(nothing["suggestion"], Value::Null);
    let said = stdout(&dylora(&["eval", "--run", &run, "--tolerance", "100"]));
    assert!(said.starts_with("rank 1     accuracy 0."), "{said}");
    assert!(
        said.contains("suggested rank: 1 (accuracy ") && said.contains(" ms a row, ") && said.contains(" merged"),
        "{said}"
    );
    let message = sentence(&dylora(&["eval", "--run", &run, "--tolerance", "-1"]));
    assert_eq!(message, "error: --tolerance -1 is not a number of 0 or more");
    Ok(())
}

#[test]
fn a_run_is_moved_and_used_without_its_data() -> TestResult {
    let fixture = Fixture::new()?;
    let (run, output) = train(&fixture, "csv", "run", &[]);
    stdout(&output);
    let rows = fixture.path().join("rows.csv");
    fs::write(&rows, "say\nthe cat sat\nthe dog ran\n")?;
    let predict = |run: &Path, more: &[&str]| {
        let (run, rows) = (text(run), text(&rows));
        let words = ["predict", "--run", &run, "--file", &rows];
        dylora(&[&words[..], more].concat())
    };
    let before = stdout(&predict(&run, &[]));
    assert!(
        ["never", "rest", "run"].iter().any(|label| before.contains(label)),
        "{before}"
    );

    let (moved, base) = (
        fixture.path().join("elsewhere/run"),
        fixture.path().join("elsewhere/base"),
    );
    fs::create_dir_all(fixture.path().join("elsewhere"))?;
    fs::rename(&run, &moved)?;
    fs::remove_dir_all(fixture.path().join("own"))?;
    assert_eq!(stdout(&predict(&moved, &[])), before);
    fs::rename(fixture.model(), &base)?;
    let message = sentence(&predict(&moved, &[]));
    assert!(
        message.starts_with("error: --model: the base model is not in"),
        "{message}"
    );
    let base = text(&base);
    assert_eq!(stdout(&predict(&moved, &["--model", &base])), before);
    // What is exported needs the base for merging only.
    let (run, peft) = (text(&moved), text(&fixture.path().join("peft")));
    stdout(&dylora(&["export", "--run", &run, "--format", "peft", "--out", &peft]));
    Ok(())
}

#[test]
fn predict_answers_a_pipe_as_rows_come() -> TestResult {
    let fixture = Fixture::new()?;
    for format in ["csv", "tsv", "jsonl"] {
        let (run, output) = train(&fixture, format, format, &[]);
        stdout(&output);
        let run = text(&run);
        let file = text(&fixture.path().join(format!("own/rows.{format}")));
        let whole = stdout(&dylora(&["predict", "--run", &run, "--file", &file, "--rank", "2"]));
        let mut child = command(&["predict", "--run", &run, "--file", "-", "--rank", "2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut answers = String::new();
        let rows = fs::read_to_string(&file)?;
        let (header, rows) = if format == "jsonl" {
            ("", rows.as_str())
        } else {
            rows.split_once('\n').unwrap()
        };
        if !header.is_empty() {
            writeln!(input, "{header}")?;
        }
        for (index, row) in rows.lines().enumerate() {
            writeln!(input, "{row}")?;
            input.flush()?;
            // The answer is there before the next row is.
            for _ in 0..if index == 0 { 2 } else { 1 } {
                output.read_line(&mut answers)?;
            }
        }
        drop(input);
        let rest = child.wait_with_output()?;
        assert!(rest.status.success());
        assert!(stderr(&rest).contains("18 rows in "), "{}", stderr(&rest));
        let labels = |table: &str| -> Vec<String> {
            let second = |line: &str| line.split('\t').nth(1).unwrap_or_default().to_owned();
            table.lines().map(second).collect()
        };
        assert_eq!(labels(&answers), labels(&whole), "{format}");
    }
    let piped = |run: &str, rows: &str| -> Result<Output, Box<dyn std::error::Error>> {
        let run = text(&fixture.run(run));
        let mut child = command(&["predict", "--run", &run, "--file", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().unwrap().write_all(rows.as_bytes())?;
        Ok(child.wait_with_output()?)
    };
    for (format, rows, expected) in [
        (
            "tsv",
            "say\tmood\nthe cat\trest\nthe dog\n",
            "<stdin>, line 3: the row has 1 of 2 fields",
        ),
        (
            "csv",
            "say,mood\na,b\n\"a\nb\",c\nd\n",
            "<stdin>, line 5: the row has 1 of 2 fields",
        ),
        (
            "jsonl",
            "{\"say\": \"a\"}\n\n{\"say\": 3}\n",
            "<stdin>, line 3: \"say\" is 3, not a string",
        ),
        ("jsonl", "", "<stdin> is empty"),
        ("csv", "say\n", "<stdin> has a header row but no data rows"),
        ("tsv", "said\nx\n", "<stdin>, line 1: no column \"say\""),
    ] {
        let output = piped(format, rows)?;
        assert_eq!(output.status.code(), Some(1), "{rows:?}");
        assert!(stderr(&output).contains(expected), "{rows:?}: {}", stderr(&output));
    }
    Ok(())
}

#[test]
fn a_run_writes_the_file_that_repeats_it() -> TestResult {
    let fixture = Fixture::new()?;
    let more = [
        "--distribution",
        "geometric:0.3",
        "--targets",
        "query,key",
        "--seed",
        "18446744073709551615",
    ];
    let (run, output) = train(&fixture, "csv", "run", &more);
    stdout(&output);
    let (file, again) = (text(&run.join("run.toml")), fixture.run("again"));
    let place = text(&again);
    stdout(&dylora(&["train", "--config", &file, "--out", &place]));
    for name in ["settings.json", "adapter.safetensors", "run.toml"] {
        assert_eq!(fs::read(run.join(name))?, fs::read(again.join(name))?, "{name}");
    }
    // Flags win; a GLUE folder takes the place of the file's own data.
    let (place, glue) = (text(&fixture.run("glue")), text(&fixture.data()));
    let words = [
        "train",
        "--config",
        &file,
        "--task",
        "mrpc",
        "--data",
        &glue,
        "--epochs=1",
        "--out",
        &place,
    ];
    stdout(&dylora(&words));
    let settings: Value = serde_json::from_str(&fs::read_to_string(fixture.run("glue").join("settings.json"))?)?;
    assert_eq!(
        (&settings["epochs"], &settings["data"]["kind"]),
        (&1.into(), &"glue".into())
    );
    assert_eq!(settings["distribution"], "geometric:0.3");

    let wrong = fixture.path().join("wrong.toml");
    fs::write(&wrong, "epochs = 1\nbatch_sise = 3\n")?;
    let wrong = text(&wrong);
    let message = sentence(&dylora(&["train", "--config", &wrong, "--out", "nowhere"]));
    assert!(
        message.ends_with("wrong.toml: unknown key \"batch_sise\"; did you mean \"batch-size\"?"),
        "{message}"
    );
    assert!(sentence(&dylora(&["train", "--config", "no.toml"])).starts_with("error: cannot read no.toml"));
    Ok(())
}

#[test]
fn an_adapter_goes_out_and_comes_back() -> TestResult {
    let fixture = Fixture::new()?;
    let (run, output) = train(&fixture, "csv", "run", &[]);
    stdout(&output);
    let run = text(&run);
    let (peft, merged) = (text(&fixture.path().join("peft")), text(&fixture.path().join("merged")));
    let said = stdout(&dylora(&[
        "export", "--run", &run, "--rank", "2", "--format", "peft", "--out", &peft,
    ]));
    assert!(
        said.contains(": rank 2, ") && said.contains("adapter_model.safetensors"),
        "{said}"
    );
    stdout(&dylora(&[
        "export", "--run", &run, "--rank", "2", "--format", "merged", "--out", &merged,
    ]));
    let file = text(&fixture.path().join("own/rows.csv"));
    let predict = |run: &str, rank: &str| stdout(&dylora(&["predict", "--run", run, "--file", &file, "--rank", rank]));

    // A rate of 0 trains nothing: the run answers as what it started from.
    let (started, output) = train(&fixture, "csv", "started", &["--adapter", &peft, "--epochs", "1"]);
    assert_eq!(output.status.code(), Some(2), "a flag twice");
    assert!(!started.exists());
    let model = text(&fixture.model());
    let place = text(&started);
    let words = [
        "train", "--task", "csv", "--model", &model, "--train", &file, "--dev", &file, "--text", "say",
    ];
    let start =
        |more: &[&str]| dylora(&[&words[..], &["--label", "mood", "--adapter", &peft, "--lr", "0"], more].concat());
    let output = start(&["--epochs", "1", "--out", &place]);
    stdout(&output);
    assert!(
        stderr(&output).contains("peft: rank 2 on 4 layers, and its head"),
        "{}",
        stderr(&output)
    );
    assert_eq!(predict(&place, "2"), predict(&run, "2"));
    assert_ne!(predict(&place, "2"), predict(&run, "3"));
    let message = sentence(&start(&["--rank", "1", "--out", "nowhere"]));
    assert!(
        message.starts_with("error: --rank: 1 is below the rank 2 of the adapter in "),
        "{message}"
    );

    for (path, kind, fact) in [
        (&run, "run", "  ranks: 1..3"),
        (&peft, "PEFT adapter", "  r: 2"),
        (&merged, "model", "  id2label: 0 never, 1 rest, 2 run"),
        (&model, "model", "  hidden_size: 16"),
    ] {
        let said = stdout(&dylora(&["inspect", path]));
        assert!(
            said.starts_with(&format!("{path}: {kind}\n")) && said.contains(fact),
            "{said}"
        );
        let json: Value = serde_json::from_str(&stdout(&dylora(&["inspect", path, "--json"])))?;
        assert_eq!(json["kind"], kind);
    }
    let said = stdout(&dylora(&["inspect", &peft]));
    assert!(
        said.contains("bert.encoder.layer.*.attention.self.query.lora_A.weight    2 x [2, 16] F32"),
        "{said}"
    );
    assert!(sentence(&dylora(&["inspect", "nowhere"])).contains("nowhere"));
    Ok(())
}

#[test]
fn completions_and_manual_pages_know_every_command_and_flag() -> TestResult {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&dylora(&["completions", shell]));
        for word in ["export", "inspect", "batch-size", "dylora-frozen"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let dir = tempfile::tempdir()?;
    let out = text(&dir.path().join("man"));
    let said = stdout(&dylora(&["man", "--out", &out]));
    let pages = fs::read_dir(&out)?.count();
    assert_eq!(said, format!("{out}: {pages} pages\n"));
    for page in ["dylora.1", "dylora-train.1", "dylora-data-check.1"] {
        let path = Path::new(&out).join(page);
        assert!(fs::read_to_string(path)?.contains(".SH"), "{page}");
    }
    assert!(fs::read_to_string(Path::new(&out).join("dylora-train.1"))?.contains("batch\\-size"));
    Ok(())
}

#[test]
fn errors_name_what_was_probably_meant_and_are_plain_where_asked() -> TestResult {
    let message = sentence(&dylora(&["data", "check", "--task", "mrcp", "--data", "x"]));
    assert!(message.ends_with("did you mean \"mrpc\"?"), "{message}");
    for (words, near) in [
        (&["trian"][..], "'train'"),
        (&["train", "--epoch", "3"], "'--epochs'"),
        (&["train", "--method", "dilora"], "'dylora'"),
        (&["train", "--optimizer", "troch"], "'torch'"),
    ] {
        for plain in [false, true] {
            let mut command = command(words);
            command.env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1");
            if plain {
                command.env_remove("CLICOLOR_FORCE").env("NO_COLOR", "1");
            }
            let output = command.output()?;
            assert_eq!(output.status.code(), Some(2));
            let said = stderr(&output);
            assert!(!plain || said.contains(near), "{said}");
            assert_eq!(said.contains('\u{1b}'), !plain, "{said:?}");
        }
    }
    Ok(())
}
