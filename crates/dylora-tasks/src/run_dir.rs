//! The directory of one run: what it is, how far it is, and what came out.
//!
//! | file | what | written |
//! | --- | --- | --- |
//! | `settings.json` | [`TrainSettings`] | before the first step |
//! | `task.json` | [`Task`]: head, metrics, label names; what it is for [`crate::text2text`] | before the first step |
//! | `run.toml` | the same settings as flags of `dylora train`, for a run that repeats it | before the first step |
//! | `model/` | `config.json` and tokenizer files of the base model | before the first step |
//! | `checkpoint.safetensors` | trained tensors, both moments, position | at every epoch's end and interruption |
//! | `adapter.safetensors` | trained tensors | at the end |
//! | `texts/` | for a generation task: a text a line, a file for each rank | before the record, rank by rank |
//! | `record.json` | [`Record`] | at the end, once |
//! | `.lock` | locked while a process trains, see [`DirLock`] | before everything else |
//! | `costs.json` | [`crate::cost::Costs`]: what each rank takes | when somebody asks for it |
//!
//! The base model's weights are not copied: `settings.json` says where they are. Every file is written under another
//! name first and renamed, so that none is ever half there.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dir_lock::{self, DirLock};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::settings::TrainSettings;
use crate::task::Task;

/// Files of a model directory, besides its weights, that say how to read text with it.
pub(crate) const MODEL_FILES: [&str; 8] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// What a run leaves that was killed before its settings were written.
const LEFTOVERS: [&str; 3] = ["model", "task.json", "run.toml"];

/// A run's directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Of whoever trains there; readers need none.
    lock: Option<Arc<DirLock>>,
}

impl RunDir {
    /// A directory for a new run: made if it is not there, and checked to be writable. Whoever holds the lock may train there.
    ///
    /// # Errors
    /// If it cannot be made or written, holds a run already, or holds other files; [`Error::Busy`].
    pub fn create(path: &Path) -> Result<Self> {
        // The lock's file is not to be left among others.
        Self::unlocked(path).check_new()?;
        let run = Self::claim(path)?;
        run.prepare()?;
        Ok(run)
    }

    /// A directory that nobody else trains in, as long as the value or a clone of it lives; made if it is not there, and left as
    /// it is otherwise.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process, or another holder in this one, has it; a directory that cannot be written.
    pub fn claim(path: &Path) -> Result<Self> {
        let lock = Some(Arc::new(DirLock::take(path)?));
        let path = path.to_owned();
        Ok(RunDir { path, lock })
    }

    /// A directory that may hold a run, to read it.
    pub(crate) fn unlocked(path: &Path) -> Self {
        let (path, lock) = (path.to_owned(), None);
        RunDir { path, lock }
    }

    /// Checks that a new run can begin here.
    pub(crate) fn prepare(&self) -> Result<()> {
        self.check_new()?;
        prepare_new(&self.path, &LEFTOVERS)
    }

    fn check_new(&self) -> Result<()> {
        if self.holds_run() {
            return Err(Error::file(
                &self.path,
                "already holds a run; continue it with --resume, or choose another directory",
            ));
        }
        if self.path.exists() {
            check_empty(&self.path, &LEFTOVERS)?;
        }
        Ok(())
    }

    /// Whether others are kept out while this value lives; a file system may have no locks.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.is_effective())
    }

    /// The directory of a run that has begun, to read it.
    ///
    /// # Errors
    /// If there is no run in it.
    pub fn open(path: &Path) -> Result<Self> {
        let run = Self::unlocked(path);
        if !run.holds_run() {
            return Err(Error::file(path, "holds no run (no settings.json)"));
        }
        Ok(run)
    }

    /// Gives up a directory that [`RunDir::create`] made, unless something was written there.
    pub fn abandon(self) {
        if let Some(lock) = self.lock.and_then(Arc::into_inner) {
            lock.remove();
        }
        // Fails where it is not empty, which is what is wanted.
        let _ = fs::remove_dir(&self.path);
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the copied model configuration and tokenizer are.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Where the checkpoint is, or will be.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }

    /// Where the trained tensors are, or will be.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter.safetensors")
    }

    /// Where the texts are that the run is judged by.
    pub fn texts(&self) -> PathBuf {
        self.path.join("texts")
    }

    /// Where it is written down what each rank takes.
    pub fn costs(&self) -> PathBuf {
        self.path.join("costs.json")
    }

    /// Whether a run has begun here.
    pub fn holds_run(&self) -> bool {
        self.path.join("settings.json").is_file()
    }

    /// Whether the run has ended.
    pub fn is_finished(&self) -> bool {
        self.path.join("record.json").is_file()
    }

    /// Writes down what the run is; after this the directory can be resumed.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn begin(&self, settings: &TrainSettings, task: &impl Serialize) -> Result<()> {
        let model = self.model();
        fs::create_dir_all(&model).map_err(Error::io("create", &model))?;
        for name in MODEL_FILES {
            let source = settings.model.join(name);
            if source.is_file() {
                let target = model.join(name);
                fs::copy(&source, &target).map_err(Error::io("write", &target))?;
            }
        }
        self.write("task.json", task)?;
        write_text(&self.path.join("run.toml"), &settings.to_toml())?;
        // Last: a directory with settings has everything else.
        self.write("settings.json", settings)
    }

    /// The run's settings.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn settings(&self) -> Result<TrainSettings> {
        read_json(&self.path.join("settings.json"))
    }

    /// The run's settings, which must be the `wanted` ones if there are some.
    pub(crate) fn check_settings(&self, wanted: Option<&TrainSettings>) -> Result<TrainSettings> {
        let own = self.settings()?;
        match wanted.and_then(|wanted| own.difference(wanted)) {
            None => Ok(own),
            Some((name, ours, theirs)) => Err(Error::file(
                &self.path,
                format!("the run was started with {name} {ours} and cannot go on with {name} {theirs}"),
            )),
        }
    }

    /// The run's task.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn task(&self) -> Result<Task> {
        read_json(&self.path.join("task.json"))
    }

    /// The run's record.
    ///
    /// # Errors
    /// If the run has not ended, or the file cannot be read.
    pub fn record(&self) -> Result<Record> {
        read_json(&self.path.join("record.json"))
    }

    /// Writes the record, once.
    ///
    /// # Errors
    /// If there is one already, or it cannot be written.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        if self.is_finished() {
            return Err(Error::file(
                &self.path,
                "has a record already; a record is never overwritten",
            ));
        }
        self.write("record.json", record)
    }

    /// Removes what a killed write left behind.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn sweep(&self) -> Result<()> {
        sweep(&self.path)
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        write_json(&self.path.join(name), value)
    }
}

/// Makes a directory for something new and checks that it can be written and is empty but for `leftovers`.
///
/// # Errors
/// If it cannot be made or written, or holds other files.
pub(crate) fn prepare_new(path: &Path, leftovers: &[&str]) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))?;
    sweep(path)?;
    check_empty(path, leftovers)?;
    let probe = path.join(".probe.tmp");
    fs::write(&probe, []).map_err(Error::io("write", &probe))?;
    fs::remove_file(&probe).map_err(Error::io("remove", &probe))
}

/// Checks that there is nothing in a directory but `leftovers` and what belongs to a lock or a killed write.
fn check_empty(path: &Path, leftovers: &[&str]) -> Result<()> {
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let name = entry.map_err(Error::io("read", path))?.file_name();
        let known = leftovers.iter().any(|known| name == *known) || name == dir_lock::NAME || is_temporary(&name);
        if !known {
            return Err(Error::file(
                path,
                "is not empty and holds no run; choose another directory",
            ));
        }
    }
    Ok(())
}

/// Whether a file's name is one that [`write_text`] gives before the right one.
fn is_temporary(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Another name for a file until it is whole, which no two writers give.
fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Processes of two machines may have one number, but hardly within the same nanosecond.
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    path.with_file_name(format!(".{name}.{}-{time}-{count}.tmp", std::process::id()))
}

/// Removes what a killed write left behind in a directory. Only for whoever is alone there.
///
/// # Errors
/// If the directory cannot be read.
pub fn sweep(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(Error::io("read", path))? {
        let entry = entry.map_err(Error::io("read", path))?;
        if is_temporary(&entry.file_name()) {
            // What cannot be removed is harmless: nothing else takes its name.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Writes a value as indented JSON, under another name first.
///
/// # Errors
/// If it cannot be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::file(path, format!("cannot be written as JSON: {error}")))?;
    text.push('\n');
    write_text(path, &text)
}

/// Writes a text file, under another name first.
///
/// # Errors
/// If it cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    let temporary = temporary(path);
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io("write", path)(error)
    })
}

/// Reads a value from a JSON file.
///
/// # Errors
/// If it cannot be read or is not such a value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        line: error.line(),
        message: error.to_string(),
    })
}
