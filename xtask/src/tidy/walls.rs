//! The walls between the crates: what each may depend on, and what its sources may not name.

use super::lexer::{self, Path};
use super::{File, Problem};

/// Libraries that compute on raw memory; only dylora-tensor talks to them.
const BACKENDS: &[&str] = &["ndarray", "cudarc", "gemm", "pulp", "matrixmultiply"];

/// What one crate may and may not name.
struct Wall {
    /// Directory and package of the crate.
    folder: &'static str,
    /// The crates of the workspace it may depend on; `None` for any.
    below: Option<&'static [&'static str]>,
    /// Other crates that it never names, beside [`BACKENDS`].
    never: &'static [&'static str],
    /// Modules of the standard library that it never names.
    std_modules: &'static [&'static str],
    /// Source files, from the crate's folder, that may name them after all.
    except: &'static [&'static str],
    backends: bool,
    prints: bool,
    /// Whether sources may have statics and thread-locals.
    statics: bool,
    /// Whether sources may reach into `ops` of the crates below.
    ops: bool,
}

const OPEN: Wall = Wall {
    folder: "",
    below: None,
    never: &[],
    std_modules: &[],
    except: &[],
    backends: false,
    prints: true,
    statics: true,
    ops: true,
};

const WALLS: &[Wall] = &[
    Wall {
        folder: "crates/dylora-tensor",
        below: Some(&[]),
        never: &["safetensors", "serde", "serde_json", "tokenizers", "clap"],
        std_modules: &["fs", "env"],
        except: &["src/map.rs"],
        backends: true,
        ..OPEN
    },
    Wall {
        folder: "crates/dylora-autograd",
        below: Some(&["dylora-tensor"]),
        never: &["half", "safetensors", "serde", "serde_json", "tokenizers", "clap"],
        std_modules: &["fs", "env"],
        statics: false,
        ..OPEN
    },
    Wall {
        folder: "crates/dylora-nn",
        below: Some(&["dylora-tensor", "dylora-autograd"]),
        never: &["tokenizers", "csv", "clap", "indicatif"],
        std_modules: &["fs", "env"],
        except: &["src/checkpoint.rs"],
        ..OPEN
    },
    Wall {
        folder: "crates/dylora-tasks",
        below: Some(&["dylora-nn"]),
        never: &["half", "clap", "indicatif"],
        prints: false,
        ops: false,
        ..OPEN
    },
    Wall {
        folder: "crates/dylora-cli",
        below: Some(&["dylora-tasks"]),
        never: &["half"],
        ..OPEN
    },
    Wall {
        folder: "tests",
        ..OPEN
    },
    Wall {
        folder: "xtask",
        below: Some(&[]),
        ..OPEN
    },
];

fn wall_of(path: &str) -> Option<&'static Wall> {
    WALLS
        .iter()
        .find(|wall| path.strip_prefix(wall.folder).is_some_and(|rest| rest.starts_with('/')))
}

/// Dependencies that a crate's manifest may not have; xtask may have none at all.
pub(super) fn manifests(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        let (Some(wall), Some(text)) = (wall_of(&file.path), &file.text) else {
            continue;
        };
        if file.path != format!("{}/Cargo.toml", wall.folder) {
            continue;
        }
        for (line, name) in dependencies(text) {
            let reason = if wall.folder == "xtask" {
                Some("xtask has no dependencies, so that it compiles in seconds".to_owned())
            } else if name.starts_with("dylora-") {
                let below = wall.below.is_none_or(|below| below.contains(&name.as_str()));
                (!below).then(|| format!("{} may not depend on {name}", wall.folder))
            } else {
                forbidden(wall, &name.replace('-', "_"))
                    .map(|why| format!("{} may not depend on {name}: {why}", wall.folder))
            };
            problems.extend(reason.map(|text| Problem::new(&file.path, line, text)));
        }
    }
    problems
}

/// Why the crate behind this wall may not name the outside crate `name`.
fn forbidden(wall: &Wall, name: &str) -> Option<&'static str> {
    if !wall.backends && BACKENDS.contains(&name) {
        return Some("only dylora-tensor computes on raw memory");
    }
    wall.never.contains(&name).then_some("it belongs to another room")
}

/// Line and name of every dependency of a manifest, of whatever kind and for whatever target.
fn dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = section.ends_with("dependencies");
            // `[dependencies.name]`
            if let Some((head, name)) = section.rsplit_once('.')
                && head.ends_with("dependencies")
            {
                found.push((index + 1, name.trim_matches('"').to_owned()));
            }
        } else if inside && let Some((key, _)) = line.split_once('=') {
            // `name = ..` or `name.workspace = true`
            let name = key.split('.').next().unwrap_or_default().trim().trim_matches('"');
            found.push((index + 1, name.to_owned()));
        }
    }
    found
}

/// What the sources of a crate may not name. Unit tests inside a source are free to use files and to print.
pub(super) fn sources(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        let Some(source) = file.rust() else { continue };
        let tokens = lexer::tokens(source);
        if !file.path.starts_with("crates/dylora-tensor/") {
            for token in tokens.iter().filter(|token| token.text == "unsafe") {
                problems.push(Problem::new(
                    &file.path,
                    token.line,
                    "`unsafe` stands only in dylora-tensor",
                ));
            }
        }
        let Some(wall) = wall_of(&file.path) else { continue };
        for path in lexer::paths(&tokens) {
            if let Some(text) = outside_crate(wall, &path) {
                problems.push(Problem::new(&file.path, path.line, text));
            }
        }
        let inside = file.path[wall.folder.len() + 1..].to_owned();
        if !inside.starts_with("src/") || inside.ends_with("/tests.rs") {
            continue;
        }
        let shipped = lexer::shipped(&tokens);
        for path in lexer::paths(&shipped) {
            if let Some(text) = within_source(wall, &inside, &path) {
                problems.push(Problem::new(&file.path, path.line, text));
            }
        }
        for token in shipped.iter().filter(|token| !wall.statics && token.text == "static") {
            problems.push(Problem::new(
                &file.path,
                token.line,
                format!("{} has no global state", wall.folder),
            ));
        }
    }
    problems
}

/// A crate that this one may not name anywhere, tests included.
fn outside_crate(wall: &Wall, path: &Path) -> Option<String> {
    let name = path.segments.first()?;
    if !path.enters(name) {
        return None;
    }
    if let Some(why) = forbidden(wall, name) {
        return Some(format!("{} never names {name}: {why}", wall.folder));
    }
    let package = name.replace('_', "-");
    let own = wall.folder.ends_with(&package);
    let stranger = package.starts_with("dylora-")
        && WALLS.iter().any(|other| other.folder.ends_with(&package))
        && wall.below.is_some_and(|below| !below.contains(&package.as_str()));
    (stranger && !own).then(|| format!("{} may not name {package}", wall.folder))
}

/// Files of dylora-tasks that may name the embedded profile: where it is made, and where the module is declared.
const EMBEDDED: [&str; 2] = ["crates/dylora-tasks/src/mini/", "crates/dylora-tasks/src/lib.rs"];

/// Files of dylora-tasks that carry a profile's name to where it is printed.
const CARRIERS: [&str; 4] = [
    "crates/dylora-tasks/src/study.rs",
    "crates/dylora-tasks/src/experiment.rs",
    "crates/dylora-tasks/src/report/",
    "crates/dylora-tasks/src/table/",
];

/// Every profile runs through the same code: what trains, evaluates and lays out tables cannot know which one it serves.
pub(super) fn profiles(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        let path = file.path.as_str();
        let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        if !path.starts_with("crates/dylora-tasks/src/") || is(&EMBEDDED) {
            continue;
        }
        let Some(source) = file.rust() else { continue };
        for token in lexer::shipped(&lexer::tokens(source)) {
            let words = token.text.to_ascii_lowercase();
            let names = |word: &str| words.split('_').any(|each| each == word);
            if names("mini") {
                problems.push(Problem::new(
                    path,
                    token.line,
                    "only src/mini knows the embedded profile",
                ));
            }
            if names("profile") && !is(&CARRIERS) {
                problems.push(Problem::new(
                    path,
                    token.line,
                    "what trains and evaluates knows no profile",
                ));
            }
        }
    }
    problems
}

/// What may not be named by the code that ships.
fn within_source(wall: &Wall, inside: &str, path: &Path) -> Option<String> {
    let last = path.segments.last()?;
    let excepted = wall.except.contains(&inside);
    if let Some(module) = wall
        .std_modules
        .iter()
        .find(|module| path.starts_with(&["std", module]))
        && !excepted
    {
        let where_else = wall
            .except
            .first()
            .map_or(String::new(), |except| format!(" outside {except}"));
        return Some(format!("{} never names std::{module}{where_else}", wall.folder));
    }
    if !wall.statics && path.is_macro && last == "thread_local" {
        return Some(format!("{} has no global state", wall.folder));
    }
    if !wall.prints {
        let macros = path.is_macro && matches!(last.as_str(), "print" | "println" | "eprint" | "eprintln");
        let streams = ["stdout", "stderr"]
            .iter()
            .any(|stream| path.starts_with(&["std", "io", stream]));
        if macros || streams {
            return Some(format!(
                "{} prints nothing; it reports through a trait or tracing",
                wall.folder
            ));
        }
    }
    let numeric = ["autograd", "tensor", "dylora_autograd", "dylora_tensor"];
    let enters_ops = |pair: &[String]| numeric.contains(&pair[0].as_str()) && pair[1] == "ops";
    (!wall.ops && path.segments.windows(2).any(enters_ops))
        .then(|| format!("{} names no operation; models live in dylora-nn", wall.folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        let files = [file(path, text)];
        let problems = if path.ends_with(".toml") {
            manifests(&files)
        } else {
            sources(&files)
        };
        problems
            .into_iter()
            .map(|problem| (problem.line, problem.text))
            .collect()
    }

    fn fails(path: &str, text: &str, word: &str) {
        let problems = found(path, text);
        assert_eq!(problems.len(), 1, "{path}: {text}: {problems:?}");
        assert!(problems[0].1.contains(word), "{problems:?}");
    }

    fn passes(path: &str, text: &str) {
        assert_eq!(found(path, text), [], "{path}: {text}");
    }

    #[test]
    fn every_wall_has_a_folder() {
        for wall in WALLS {
            assert!(
                crate::run::root().join(wall.folder).join("Cargo.toml").is_file(),
                "{}",
                wall.folder
            );
        }
    }

    #[test]
    fn dependencies_are_read_from_every_section() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true # b = 1\n\"c\" = \"1\"\n\
                        [target.'cfg(unix)'.dev-dependencies]\nd = { version = \"1\" }\n[dependencies.e]\npath = \"e\"\n\
                        [features]\nf = []";
        let names: Vec<_> = dependencies(manifest).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["a", "c", "d", "e"]);
    }

    #[test]
    fn manifests_keep_to_the_crates_below() {
        let with = |name: &str| format!("[dependencies]\n{name}.workspace = true");
        fails(
            "crates/dylora-tensor/Cargo.toml",
            &with("dylora-nn"),
            "may not depend on dylora-nn",
        );
        fails("crates/dylora-autograd/Cargo.toml", &with("ndarray"), "raw memory");
        fails("crates/dylora-autograd/Cargo.toml", &with("half"), "another room");
        fails(
            "crates/dylora-tasks/Cargo.toml",
            &with("dylora-tensor"),
            "may not depend",
        );
        fails("xtask/Cargo.toml", &with("anything"), "seconds");
        passes("crates/dylora-tensor/Cargo.toml", &with("ndarray"));
        passes("crates/dylora-nn/Cargo.toml", &with("half"));
        passes("crates/dylora-nn/Cargo.toml", &with("dylora-autograd"));
        passes("tests/Cargo.toml", &with("dylora-tensor"));
        passes("Cargo.toml", "[workspace.dependencies]\nndarray = \"1\"");
    }

    #[test]
    fn unsafe_stands_in_one_crate() {
        fails(
            "crates/dylora-nn/src/a.rs",
            "fn f() {\n unsafe { g() } }",
            "only in dylora-tensor",
        );
        fails(
            "crates/dylora-nn/tests/a.rs",
            "unsafe fn f() {}",
            "only in dylora-tensor",
        );
        passes(
            "crates/dylora-nn/src/a.rs",
            "#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";",
        );
        passes("crates/dylora-tensor/src/a.rs", "unsafe {}");
    }

    #[test]
    fn outside_crates_are_seen_in_sources_and_tests() {
        fails("crates/dylora-autograd/src/a.rs", "use ndarray::Array2;", "ndarray");
        fails(
            "crates/dylora-autograd/tests/a.rs",
            "fn f() { half::bf16::ZERO; }",
            "half",
        );
        fails("crates/dylora-tasks/src/a.rs", "use {gemm::gemm};", "gemm");
        fails(
            "crates/dylora-tensor/src/a.rs",
            "use dylora_nn::X;",
            "may not name dylora-nn",
        );
        fails("xtask/src/a.rs", "use dylora_cli::X;", "dylora-cli");
        passes(
            "crates/dylora-tasks/src/a.rs",
            "/// ndarray::x\nlet half = 2; super::gemm::f(half);",
        );
        passes("crates/dylora-tasks/tests/a.rs", "use dylora_tasks::glue;");
        passes(
            "crates/dylora-tensor/src/cpu/gemm.rs",
            "use crate::cpu::gemm; use ndarray::Array; gemm::f();",
        );
    }

    #[test]
    fn files_and_environment_stay_outside() {
        fails("crates/dylora-tensor/src/a.rs", "use std::{io, fs::File};", "std::fs");
        fails(
            "crates/dylora-tensor/src/a.rs",
            "fn f() { ::std::env::var(\"X\"); }",
            "std::env",
        );
        fails(
            "crates/dylora-autograd/src/a.rs",
            "fn f() { std::fs::read(p); }",
            "std::fs",
        );
        fails(
            "crates/dylora-nn/src/config.rs",
            "use std::fs;",
            "outside src/checkpoint.rs",
        );
        passes("crates/dylora-nn/src/checkpoint.rs", "use std::fs;");
        passes(
            "crates/dylora-nn/src/config.rs",
            "fn f() {} #[cfg(test)] mod tests { use std::fs; }",
        );
        passes("crates/dylora-tensor/tests/a.rs", "use std::fs;");
        passes("crates/dylora-tasks/src/a.rs", "use std::fs;");
    }

    #[test]
    fn profiles_are_known_where_they_are_chosen() {
        let found = |path: &str, text: &str| profiles(&[file(path, text)]).len();
        let tasks = "crates/dylora-tasks/src";
        assert_eq!(found(&format!("{tasks}/train.rs"), "if mini::SEED == MINI_SEED {}"), 2);
        assert_eq!(found(&format!("{tasks}/table/text.rs"), "use crate::mini;"), 1);
        assert_eq!(found(&format!("{tasks}/trainer.rs"), "fn f(profile: &str) {}"), 1);
        assert_eq!(
            found(&format!("{tasks}/train.rs"), "let minimum = 1; // the mini profile"),
            0
        );
        assert_eq!(
            found(&format!("{tasks}/table/mod.rs"), "struct Table { profile: String }"),
            0
        );
        assert_eq!(found(&format!("{tasks}/mini/mod.rs"), "const MINI: u8 = 1;"), 0);
        assert_eq!(found(&format!("{tasks}/lib.rs"), "pub mod mini;"), 0);
        assert_eq!(found("crates/dylora-cli/src/profile.rs", "mini::SEED"), 0);
    }

    #[test]
    fn tasks_neither_prints_nor_names_operations() {
        fails(
            "crates/dylora-tasks/src/a.rs",
            "fn f() { println!(\"x\"); }",
            "prints nothing",
        );
        fails(
            "crates/dylora-tasks/src/a.rs",
            "fn f() { std::eprintln!(\"x\"); }",
            "prints nothing",
        );
        fails(
            "crates/dylora-tasks/src/a.rs",
            "use std::io::{self, stderr};",
            "prints nothing",
        );
        fails(
            "crates/dylora-tasks/src/a.rs",
            "use dylora_nn::autograd::ops::linear;",
            "no operation",
        );
        passes(
            "crates/dylora-tasks/src/a.rs",
            "use std::ops::Range; fn f() { tracing::info!(\"x\"); write!(w, \"x\"); }",
        );
        passes("crates/dylora-cli/src/a.rs", "fn f() { println!(\"x\"); }");
    }

    #[test]
    fn gradients_have_no_global_state() {
        fails("crates/dylora-autograd/src/a.rs", "static A: u8 = 0;", "global state");
        fails("crates/dylora-autograd/src/a.rs", "thread_local! { }", "global state");
        passes("crates/dylora-autograd/src/a.rs", "const A: &'static str = \"static\";");
    }
}
