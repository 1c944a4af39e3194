//! One file of a repository into the cache: what is there already is not sent again, and what came is checked.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Event;
use super::cache::{CachedRepo, create_parent};
use super::error::{Error, Result};
use super::hub::{Hub, Metadata, Remote};

/// Tries in a row that bring nothing new before a transfer is given up.
pub(super) const TRIES: u32 = 4;
/// The pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
pub(super) const CHUNK: usize = 256 * 1024;

/// What `remote` is at `revision`, asked more than once if need be.
pub(super) fn metadata(hub: &Hub<'_>, remote: Remote<'_>, revision: &str) -> Result<Metadata> {
    let mut tries = 0;
    loop {
        match hub.metadata(remote, revision) {
            Err(Error::Broken { .. }) if tries + 1 < TRIES => pause(&mut tries),
            Err(Error::Broken { reason, .. }) if !hub.has_answered() => return Err(hub.unreachable(reason)),
            answer => return answer,
        }
    }
}

/// Makes `remote` a file of the snapshot of its commit.
pub(super) fn download(
    hub: &Hub<'_>,
    cached: &CachedRepo,
    remote: Remote<'_>,
    metadata: &Metadata,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    let pointer = cached.snapshot(&metadata.commit).join(remote.file);
    if pointer.is_file() {
        return Ok(());
    }
    let blob = cached.blob(&metadata.etag);
    if !blob.is_file() {
        create_parent(&blob)?;
        fetch_blob(hub, remote, metadata, &blob, report)?;
    }
    cached.point(&metadata.commit, remote.file, &metadata.etag)
}

fn fetch_blob(
    hub: &Hub<'_>,
    remote: Remote<'_>,
    metadata: &Metadata,
    blob: &Path,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    let part = blob.with_file_name(format!("{}.incomplete", metadata.etag));
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&part)
        .map_err(Error::io("write", &part))?;
    // Two commands at once: the second waits for the first, and then finds its file.
    file.lock().map_err(Error::io("lock", &part))?;
    if blob.is_file() {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        let start = length(&file, &part)?;
        if start == metadata.size {
            break;
        }
        if start > metadata.size {
            file.set_len(0).map_err(Error::io("write", &part))?;
            continue;
        }
        let sent = transfer(hub, remote, metadata, &mut file, &part, report);
        match sent {
            Ok(()) | Err(Error::Broken { .. }) => {}
            Err(error) => {
                if matches!(error, Error::Size { .. }) {
                    remove(&part)?;
                }
                return Err(error);
            }
        }
        let end = length(&file, &part)?;
        if end == metadata.size {
            break;
        }
        if end > start {
            tries = 0;
        } else if tries + 1 == TRIES {
            return Err(sent.err().unwrap_or_else(|| remote.broken("the server sends nothing")));
        }
        pause(&mut tries);
    }
    if let Some(announced) = &metadata.sha256 {
        let found = sha256(&mut file).map_err(Error::io("read", &part))?;
        if found != *announced {
            remove(&part)?;
            return Err(Error::Checksum {
                repo: remote.repo.name().to_owned(),
                file: remote.file.to_owned(),
                announced: announced.clone(),
                found,
            });
        }
    }
    fs::rename(&part, blob).map_err(Error::io("write", blob))
}

/// Adds to `file` what the server sends from its end on.
fn transfer(
    hub: &Hub<'_>,
    remote: Remote<'_>,
    metadata: &Metadata,
    file: &mut File,
    part: &Path,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    let start = length(file, part)?;
    let (mut body, begins) = hub.open(remote, metadata, start)?;
    if begins < start {
        file.set_len(begins).map_err(Error::io("write", part))?;
    }
    let mut done = begins;
    let mut chunk = vec![0; CHUNK];
    loop {
        report(Event::Download {
            repo: remote.repo.name(),
            file: remote.file,
            done,
            total: metadata.size,
        });
        let bytes = match body.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) => return Err(remote.broken(error)),
        };
        file.write_all(&chunk[..bytes]).map_err(|source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull {
                dir: part.parent().unwrap_or(part).to_owned(),
                file: remote.file.to_owned(),
                left: metadata.size.saturating_sub(done),
            },
            _ => Error::io("write", part)(source),
        })?;
        done += bytes as u64;
        if done > metadata.size {
            return Err(remote.size(metadata.size, done));
        }
    }
}

pub(super) fn pause(tries: &mut u32) {
    std::thread::sleep(PAUSE * 2u32.pow(*tries));
    *tries += 1;
}

pub(super) fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(Error::io("read", path))?.len())
}

fn remove(part: &Path) -> Result<()> {
    fs::remove_file(part).map_err(Error::io("remove", part))
}

/// Of the whole file, in hexadecimal.
pub(super) fn sha256(file: &mut File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            bytes => hash.update(&chunk[..bytes]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
