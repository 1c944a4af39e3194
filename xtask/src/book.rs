//! `cargo xtask book`: the book as pages, by the `mdbook` program.

use std::process::{Command, ExitCode};

use crate::run::{self, Done};

/// `book` builds the book, serves it and builds it again when a chapter changes; `book build` only builds it, into
/// `target/book`. Further arguments go to mdbook (`--open`, `--port 4000`).
pub(crate) fn run(args: &[String]) -> Done {
    run_with("mdbook", args)
}

fn run_with(program: &str, args: &[String]) -> Done {
    let installed = Command::new(program).arg("--version").output();
    if !installed.is_ok_and(|output| output.status.success()) {
        return Err("the book needs the mdbook program: cargo install mdbook".to_owned());
    }
    let (subcommand, rest) = match args.split_first() {
        Some((first, rest)) if first == "build" => ("build", rest),
        _ => ("serve", args),
    };
    let mut command = Command::new(program);
    command.arg(subcommand).arg(run::root().join("docs")).args(rest);
    let done = if subcommand == "build" {
        run::status(command)?
    } else {
        run::become_program(command)?
    };
    if done == ExitCode::SUCCESS {
        println!(
            "{}",
            run::root().join("target").join("book").join("index.html").display()
        );
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_mdbook_is_missing_the_sentence_says_how_to_get_it() {
        let sentence = run_with("no such program", &["build".to_owned()]).unwrap_err();
        assert!(sentence.contains("cargo install mdbook"), "{sentence}");
    }
}
