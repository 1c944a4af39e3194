//! `cargo xtask bench gpu`: training steps on a GPU, and PyTorch's in the same run where it is found.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::run::{self, Done};

const USAGE: &str = "usage: cargo xtask bench gpu [--python PYTHON] [--dylora BINARY] [--no-peers]";

/// A model with batch and tokens of a row.
#[derive(Clone, Copy)]
struct Shape {
    model: &'static str,
    batch: usize,
    seq: usize,
    /// Rank and alpha as ours and as the peer's script take them.
    adapter: [&'static str; 4],
}

const fn encoder(seq: usize) -> Shape {
    Shape {
        model: "roberta-base",
        batch: 32,
        seq,
        adapter: ["--rank", "8", "--alpha", "16"],
    }
}

const SHAPES: [Shape; 4] = [
    encoder(64),
    encoder(128),
    encoder(512),
    Shape {
        model: "gpt2-medium",
        batch: 8,
        seq: 512,
        adapter: ["--rank", "4", "--alpha", "32"],
    },
];

struct Options {
    python: String,
    dylora: Option<PathBuf>,
    peers: bool,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        python: "python3".to_owned(),
        dylora: None,
        peers: true,
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let mut value = || args.next().cloned().ok_or(format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--python" => options.python = value()?,
            "--dylora" => options.dylora = Some(PathBuf::from(value()?)),
            "--no-peers" => options.peers = false,
            other => return Err(format!("{other:?} is not a flag of bench gpu\n{USAGE}")),
        }
    }
    Ok(options)
}

/// The number behind a key of one line of flat JSON.
fn number(json: &str, key: &str) -> Option<f64> {
    let rest = json.split_once(&format!("\"{key}\":"))?.1.trim_start();
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    rest[..end].trim().parse().ok()
}

/// Runs a program that prints one line of JSON; milliseconds of its median step.
fn milliseconds(command: &mut Command) -> Result<f64, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .output()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    if let (true, Some(seconds)) = (out.status.success(), line.and_then(|line| number(line, "step_med_s"))) {
        return Ok(seconds * 1e3);
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let last = said
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    Err(format!("{name} failed: {last}"))
}

fn ours(options: &Options, shape: Shape, precision: &str, method: &str) -> Result<f64, String> {
    let binary = options.dylora.clone().unwrap_or_else(run::release_binary);
    let (batch, seq) = (shape.batch.to_string(), shape.seq.to_string());
    // A causal row has one token more than it reads.
    let budget = (shape.batch * (shape.seq + 1)).to_string();
    let mut command = Command::new(binary);
    command.args([
        "bench",
        "step",
        "--device",
        "cuda",
        "--precision",
        precision,
        "--method",
        method,
    ]);
    command.args(["--shape", shape.model, "--batch", &batch, "--seq", &seq]);
    command.args(shape.adapter).args(["--token-budget", &budget]);
    milliseconds(command.args(["--steps", "60", "--warm-up", "15"]))
}

fn theirs(options: &Options, shape: Shape, mode: &str, dylora: bool) -> Result<f64, String> {
    let script = run::root().join("tests/bench/torch_gpu.py");
    let (batch, seq) = (shape.batch.to_string(), shape.seq.to_string());
    let mut command = Command::new(&options.python);
    command.arg(script).args(["--model", shape.model]).args(shape.adapter);
    command.args(["--batch", &batch, "--seq", &seq, "--mode", mode]);
    milliseconds(command.args(dylora.then_some("--dylora")))
}

/// Prints a table of milliseconds, ours first; peers only where Python with torch sees a GPU.
pub(crate) fn run(args: &[String]) -> Done {
    let options = options(args)?;
    if options.dylora.is_none() {
        let mut build = run::cargo("build");
        build.args(["--release", "--package", "dylora-cli", "--bin", "dylora"]);
        if run::status(build)? != ExitCode::SUCCESS {
            return Ok(ExitCode::FAILURE);
        }
    }
    let peers = options.peers
        && Command::new(&options.python)
            .args(["-c", "import torch, transformers; assert torch.cuda.is_available()"])
            .output()
            .is_ok_and(|out| out.status.success());
    if options.peers && !peers {
        eprintln!(
            "xtask: {} has no torch and transformers that see a GPU; no peers",
            options.python
        );
    }
    let row = |shape: Shape, side: &str, what: &str, cell: Result<f64, String>, best: Option<f64>| {
        let ratio = match (&cell, best) {
            (Ok(theirs), Some(ours)) => format!("{:.2}", theirs / ours),
            _ => String::new(),
        };
        let cell = cell.map_or_else(|error| error, |ms| format!("{ms:.2}"));
        let Shape { model, batch, seq, .. } = shape;
        println!("| {model} | {batch} x {seq} | {side} | {what} | {cell} | {ratio} |");
    };
    println!(
        "| model | tokens | side | step | ms | theirs / our bf16 DyLoRA |\n| --- | --- | --- | --- | ---: | ---: |"
    );
    for shape in SHAPES {
        let main = ours(&options, shape, "bf16", "dylora")?;
        row(shape, "this project", "bf16 DyLoRA", Ok(main), None);
        for (precision, method, what) in [
            ("bf16", "lora", "bf16 LoRA"),
            ("bf16", "dylora-frozen", "bf16 DyLoRA frozen"),
            ("tf32", "dylora", "TF32 DyLoRA"),
            ("f32", "dylora", "f32 DyLoRA"),
        ] {
            row(
                shape,
                "this project",
                what,
                ours(&options, shape, precision, method),
                None,
            );
        }
        for (mode, dylora, what) in [
            ("eager", true, "bf16 DyLoRA eager"),
            ("eager", false, "bf16 LoRA eager"),
            ("compile", false, "bf16 LoRA compiled"),
            ("graphs", false, "bf16 LoRA compiled, CUDA graphs"),
        ] {
            if peers {
                row(
                    shape,
                    "PyTorch",
                    what,
                    theirs(&options, shape, mode, dylora),
                    Some(main),
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_from_a_line_of_json() {
        let line = r#"{"step_med_s":0.0035,"steps": 40}"#;
        assert_eq!(number(line, "step_med_s"), Some(0.0035));
        assert_eq!(number(line, "steps"), Some(40.0));
        assert_eq!(number(line, "absent"), None);
    }

    #[test]
    fn a_wrong_flag_is_named() {
        let wrong = options(&["--pythn".to_owned()]).err();
        assert!(wrong.is_some_and(|sentence| sentence.starts_with("\"--pythn\" is not a flag")));
    }
}
