//! The Hugging Face cache, in the layout that all its tools share:
//!
//! ```text
//! models--FacebookAI--roberta-base/
//!     refs/main                     the commit that `main` was
//!     snapshots/COMMIT/FILE         a link to a blob
//!     blobs/ETAG                    the bytes
//!     blobs/ETAG.incomplete         the bytes so far
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};

/// A repository by name and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repo {
    Model(&'static str),
    Dataset(&'static str),
}

impl Repo {
    pub(super) fn name(self) -> &'static str {
        match self {
            Repo::Model(name) | Repo::Dataset(name) => name,
        }
    }

    /// The address of a file at a revision.
    pub(super) fn url(self, endpoint: &str, revision: &str, file: &str) -> String {
        let kind = match self {
            Repo::Model(_) => "",
            Repo::Dataset(_) => "datasets/",
        };
        format!("{endpoint}/{kind}{}/resolve/{revision}/{file}", self.name())
    }

    fn folder(self) -> String {
        let kind = match self {
            Repo::Model(_) => "models",
            Repo::Dataset(_) => "datasets",
        };
        format!("{kind}--{}", self.name().replace('/', "--"))
    }
}

/// A repository's folder in the cache.
#[derive(Clone, Debug)]
pub(super) struct CachedRepo {
    dir: PathBuf,
}

impl CachedRepo {
    pub(super) fn new(hub_cache: &Path, repo: Repo) -> Self {
        CachedRepo {
            dir: hub_cache.join(repo.folder()),
        }
    }

    /// The commit that `main` was when it was last asked for.
    pub(super) fn main(&self) -> Option<String> {
        let commit = fs::read_to_string(self.dir.join("refs/main")).ok()?;
        let commit = commit.trim();
        is_plain_name(commit).then(|| commit.to_owned())
    }

    /// Notes which commit `main` is.
    pub(super) fn set_main(&self, commit: &str) -> Result<()> {
        let path = self.dir.join("refs/main");
        create_parent(&path)?;
        fs::write(&path, commit).map_err(Error::io("write", &path))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(etag)
    }

    /// Makes a file of a snapshot from a blob: a relative link, or the bytes themselves where links cannot be made.
    pub(super) fn point(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        create_parent(&pointer)?;
        // A link to a blob that somebody deleted stands in the way.
        if pointer.symlink_metadata().is_ok() {
            fs::remove_file(&pointer).map_err(Error::io("replace", &pointer))?;
        }
        // Up from the file's folder to the snapshot, to `snapshots`, to the repository.
        let up = "../".repeat(file.matches('/').count() + 2);
        if link(Path::new(&format!("{up}blobs/{etag}")), &pointer).is_err() {
            fs::rename(self.blob(etag), &pointer).map_err(Error::io("write", &pointer))?;
        }
        Ok(())
    }
}

#[cfg(unix)]
fn link(target: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(windows)]
fn link(target: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, pointer)
}

/// Whether a name that a server sent may become one of a file.
pub(super) fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.len() <= 128 && name.chars().all(plain)
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir).map_err(Error::io("create", dir))
}
