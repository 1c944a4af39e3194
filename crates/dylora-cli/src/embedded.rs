//! Puts the model and the data that are part of this program into two directories, where any other would be.

use std::fs;
use std::path::{Path, PathBuf};

use dylora_tasks::dir_lock::DirLock;
use dylora_tasks::generation::{self, GenerationTask};
use dylora_tasks::{Error, Result, glue, mini};

/// `out/model` and `out/data`, made if they are not there and made whole if a file is missing or another.
///
/// # Errors
/// If a file cannot be written, or is another although runs in `out` were trained beside it.
pub(crate) fn write(out: &Path) -> Result<(PathBuf, PathBuf)> {
    let _alone = DirLock::wait(out)?;
    let runs: Vec<&str> = glue::TASKS.iter().map(|task| task.name).collect();
    let model = place(out, "model", &runs, mini::write_model)?;
    let data = place(out, "data", &runs, |dir| mini::write_tasks(dir, mini::SEED))?;
    Ok((model, data))
}

/// [`write()`] of the embedded language model and the files of generation tasks: `out/text-model` and `out/text-data`.
///
/// # Errors
/// As [`write()`].
pub(crate) fn write_text(out: &Path, tasks: &[GenerationTask]) -> Result<(PathBuf, PathBuf)> {
    let _alone = DirLock::wait(out)?;
    let runs: Vec<&str> = generation::TASKS.iter().map(|task| task.name()).collect();
    let model = place(out, "text-model", &runs, mini::write_causal_model)?;
    let mut data = out.join("text-data");
    for &task in tasks {
        data = place(out, "text-data", &[task.name()], |dir| {
            mini::write_generation_task(task, dir, mini::SEED)
        })?;
    }
    Ok((model, data))
}

/// Makes the files of `out/name`: all of them under another name first, then those that differ are renamed. `runs` are the
/// folders of runs that may have been trained on them. Whoever calls it has the lock of `out`.
fn place(out: &Path, name: &str, runs: &[&str], write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = out.join(name);
    let fresh = out.join(format!(".{name}.tmp"));
    // What a killed call left.
    clear(&fresh)?;
    fs::create_dir_all(&fresh).map_err(Error::io("create", &fresh))?;
    let placed = write(&fresh).and_then(|()| replace(&fresh, &dir, out, runs));
    let cleared = clear(&fresh);
    placed?;
    cleared?;
    Ok(dir)
}

fn replace(fresh: &Path, dir: &Path, out: &Path, runs: &[&str]) -> Result<()> {
    let mut changed = Vec::new();
    for file in files(fresh, Path::new(""))? {
        let (made, there) = (fresh.join(&file), dir.join(&file));
        if !there.is_file() {
            changed.push(file);
            continue;
        }
        let read = |path: &Path| fs::read(path).map_err(Error::io("read", path));
        if read(&made)? == read(&there)? {
            continue;
        }
        // A record must not stand beside data that it is not of.
        if runs.iter().any(|task| out.join(task).is_dir()) {
            return Err(Error::file(
                &there,
                format!(
                    "is not what this program makes, and there are runs in {}: choose another --out, or remove it",
                    out.display()
                ),
            ));
        }
        changed.push(file);
    }
    for file in changed {
        let target = dir.join(&file);
        let parent = target.parent().unwrap_or(dir);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        fs::rename(fresh.join(&file), &target).map_err(Error::io("write", &target))?;
    }
    Ok(())
}

/// All files below `dir/below`, as paths from `dir`, in order.
fn files(dir: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let here = dir.join(below);
    let mut found = Vec::new();
    for entry in fs::read_dir(&here).map_err(Error::io("read", &here))? {
        let entry = entry.map_err(Error::io("read", &here))?;
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            found.extend(files(dir, &path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two files, one of them in a folder.
    fn write_two(dir: &Path) -> Result<()> {
        fs::create_dir_all(dir.join("a")).map_err(Error::io("create", dir))?;
        for (file, text) in [("a/one", "1"), ("two", "2")] {
            let path = dir.join(file);
            fs::write(&path, text).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }

    #[test]
    fn files_are_made_once_and_made_whole() {
        let out = tempfile::tempdir().unwrap();
        let out = out.path();
        let make = || place(out, "data", &["rte"], write_two);
        let dir = make().unwrap();
        assert_eq!(files(&dir, Path::new("")).unwrap(), ["a/one", "two"].map(PathBuf::from));
        fs::write(dir.join("own"), "mine").unwrap();
        fs::write(dir.join("two"), "3").unwrap();
        fs::remove_file(dir.join("a/one")).unwrap();
        fs::create_dir(out.join(".data.tmp")).unwrap();
        make().unwrap();
        for (file, text) in [("a/one", "1"), ("two", "2"), ("own", "mine")] {
            assert_eq!(fs::read_to_string(dir.join(file)).unwrap(), text, "{file}");
        }
        assert_eq!(fs::read_dir(out).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn runs_keep_what_they_were_trained_on() {
        let out = tempfile::tempdir().unwrap();
        let out = out.path();
        let dir = place(out, "data", &["rte"], write_two).unwrap();
        fs::create_dir(out.join("rte")).unwrap();
        place(out, "data", &["rte"], write_two).unwrap();
        fs::write(dir.join("two"), "3").unwrap();
        let message = place(out, "data", &["rte"], write_two).unwrap_err().to_string();
        let file = dir.join("two");
        assert!(
            message.starts_with(file.to_str().unwrap()) && message.contains("--out"),
            "{message}"
        );
        assert_eq!(fs::read_to_string(file).unwrap(), "3");
        assert!(!out.join(".data.tmp").exists());
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let out = tempfile::tempdir().unwrap();
        let fails = |dir: &Path| {
            write_two(dir)?;
            Err(Error::argument("x", "fails"))
        };
        assert!(place(out.path(), "data", &[], fails).is_err());
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
