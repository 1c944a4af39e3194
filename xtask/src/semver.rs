//! `cargo xtask semver`: the libraries' public interfaces beside those of another revision.

use std::process::{Command, ExitCode};

use crate::package::LIBRARIES;
use crate::run::{self, Done};

/// The tool that compares them.
const TOOL: &str = "cargo-semver-checks";

/// Compares with the revision that is given, or the newest version's tag: nothing is published, so there is no registry to compare
/// with.
pub(crate) fn run(args: &[String]) -> Done {
    let revision = match args {
        [] => newest_tag()?,
        [revision] if !revision.starts_with('-') => revision.clone(),
        _ => return Err("semver takes one revision of this repository to compare with".to_owned()),
    };
    let there = Command::new(TOOL).arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        return Err(format!("{TOOL} is not installed; `cargo install {TOOL}` gets it"));
    }
    let mut check = run::cargo("semver-checks");
    check.args(arguments(&revision));
    let done = run::status(check)?;
    if done == ExitCode::SUCCESS {
        println!(
            "public interfaces: nothing that was there at {revision} is gone or different, beyond what the version says"
        );
    }
    Ok(done)
}

/// What cargo-semver-checks is given.
fn arguments(revision: &str) -> Vec<String> {
    let mut arguments = vec!["--baseline-rev".to_owned(), revision.to_owned()];
    for library in LIBRARIES {
        arguments.extend(["--package".to_owned(), library.to_owned()]);
    }
    arguments
}

/// The newest tag that names a version: v0.1.0.
fn newest_tag() -> Result<String, String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(run::root());
    git.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]);
    let output = git.output().map_err(|error| format!("cannot start git: {error}"))?;
    if !output.status.success() {
        return Err(
            "no version is tagged yet; name a revision to compare with, as in `cargo xtask semver HEAD~10`".to_owned(),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_is_compared_with_the_revision() {
        let words = arguments("HEAD~3");
        assert_eq!(words[..2], ["--baseline-rev", "HEAD~3"]);
        assert_eq!(
            words.iter().filter(|word| *word == "--package").count(),
            LIBRARIES.len()
        );
    }

    #[test]
    fn what_is_no_revision_is_refused() {
        for args in [&["--all"][..], &["a", "b"]] {
            let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
            assert!(run(&args).unwrap_err().contains("one revision"));
        }
    }
}
