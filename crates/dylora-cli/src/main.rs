//! The `dylora` command: train, evaluate and reproduce DyLoRA.
//!
//! Results go to stdout, progress and errors to stderr. Exit status: 0, or 1 with one sentence on stderr, or 2 for a
//! command line that cannot be read, or 130 after Ctrl-C.

mod args;
mod bench;
mod collected;
mod config_file;
mod data;
mod embedded;
mod eval;
mod export;
mod failure;
mod fetch;
mod generate;
mod inspect;
mod plan_progress;
mod predict;
mod pretrain;
mod profile;
mod progress;
mod reproduce;
mod score;
mod shell;
mod slurm;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "dylora",
    version,
    about = "Low-rank adapters that work at every rank after one training run"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train on a GLUE task or on your own csv, tsv or jsonl files
    Train(Box<train::Args>),
    /// Pre-train a small encoder and its tokenizer on your own text
    Pretrain(Box<pretrain::Args>),
    /// Metrics of a finished run at every rank
    Eval(eval::Args),
    /// Predictions of a finished run, one row per example
    Predict(predict::Args),
    /// Texts that a finished run of --task text writes after contexts
    Generate(generate::Args),
    /// A run's adapter for PEFT, or the model with the adapter merged into it
    Export(export::Args),
    /// What is in a run, a model, an adapter or a checkpoint
    Inspect(inspect::Args),
    /// Metrics of predictions in a file
    Score(score::Args),
    /// Look at data files, or get those of the paper
    Data(data::Args),
    /// Run the experiments behind a table of the paper and print it beside the paper's numbers
    Reproduce(Box<reproduce::Args>),
    /// Measure speed and memory
    Bench(bench::Args),
    /// A completion script for a shell, on stdout
    Completions(shell::CompletionsArgs),
    /// Manual pages
    Man(shell::ManArgs),
}

fn main() -> ExitCode {
    let args = match config_file::expand(std::env::args_os().collect(), &Cli::command()) {
        Ok(args) => args,
        Err(failure) => return failure.report(),
    };
    let result = match Cli::parse_from(args).command {
        Command::Train(args) => train::run(&args),
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Reproduce(args) => reproduce::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Completions(args) => shell::completions(&args, Cli::command()),
        Command::Man(args) => shell::man(&args, Cli::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
