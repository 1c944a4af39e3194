//! `cargo xtask package`: what a registry would get of the libraries, and the oldest Rust that builds them.

use std::process::{Command, ExitCode};

use crate::run::{self, Done};

/// The libraries, each after those it depends on: the order in which they are published.
pub(crate) const LIBRARIES: [&str; 4] = ["dylora-tensor", "dylora-autograd", "dylora-nn", "dylora-tasks"];

/// What every package holds beside its sources.
const NEEDED: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Folders that stay at home: tests span crates, and their fixtures are megabytes.
const HOME: [&str; 2] = ["tests/", "benches/"];

/// Lists and makes the packages without a network, then looks at the oldest supported Rust. `--verify` also builds each from its
/// package alone.
pub(crate) fn run(args: &[String]) -> Done {
    let verify = match args {
        [] => false,
        [flag] if flag == "--verify" => true,
        [other, ..] => return Err(format!("package takes --verify, but got `{other}`")),
    };
    for library in LIBRARIES {
        let mut list = run::cargo("package");
        let list = list.args(["--list", "--allow-dirty", "--offline", "--package", library]);
        let output = list.output().map_err(|error| format!("cannot start cargo: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let problems = problems(&String::from_utf8_lossy(&output.stdout));
        if !problems.is_empty() {
            return Err(format!("{library}: {}", problems.join("; ")));
        }
    }
    let mut package = run::cargo("package");
    package.args(["--allow-dirty", "--offline", "--quiet"]);
    if !verify {
        package.arg("--no-verify");
    }
    for library in LIBRARIES {
        package.args(["--package", library]);
    }
    let packaged = run::status(package)?;
    if packaged != ExitCode::SUCCESS {
        return Ok(packaged);
    }
    println!("packages: {}", LIBRARIES.join(", "));
    oldest_rust()
}

/// What is wrong with the list of a package's files.
fn problems(list: &str) -> Vec<String> {
    let files: Vec<&str> = list.lines().collect();
    let missing = NEEDED.iter().filter(|needed| !files.contains(needed));
    let strays = files
        .iter()
        .filter(|file| HOME.iter().any(|folder| file.starts_with(folder)));
    missing
        .map(|needed| format!("no {needed}"))
        .chain(strays.map(|stray| format!("{stray} does not belong there")))
        .collect()
}

/// Checks the libraries with the Rust that `rust-version` names, if this is a newer one and that one is installed.
fn oldest_rust() -> Done {
    let manifest = std::fs::read_to_string(run::root().join("Cargo.toml"))
        .map_err(|error| format!("cannot read Cargo.toml: {error}"))?;
    let oldest = stated(&manifest).ok_or("Cargo.toml states no rust-version")?;
    let version = Command::new("rustc")
        .arg("--version")
        .output()
        .map_err(|error| format!("cannot start rustc: {error}"))?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if is(&version, oldest) {
        println!("oldest Rust: {oldest}, which is this one");
        return Ok(ExitCode::SUCCESS);
    }
    let there = Command::new("rustup")
        .args(["run", oldest, "rustc", "--version"])
        .output();
    if !there.is_ok_and(|output| output.status.success()) {
        println!("oldest Rust: {oldest} is not installed here; not run");
        return Ok(ExitCode::SUCCESS);
    }
    let mut check = Command::new("rustup");
    check.args(["run", oldest, "cargo", "check", "--quiet", "--manifest-path"]);
    check.arg(run::root().join("Cargo.toml"));
    for library in LIBRARIES {
        check.args(["--package", library]);
    }
    // Beside the other build, whose files it would throw away.
    check.env("CARGO_TARGET_DIR", run::root().join("target").join("oldest-rust"));
    run::status(check)
}

/// The version after `rust-version =`.
fn stated(manifest: &str) -> Option<&str> {
    let line = manifest.lines().find(|line| line.starts_with("rust-version"))?;
    line.split('"').nth(1)
}

/// Whether `rustc 1.95.0 (..)` is 1.95.
fn is(version: &str, stated: &str) -> bool {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    number == stated || number.strip_prefix(stated).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_has_what_it_needs_and_no_tests() {
        let whole = "Cargo.toml\nLICENSE-APACHE\nLICENSE-MIT\nREADME.md\nsrc/cpu/attention/tests.rs\nsrc/lib.rs\n";
        assert_eq!(problems(whole), Vec::<String>::new());
        let found = problems("LICENSE-MIT\nREADME.md\ntests/laws.rs\n");
        assert_eq!(found, ["no LICENSE-APACHE", "tests/laws.rs does not belong there"]);
    }

    #[test]
    fn the_stated_rust_is_found_in_the_manifest_and_in_a_version() {
        assert_eq!(stated("edition = \"2024\"\nrust-version = \"1.95\"\n"), Some("1.95"));
        assert_eq!(stated("edition = \"2024\"\n"), None);
        assert!(is("rustc 1.95.0 (abc 2026-03-21)", "1.95") && is("rustc 1.95.0", "1.95.0"));
        assert!(!is("rustc 1.96.0", "1.95") && !is("rustc 1.950.0", "1.95") && !is("", "1.95"));
    }
}
