//! One file at an address of its own, outside any hub: resumed, checked, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use ureq::Agent;
use ureq::http::StatusCode;

use super::Event;
use super::cache::create_parent;
use super::download::{CHUNK, TRIES, length, pause, sha256};
use super::error::{Error, Result};
use super::hub::{content_range, is_unreachable, number, settings};
use super::place::Place;

const REDIRECTS: u32 = 8;

/// A published file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    /// Who publishes it, for sentences.
    pub(super) publisher: &'static str,
    /// Where.
    pub(super) url: &'static str,
    /// Bytes, where they are known.
    pub(super) size: Option<u64>,
    /// SHA-256, where it is known.
    pub(super) sha256: Option<&'static str>,
}

impl Address {
    /// The file's own name.
    fn name(&self) -> &'static str {
        let path = self.url.split(['?', '#']).next().unwrap_or(self.url);
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Where to ask: at the address, or below a mirror that has every host as a folder.
    fn at(&self, place: &Place) -> String {
        match (&place.mirror, self.url.split_once("://")) {
            (Some(mirror), Some((_, rest))) => format!("{mirror}/{rest}"),
            _ => self.url.to_owned(),
        }
    }

    fn broken(&self, reason: impl std::fmt::Display) -> Error {
        Error::Broken {
            repo: self.publisher.to_owned(),
            file: self.name().to_owned(),
            reason: reason.to_string(),
        }
    }

    fn size_error(&self, announced: u64, found: u64) -> Error {
        Error::Size {
            repo: self.publisher.to_owned(),
            file: self.name().to_owned(),
            announced,
            found,
        }
    }
}

/// Makes `target` the file at `address`, unless it is there.
///
/// # Errors
/// [`Error::Offline`] when nobody can be asked; a transfer that broke more than once in the same place; a file of another
/// length or sum than the published one, which is removed.
pub(super) fn download(
    place: &Place,
    address: &Address,
    target: &Path,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    if target.is_file() {
        return Ok(());
    }
    if place.offline {
        return Err(Error::Offline("HF_HUB_OFFLINE forbids the download".to_owned()));
    }
    create_parent(target)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let part = target.with_file_name(format!("{name}.incomplete"));
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&part)
        .map_err(Error::io("write", &part))?;
    // Two commands at once: the second waits for the first, and then finds its file.
    file.lock().map_err(Error::io("lock", &part))?;
    if target.is_file() {
        return Ok(());
    }
    let agent: Agent = settings().max_redirects(REDIRECTS).build().into();
    let mut transfer = Transfer {
        agent,
        address,
        url: address.at(place),
        part: &part,
        answered: false,
    };
    let mut tries = 0;
    loop {
        let start = length(&file, &part)?;
        match transfer.run(&mut file, start, report) {
            Ok(()) => break,
            Err(Error::Broken { .. }) if length(&file, &part)? > start => tries = 0,
            Err(Error::Broken { .. }) if tries + 1 < TRIES => {}
            Err(error) => return Err(error),
        }
        pause(&mut tries);
    }
    let found = length(&file, &part)?;
    let remove = || fs::remove_file(&part).map_err(Error::io("remove", &part));
    if let Some(announced) = address.size.filter(|&size| size != found) {
        remove()?;
        return Err(address.size_error(announced, found));
    }
    if let Some(announced) = address.sha256 {
        let found = sha256(&mut file).map_err(Error::io("read", &part))?;
        if found != announced {
            remove()?;
            return Err(Error::Checksum {
                repo: address.publisher.to_owned(),
                file: address.name().to_owned(),
                announced: announced.to_owned(),
                found,
            });
        }
    }
    fs::rename(&part, target).map_err(Error::io("write", target))
}

struct Transfer<'a> {
    agent: Agent,
    address: &'a Address,
    url: String,
    part: &'a Path,
    /// Whether the server has said anything yet: before that, silence means that there is no network.
    answered: bool,
}

impl Transfer<'_> {
    /// Adds to `file` what the server sends from `start` on, to the end.
    fn run(&mut self, file: &mut File, start: u64, report: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let address = self.address;
        if address.size.is_some_and(|size| size == start) {
            return Ok(());
        }
        // A compressed answer has another length, and parts of it are of no use.
        let mut request = self.agent.get(&self.url).header("accept-encoding", "identity");
        if start > 0 {
            request = request.header("range", format!("bytes={start}-"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) if is_unreachable(&error) && !self.answered => {
                return Err(Error::Offline(format!("{} cannot be reached ({error})", self.url)));
            }
            Err(error) => return Err(address.broken(error)),
        };
        self.answered = true;
        let status = response.status();
        let (mut done, total) = match status.as_u16() {
            200 => (0, number(&response, "content-length")),
            206 => match content_range(&response) {
                Some((Some(first), total)) if first == start => (start, total),
                _ => return Err(address.broken("the server sent another range than it was asked for")),
            },
            // There is no more than what came, or the file has become shorter; from the beginning, then.
            416 => {
                file.set_len(0).map_err(Error::io("write", self.part))?;
                return Err(address.broken("the server has no such part"));
            }
            404 => {
                return Err(Error::NotFound {
                    repo: address.publisher.to_owned(),
                    file: address.name().to_owned(),
                    endpoint: self.url.clone(),
                });
            }
            _ => return Err(address.broken(format!("the server answered {}", describe(status)))),
        };
        if done < start {
            file.set_len(done).map_err(Error::io("write", self.part))?;
        }
        let total = total.or(address.size);
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            report(Event::Download {
                repo: address.publisher,
                file: address.name(),
                done,
                total: total.unwrap_or(done),
            });
            let bytes = match body.read(&mut chunk) {
                Ok(0) if total.is_some_and(|total| done < total) => {
                    return Err(address.broken("the server stopped before the end"));
                }
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(error) => return Err(address.broken(error)),
            };
            file.write_all(&chunk[..bytes]).map_err(|source| match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull {
                    dir: self.part.parent().unwrap_or(self.part).to_owned(),
                    file: address.name().to_owned(),
                    left: total.unwrap_or(done).saturating_sub(done),
                },
                _ => Error::io("write", self.part)(source),
            })?;
            done += bytes as u64;
        }
    }
}

fn describe(status: StatusCode) -> String {
    status.to_string()
}
