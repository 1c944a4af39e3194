//! Tasks of this repository: `cargo xtask test | tidy | reproduce | bench | book | package | semver`.
//!
//! The binary uses the standard library only and depends on no crate of the workspace: it starts `cargo` and release
//! binaries, so it compiles in seconds and nothing is ever trained in a debug build.

// A person reads what these tasks print.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod book;
mod generate;
mod gpu;
mod package;
mod reproduce;
mod run;
mod semver;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [ARGS]       every test of the workspace, doc tests included (ARGS go to cargo test)
  tidy              crate walls, forgotten tests, leftovers, lines per crate
  reproduce ARGS    dylora reproduce ARGS, in release mode
  bench ARGS        dylora bench ARGS, in release mode
  bench gpu         training steps on a GPU, and PyTorch's beside them where python3 has torch
  bench generate    texts by beam search, and transformers' beside them where python3 has it
  bench kernels     the kernel benchmarks of dylora-tensor (further ARGS go to cargo bench)
  book [build]      the book in docs/, built and served by mdbook; with `build`, only built into target/book
  package           the libraries as packages, and the oldest Rust (--verify also builds each from its package)
  semver [REV]      the libraries' public interfaces beside those of a revision (default: the newest version's tag; needs
                    cargo-semver-checks)";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let done = match command.as_deref() {
        Some("test") => test::run(&rest),
        Some("tidy") => tidy::run(&rest),
        Some("reproduce") => reproduce::run(&rest),
        Some("bench") => bench::run(&rest),
        Some("book") => book::run(&rest),
        Some("package") => package::run(&rest),
        Some("semver") => semver::run(&rest),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => Err(format!("there is no task `{other}`\n{USAGE}")),
        None => Err(format!("which task?\n{USAGE}")),
    };
    done.unwrap_or_else(|sentence| {
        eprintln!("xtask: {sentence}");
        ExitCode::from(2)
    })
}
