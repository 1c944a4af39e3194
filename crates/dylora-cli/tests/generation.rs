//! The generation tasks on the command line: train, generate, evaluate, score, and whole tables, with a tiny GPT-2.

#[path = "../../dylora-tasks/tests/official/mod.rs"]
mod official;
mod output;
#[path = "../../dylora-tasks/tests/pairs/mod.rs"]
mod pairs;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dylora_tasks::generation::GenerationTask;
use dylora_tasks::metric::text::chain::Chain;
use dylora_tasks::task::Split;
use official::{Official, PROMPTS, TASKS};
use output::stderr;
use pairs::{Loaded, TestResult};
use serde_json::Value;

/// With a home directory that has nothing, and no other variable.
fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dylora"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

/// Stdout of a command that succeeds.
fn said(official: &Official, args: &[&str]) -> Loaded<String> {
    let output = command(official.root(), args).output()?;
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// The last line of stderr of a command that fails.
fn sentence(official: &Official, args: &[&str]) -> Loaded<String> {
    let output = command(official.root(), args).output()?;
    let stderr = stderr(&output);
    assert!(
        !output.status.success() && output.stdout.is_empty(),
        "{args:?}: {stderr}"
    );
    Ok(stderr.trim_end().lines().last().unwrap_or_default().to_owned())
}

const WRITING: [&str; 4] = ["--beams", "2", "--max-new-tokens", "12"];

#[test]
fn a_run_writes_and_is_evaluated_as_its_official_script_scores_it() -> TestResult {
    let official = Official::new()?;
    let words = |name: &str| official.words(name);
    let (model, data, run) = (words("model"), words("data"), words("run"));
    let base = ["train", "--task", "e2e", "--model", &model, "--data", &data];
    let flags = ["--out", &run, "--epochs", "1", "--rank", "2", "--json"];
    let record: Value = serde_json::from_str(&said(&official, &[&base[..], &flags].concat())?)?;
    let settings = &record["settings"];
    // Table 8, where no flag says otherwise.
    for (name, value) in [
        ("lr", 2e-4),
        ("weight_decay", 0.01),
        ("beta2", 0.999),
        ("warmup_steps", 500.0),
        ("batch_size", 8.0),
        ("alpha", 32.0),
        ("adapter_dropout", 0.1),
        ("label_smoothing", 0.1),
        ("clip", 0.0),
        ("max_length", 512.0),
    ] {
        assert_eq!(settings[name].as_f64(), Some(value), "{name}");
    }
    assert_eq!(
        (&settings["update"], &settings["task"]),
        (&"slice".into(), &"e2e".into())
    );
    assert_eq!(record["ranks"].as_array().map(Vec::len), Some(2));
    assert!(record["ranks"][0]["loss"].as_f64().is_some());

    // One line for each group of references, in file order.
    let (texts, references) = (words("texts.txt"), words("references.txt"));
    let generate = [
        "generate", "--run", &run, "--task", "e2e", "--split", "test", "--rank", "1", "--out", &texts,
    ];
    assert_eq!(said(&official, &[&generate[..], &WRITING].concat())?, "");
    assert_eq!(fs::read_to_string(&texts)?.lines().count(), PROMPTS);
    let corpus = GenerationTask::E2e.load(&official.path("data"), Split::Test)?;
    let groups: Vec<String> = corpus
        .groups()
        .iter()
        .map(|group| group.references.join("\n"))
        .collect();
    fs::write(&references, groups.join("\n\n"))?;
    let meteor = words("meteor");
    let score = [
        "score",
        "--task",
        "e2e",
        "--hypotheses",
        &texts,
        "--references",
        &references,
        "--json",
    ];
    let scored: Value = serde_json::from_str(&said(&official, &[&score[..], &["--meteor-data", &meteor]].concat())?)?;
    let eval = [
        "eval",
        "--run",
        &run,
        "--ranks",
        "1",
        "--json",
        "--meteor-data",
        &meteor,
    ];
    let evaluated: Value = serde_json::from_str(&said(&official, &[&eval[..], &WRITING].concat())?)?;
    assert_eq!(
        (&evaluated["task"], &evaluated["ranks"][0]["rank"]),
        (&"e2e".into(), &1.into())
    );
    for metric in Chain::E2e.metrics() {
        assert_eq!(
            evaluated["ranks"][0][metric.name], scored[metric.name],
            "{}",
            metric.name
        );
    }
    assert!(
        evaluated["notes"][0]
            .as_str()
            .is_some_and(|note| note.contains("exact, stem only"))
    );

    // Without METEOR's data the number is absent, and that is said.
    let output = command(
        official.root(),
        &[&eval[..5], &WRITING, &["--max-prompts", "5"]].concat(),
    )
    .output()?;
    let text = String::from_utf8(output.stdout.clone())?;
    assert!(
        text.contains("rank 1") && text.contains("CIDEr") && !text.contains("METEOR"),
        "{text}"
    );
    assert!(
        stderr(&output).contains("note: METEOR is not computed"),
        "{}",
        stderr(&output)
    );

    for (args, named) in [
        (
            vec!["generate", "--run", &run, "--task", "e2e", "--rank", "3"],
            "--rank: 3 is not in 1..=2",
        ),
        (
            vec!["generate", "--run", &run, "--task", "dart"],
            "the run is of e2e, not of dart",
        ),
        (vec!["generate", "--run", &run], "--contexts FILE is needed"),
        (
            vec!["generate", "--run", &run, "--task", "e2e", "--file", "none.csv"],
            "none.csv",
        ),
        (vec!["eval", "--run", &run, "--beams", "0"], "--beams"),
        (vec!["eval", "--run", &run, "--meteor-data", "none"], "none"),
        (vec!["predict", "--run", &run, "--split", "dev"], "--task e2e"),
        (
            vec!["train", "--task", "e2e", "--model", &model, "--out", "other"],
            "--data DIR is needed",
        ),
        (
            vec![
                "train", "--task", "e2f", "--model", &model, "--data", &data, "--out", "other",
            ],
            "webnlg",
        ),
    ] {
        let found = sentence(&official, &args)?;
        assert!(found.contains(named), "{args:?}: {found}");
    }
    assert!(!official.path("other").exists());
    Ok(())
}

/// The smallest plan with something of everything.
fn plan<'a>(task: &'a str, model: &'a str, data: &'a str, out: &'a str) -> Vec<&'a str> {
    let mut args = vec!["reproduce", task, "--model", model, "--data", data, "--out", out];
    args.extend(WRITING);
    args.extend([
        "--epochs",
        "2",
        "--batch-size",
        "4",
        "--rank",
        "2",
        "--methods",
        "lora,dylora",
    ]);
    args.extend(["--seeds", "10,42", "--warmup-steps", "2", "--lr", "0.02"]);
    args
}

fn json(path: &Path) -> Loaded<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[test]
fn each_task_becomes_a_table_and_is_not_run_twice() -> TestResult {
    let official = Official::new()?;
    let (model, data) = (official.words("model"), official.words("data"));
    for task in TASKS {
        let out = official.words(task.name());
        let args = plan(task.name(), &model, &data, &out);
        let output = command(official.root(), &args).output()?;
        let (said_first, table) = (stderr(&output), String::from_utf8(output.stdout.clone())?);
        assert!(output.status.success(), "{said_first}");
        for words in [
            &format!("reproduce {task}: 4 runs"),
            "4 of 4 runs to do",
            &format!("the test split of {task} is partial: 136 of "),
            " texts in evaluation)",
        ] {
            assert!(said_first.contains(words), "{words:?} is not in {said_first}");
        }
        let number = if task == GenerationTask::E2e {
            "Table 6"
        } else {
            "Table 9"
        };
        for words in [
            number,
            "the paper's numbers are not included yet; they are of another model (GPT-2 Medium)",
            "Settings that are not the paper's, with the paper's in brackets: rank 2 (4)",
            "beams 2 (10)",
            "METEOR is not computed",
            "best",
            "±",
        ] {
            assert!(table.contains(words), "{words:?} is not in {table}");
        }
        let file = json(&official.path(task.name()).join("table.json"))?;
        let cell = &file["rows"][0]["tasks"][task.name()];
        assert_eq!((&cell["metric"], &cell["runs"]), (&"BLEU".into(), &2.into()));
        assert!(
            cell["BLEU"]["mean"].is_number() && cell["BLEU"]["std"].is_number(),
            "{cell}"
        );
        for name in ["table.md", "table.html"] {
            assert!(official.path(task.name()).join(name).is_file());
        }
        // Once more, now with METEOR's data: nothing is trained or written again, and METEOR is there.
        let record = official
            .path(task.name())
            .join(format!("{task}/dylora/seed-10/record.json"));
        let written = fs::read(&record)?;
        let meteor = official.words("meteor");
        let output = command(official.root(), &[&args[..], &["--meteor-data", &meteor]].concat()).output()?;
        assert!(stderr(&output).contains("0 of 4 runs to do"), "{}", stderr(&output));
        let table = String::from_utf8(output.stdout)?;
        assert!(
            table.contains("exact, stem only") && !table.contains("METEOR is not computed"),
            "{table}"
        );
        let file = json(&official.path(task.name()).join("table.json"))?;
        assert!(file["rows"][0]["tasks"][task.name()]["METEOR"]["mean"].is_number());
        assert_eq!(fs::read(&record)?, written, "a record is written once");
    }
    Ok(())
}

fn wait_for(child: &mut Child, path: &Path) -> Loaded<()> {
    let begun = Instant::now();
    while !path.exists() {
        if let Some(status) = child.try_wait()? {
            return Err(format!("ended with {status} before {} was there", path.display()).into());
        }
        if begun.elapsed() > Duration::from_secs(120) {
            return Err(format!("{} never came", path.display()).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[test]
fn a_plan_that_was_killed_goes_on_to_the_same_table() -> TestResult {
    let official = Official::new()?;
    let (model, data) = (official.words("model"), official.words("data"));
    let (whole, killed) = (official.words("whole"), official.words("killed"));
    let more = ["--methods", "dylora", "--seeds", "10", "--checkpoint-every", "1"];
    let args = |out| -> Vec<&str> {
        let plan = plan("e2e", &model, &data, out);
        let kept = plan.iter().position(|flag| *flag == "--methods").unwrap_or(plan.len());
        [&plan[..kept], &more[..], &["--warmup-steps", "2", "--lr", "0.02"]].concat()
    };
    said(&official, &args(&whole))?;
    // Once in training, once while it writes.
    let run = official.path("killed/e2e/dylora/seed-10");
    for sign in ["checkpoint.safetensors", "texts"] {
        let mut child = command(official.root(), &args(&killed))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        wait_for(&mut child, &run.join(sign))?;
        child.kill()?;
        child.wait()?;
    }
    said(&official, &args(&killed))?;
    let results = |dir: &str| -> Loaded<(Value, Vec<u8>, String)> {
        let run = official.path(dir).join("e2e/dylora/seed-10");
        let record = json(&run.join("record.json"))?;
        let texts = fs::read_to_string(run.join("texts/rank-1.txt"))?;
        Ok((
            record["ranks"].clone(),
            fs::read(run.join("adapter.safetensors"))?,
            texts,
        ))
    };
    assert!(results("killed")? == results("whole")?);
    let rows = |dir: &str| -> Loaded<Value> { Ok(json(&official.path(dir).join("table.json"))?["rows"].clone()) };
    assert_eq!(rows("killed")?, rows("whole")?);
    Ok(())
}

/// The smallest plan of the embedded profile.
const SMALL: [&str; 14] = [
    "--methods",
    "dylora",
    "--seeds",
    "10",
    "--rank",
    "2",
    "--epochs",
    "1",
    "--max-train-rows",
    "48",
    "--max-prompts",
    "5",
    "--beams",
    "2",
];

#[test]
fn a_bare_machine_gets_the_table_of_each_task() -> TestResult {
    let home = tempfile::tempdir()?;
    let run = |args: &[&str]| -> Loaded<(String, String)> {
        let output = command(home.path(), args).output()?;
        let stderr = stderr(&output);
        assert!(output.status.success(), "{args:?}: {stderr}");
        Ok((String::from_utf8(output.stdout)?, stderr))
    };
    for task in TASKS {
        let name = task.name();
        let (table, said) = run(&[&["reproduce", name][..], &SMALL].concat())?;
        for words in [
            "a small GPT-2 pre-trained by this project on texts generated by this project, test set",
            "profile: mini",
            "rank 2 (4)",
            "max prompts 5 (not set)",
            "METEOR is not computed",
        ] {
            assert!(table.contains(words), "{words:?} is not in {table}");
        }
        assert!(
            said.contains(&format!("cargo xtask reproduce {name} --profile paper")),
            "{said}"
        );
        let out = home.path().join("runs/mini");
        for expected in [
            "text-data",
            "text-model",
            name,
            "table.html",
            "table.json",
            "table.md",
            "tables",
        ] {
            assert!(out.join(expected).exists(), "{expected}");
        }
        let texts = fs::read_to_string(out.join(name).join("dylora/seed-10/texts/rank-2.txt"))?;
        assert_eq!(texts.lines().count(), 5);
        assert_eq!(
            json(&out.join("table.json"))?["caption"]["same_setting_as_paper"],
            false
        );
    }

    // The same directories as given ones: nothing behind the profile knows which was made.
    let settings = json(&home.path().join("runs/mini/e2e/dylora/seed-10/settings.json"))?;
    let number = |name: &str| settings[name].to_string();
    let numbers = ["lr", "warmup_steps", "batch_size", "dropout"].map(number);
    let same = [
        "--lr",
        &numbers[0],
        "--warmup-steps",
        &numbers[1],
        "--batch-size",
        &numbers[2],
        "--dropout",
        &numbers[3],
        "--update",
        "slice",
        "--optimizer",
        "torch",
    ];
    let given = [
        "--model",
        "runs/mini/text-model",
        "--data",
        "runs/mini/text-data",
        "--out",
        "given",
    ];
    run(&[&["reproduce", "e2e"][..], &SMALL, &same, &given].concat())?;
    for file in ["adapter.safetensors", "texts/rank-1.txt", "texts/rank-2.txt"] {
        let made = fs::read(home.path().join("runs/mini/e2e/dylora/seed-10").join(file))?;
        assert_eq!(
            fs::read(home.path().join("given/e2e/dylora/seed-10").join(file))?,
            made,
            "{file}"
        );
    }
    // Runs keep what they were trained on.
    fs::write(home.path().join("runs/mini/text-data/e2e/trainset.csv"), "mr,ref\n")?;
    let output = command(home.path(), &[&["reproduce", "e2e"][..], &SMALL].concat()).output()?;
    let words = stderr(&output);
    assert!(
        !output.status.success() && words.contains("trainset.csv: is not what this program makes"),
        "{words}"
    );
    Ok(())
}
