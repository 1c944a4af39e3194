//! `cargo xtask tidy`: a test of the repository itself.
//!
//! Looks at every file that is tracked or would be (`git ls-files -co --exclude-standard`). Each check is a function
//! from texts to problems, so each is tested on literal snippets.

mod hygiene;
mod lexer;
mod size;
mod tests_kept;
mod walls;

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::run::{self, Done};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    /// Path from the root, with `/`.
    file: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    text: String,
}

impl Problem {
    fn new(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            text: text.into(),
        }
    }
}

/// A file of the repository.
struct File {
    /// Path from the root, with `/`.
    path: String,
    bytes: u64,
    /// `None` for what is not UTF-8 or too large to be a text of ours.
    text: Option<String>,
}

impl File {
    /// The text of a Rust source; nothing for any other file.
    fn rust(&self) -> Option<&str> {
        self.text.as_deref().filter(|_| self.path.ends_with(".rs"))
    }
}

/// Runs every check and prints what is wrong, then the lines per crate.
pub(crate) fn run(args: &[String]) -> Done {
    if let Some(unknown) = args.first() {
        return Err(format!("tidy takes no argument, but got `{unknown}`"));
    }
    let files = files(&run::root())?;
    let mut problems = Vec::new();
    for check in [
        walls::manifests,
        walls::sources,
        walls::profiles,
        hygiene::check,
        tests_kept::operations,
        tests_kept::targets,
        size::too_long,
    ] {
        problems.extend(check(&files));
    }
    problems.sort();
    print!("{}", size::table(&files));
    for Problem { file, line, text } in &problems {
        match line {
            0 => println!("{file}: {text}"),
            _ => println!("{file}:{line}: {text}"),
        }
    }
    if problems.is_empty() {
        println!("tidy: {} files, nothing to report", files.len());
        Ok(ExitCode::SUCCESS)
    } else {
        println!("tidy: {} files, {} problems", files.len(), problems.len());
        Ok(ExitCode::FAILURE)
    }
}

/// Every tracked file and every new one that git does not ignore, with its text.
fn files(root: &Path) -> Result<Vec<File>, String> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .map_err(|error| format!("cannot start git: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "git ls-files failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let mut paths: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .split_terminator('\0')
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    let mut files = Vec::new();
    for path in paths {
        let full = root.join(&path);
        // A tracked file may be deleted in the working tree.
        let Some(meta) = full.symlink_metadata().ok().filter(std::fs::Metadata::is_file) else {
            continue;
        };
        let readable = meta.len() <= hygiene::MAX_BYTES;
        let text = if readable {
            std::fs::read(&full)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
        } else {
            None
        };
        files.push(File {
            path,
            bytes: meta.len(),
            text,
        });
    }
    Ok(files)
}

/// A file for the tests of the checks.
#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File {
        path: path.to_owned(),
        bytes: text.len() as u64,
        text: Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_has_files() {
        let files = files(&run::root()).unwrap();
        assert!(
            files
                .iter()
                .any(|file| file.path == "xtask/src/tidy.rs" && file.rust().is_some())
        );
        assert!(files.iter().all(|file| !file.path.starts_with("target")));
    }

    #[test]
    fn an_argument_is_refused() {
        assert!(run(&["--fix".to_owned()]).unwrap_err().contains("--fix"));
    }
}
