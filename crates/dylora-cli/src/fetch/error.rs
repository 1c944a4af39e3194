//! What can go wrong between a hub and a folder, one sentence each.

use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Why a file of a repository is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No connection, or none wanted. The callers say what else could be done.
    #[error("{0}")]
    Offline(String),
    /// What is neither here nor to be had, and what else can be done.
    #[error("{}", nowhere(.missing, .hub_cache, .reason))]
    Nowhere {
        missing: Vec<Missing>,
        hub_cache: PathBuf,
        reason: String,
    },
    #[error("HF_ENDPOINT {0} is no http or https address")]
    Endpoint(String),
    #[error("{file} of {repo}: {status}: the hub wants a token that may read it; {hint}")]
    Denied {
        repo: String,
        file: String,
        status: u16,
        hint: &'static str,
    },
    #[error("{repo} has no file {file} at {endpoint} (404)")]
    NotFound {
        repo: String,
        file: String,
        endpoint: String,
    },
    /// Worth another try: the same request may go through a little later.
    #[error("{file} of {repo}: the transfer broke: {reason}; the same command goes on where it was")]
    Broken { repo: String, file: String, reason: String },
    #[error("{file} of {repo}: {reason}")]
    Protocol { repo: String, file: String, reason: String },
    #[error("{file} of {repo}: {announced} bytes were announced, but the server holds {found}; what came was removed")]
    Size {
        repo: String,
        file: String,
        announced: u64,
        found: u64,
    },
    #[error("{file} of {repo} has SHA-256 {found}, but {announced} was announced; the download was removed, try again")]
    Checksum {
        repo: String,
        file: String,
        announced: String,
        found: String,
    },
    #[error("the disk that holds {} is full: {file} has {left} bytes still to come", .dir.display())]
    DiskFull { dir: PathBuf, file: String, left: u64 },
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{}: {reason}", .path.display())]
    Data { path: PathBuf, reason: String },
}

/// Something that a command needs, and the flag that takes its directory.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) flag: &'static str,
}

fn nowhere(missing: &[Missing], hub_cache: &Path, reason: &str) -> String {
    let names: Vec<_> = missing.iter().map(|each| each.what.as_str()).collect();
    let flags: Vec<_> = missing.iter().map(|each| format!("{} DIR", each.flag)).collect();
    let (are, them, directory) = match missing.len() {
        1 => ("is", "it", "its directory"),
        _ => ("are", "them", "their directories"),
    };
    format!(
        "{} {are} not in {} and {reason}: give {directory} ({}), a Hugging Face cache that holds {them} (HF_HOME), or a \
         network (HF_ENDPOINT for a mirror); `cargo xtask reproduce glue` needs none of these",
        names.join(" and "),
        hub_cache.display(),
        flags.join(" ")
    )
}

impl Error {
    /// For `map_err` after something was done with a file.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn data(path: &Path, reason: impl Into<String>) -> Self {
        Error::Data {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Message(error.to_string())
    }
}
