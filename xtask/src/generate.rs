//! `cargo xtask bench generate`: texts by beam search, and transformers' `generate` in the same run where it is found. The two
//! take turns, so that what else the machine does meets both.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::run::{self, Done};

const USAGE: &str =
    "usage: cargo xtask bench generate [--device cpu|cuda] [--python PYTHON] [--dylora BINARY] [--no-peers] \
[--shape SHAPE] [--new-tokens N] [--runs N] [--rounds N]
  --shape       only the cases of this shape (gpt2, gpt2-medium)
  --new-tokens  tokens of a text, in place of each case's
  --runs        timed passes of each program [3]
  --rounds      how often the programs take turns; the median counts [1]";

/// Shape, prompts, tokens of a prompt and of a text, prompts at a time.
type Case = (&'static str, usize, usize, usize, usize);

const ON_CPU: [Case; 4] = [
    ("gpt2", 2, 32, 24, 1),
    ("gpt2", 4, 32, 24, 4),
    ("gpt2-medium", 2, 32, 24, 1),
    ("gpt2-medium", 4, 32, 24, 4),
];
const ON_GPU: [Case; 2] = [("gpt2-medium", 64, 32, 48, 16), ("gpt2-medium", 128, 32, 48, 64)];

struct Options {
    python: String,
    dylora: Option<PathBuf>,
    peers: bool,
    cuda: bool,
    shape: Option<String>,
    new_tokens: Option<usize>,
    runs: usize,
    rounds: usize,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        python: "python3".to_owned(),
        dylora: None,
        peers: true,
        cuda: false,
        shape: None,
        new_tokens: None,
        runs: 3,
        rounds: 1,
    };
    let count = |flag: &str, text: String| match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("{flag} needs a number above 0, not {text:?}\n{USAGE}")),
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let mut value = || args.next().cloned().ok_or(format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--python" => options.python = value()?,
            "--dylora" => options.dylora = Some(PathBuf::from(value()?)),
            "--no-peers" => options.peers = false,
            "--shape" => options.shape = Some(value()?),
            "--new-tokens" => options.new_tokens = Some(count(flag, value()?)?),
            "--runs" => options.runs = count(flag, value()?)?,
            "--rounds" => options.rounds = count(flag, value()?)?,
            "--device" => {
                options.cuda = match value()?.as_str() {
                    "cpu" => false,
                    "cuda" => true,
                    other => return Err(format!("{other:?} is not cpu or cuda\n{USAGE}")),
                }
            }
            other => return Err(format!("{other:?} is not a flag of bench generate\n{USAGE}")),
        }
    }
    if options.cases().is_empty() {
        let shape = options.shape.unwrap_or_default();
        return Err(format!("no case has the shape {shape:?}\n{USAGE}"));
    }
    Ok(options)
}

impl Options {
    fn cases(&self) -> Vec<Case> {
        let all: &[Case] = if self.cuda { &ON_GPU } else { &ON_CPU };
        let wanted = |case: &&Case| self.shape.as_deref().is_none_or(|shape| shape == case.0);
        let with_tokens = |case: &Case| (case.0, case.1, case.2, self.new_tokens.unwrap_or(case.3), case.4);
        all.iter().filter(wanted).map(with_tokens).collect()
    }
}

/// The flags that both sides take.
fn flags(options: &Options, case: Case) -> Vec<String> {
    let (shape, prompts, prompt_tokens, new_tokens, batch) = case;
    let device = if options.cuda { "cuda" } else { "cpu" };
    let named = [
        ("--shape", shape.to_owned()),
        ("--prompts", prompts.to_string()),
        ("--prompt-tokens", prompt_tokens.to_string()),
        ("--max-new-tokens", new_tokens.to_string()),
        ("--batch-size", batch.to_string()),
        ("--runs", options.runs.to_string()),
        ("--device", device.to_owned()),
        ("--precision", if options.cuda { "bf16" } else { "f32" }.to_owned()),
    ];
    named
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

/// Runs a program that prints JSON; its tokens a second.
fn tokens_per_second(command: &mut Command) -> Result<f64, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .output()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if let (true, Some(found)) = (out.status.success(), number(&text, "tokens_per_s")) {
        return Ok(found);
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(format!("{name} failed: {}", last.unwrap_or("it said nothing")))
}

/// The middle one of some numbers, or the mean of the middle two.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match (numbers.len(), numbers.len() % 2) {
        (0, _) => f64::NAN,
        (_, 1) => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

/// The number behind a key of flat JSON.
fn number(json: &str, key: &str) -> Option<f64> {
    let rest = json.split_once(&format!("\"{key}\":"))?.1.trim_start();
    let end = rest.find([',', '}', '\n']).unwrap_or(rest.len());
    rest[..end].trim().parse().ok()
}

/// Prints a table of tokens a second.
pub(crate) fn run(args: &[String]) -> Done {
    let options = options(args)?;
    if options.dylora.is_none() {
        let mut build = run::cargo("build");
        build.args(["--release", "--package", "dylora-cli", "--bin", "dylora"]);
        if run::status(build)? != ExitCode::SUCCESS {
            return Ok(ExitCode::FAILURE);
        }
    }
    let binary = options.dylora.clone().unwrap_or_else(run::release_binary);
    let has_peer = Command::new(&options.python)
        .args(["-c", "import torch, transformers"])
        .output()
        .is_ok_and(|out| out.status.success());
    if options.peers && !has_peer {
        eprintln!("xtask: {} has no torch and transformers; no peer", options.python);
    }
    println!("Beam 10, no repeated 4-gram; tokens of the best texts a second.\n");
    println!("| shape | prompts, at a time | tokens in, out | this project | transformers | ratio |");
    println!("| --- | --- | --- | ---: | ---: | ---: |");
    for case in options.cases() {
        let flags = flags(&options, case);
        let script = run::root().join("tests/bench/torch_generate.py");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            ours.push(tokens_per_second(
                Command::new(&binary).args(["bench", "generate"]).args(&flags),
            )?);
            if options.peers && has_peer {
                theirs.push(tokens_per_second(
                    Command::new(&options.python).arg(&script).args(&flags),
                ));
            }
        }
        let ours = median(ours);
        let (theirs, ratio) = match theirs.into_iter().collect::<Result<Vec<f64>, String>>() {
            Ok(found) if found.is_empty() => (String::new(), String::new()),
            Ok(found) => {
                let found = median(found);
                (format!("{found:.1}"), format!("{:.2}", ours / found))
            }
            Err(sentence) => (sentence, String::new()),
        };
        let (shape, prompts, tokens_in, tokens_out, batch) = case;
        println!("| {shape} | {prompts}, {batch} | {tokens_in}, {tokens_out} | {ours:.1} | {theirs} | {ratio} |");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_from_json_of_several_lines() {
        let text = "{\n  \"tokens_per_s\": 12.5,\n  \"prompts\": 3\n}";
        assert_eq!(number(text, "tokens_per_s"), Some(12.5));
        assert_eq!(number(text, "prompts"), Some(3.0));
        assert_eq!(number(text, "absent"), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_wrong_flag_is_named_and_both_sides_get_the_same() {
        let of = |args: &[&str]| options(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        let sentence = of(&["--devise", "cpu"]).err().unwrap_or_default();
        assert!(sentence.starts_with("\"--devise\" is not a flag"), "{sentence}");
        let sentence = of(&["--device", "tpu"]).err().unwrap_or_default();
        assert!(sentence.starts_with("\"tpu\" is not cpu or cuda"), "{sentence}");
        let sentence = of(&["--rounds", "0"]).err().unwrap_or_default();
        assert!(sentence.starts_with("--rounds needs a number above 0"), "{sentence}");
        let sentence = of(&["--shape", "gpt3"]).err().unwrap_or_default();
        assert!(sentence.starts_with("no case has the shape \"gpt3\""), "{sentence}");
        let short = of(&["--shape", "gpt2", "--new-tokens", "5"]).map(|options| options.cases());
        assert_eq!(short, Ok(vec![("gpt2", 2, 32, 5, 1), ("gpt2", 4, 32, 5, 4)]));
        let found = of(&["--device", "cuda"]).map(|options| flags(&options, ON_GPU[0]));
        assert!(found.is_ok_and(|flags| flags.ends_with(&["--precision".to_owned(), "bf16".to_owned()])));
    }
}
