//! The hub's protocol: what a file is at a revision (HEAD), and its bytes from a position on (GET).
//!
//! Redirects are followed here and not by the client, because the first answer carries the headers that count
//! (`X-Repo-Commit`, `X-Linked-ETag`, `X-Linked-Size`) and because the token goes to the endpoint and to nobody else.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, Read};
use std::time::Duration;

use ureq::config::ConfigBuilder;
use ureq::http::{Response, StatusCode, Uri};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

use super::cache::{Repo, is_plain_name};
use super::error::{Error, Result};
use super::place::Place;

const USER_AGENT: &str = concat!("dylora/", env!("CARGO_PKG_VERSION"));
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 8;

/// A file of a repository, as the sentences about it name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote<'a> {
    pub(super) repo: Repo,
    pub(super) file: &'a str,
}

impl Remote<'_> {
    pub(super) fn broken(&self, reason: impl Display) -> Error {
        Error::Broken {
            repo: self.repo.name().to_owned(),
            file: self.file.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn protocol(&self, reason: impl Into<String>) -> Error {
        Error::Protocol {
            repo: self.repo.name().to_owned(),
            file: self.file.to_owned(),
            reason: reason.into(),
        }
    }

    pub(super) fn size(&self, announced: u64, found: u64) -> Error {
        Error::Size {
            repo: self.repo.name().to_owned(),
            file: self.file.to_owned(),
            announced,
            found,
        }
    }
}

/// What the hub says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The commit that the asked revision is.
    pub(super) commit: String,
    /// The blob's name in the cache.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
    /// Of the bytes, in hexadecimal; only files in large file storage have one.
    pub(super) sha256: Option<String>,
}

/// What every client of ours has.
pub(super) fn settings() -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(USER_AGENT)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
}

/// Whether nobody is there at all.
pub(super) fn is_unreachable(error: &ureq::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => true,
        ureq::Error::Io(error) => matches!(
            error.kind(),
            AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable
        ),
        _ => false,
    }
}

/// A client for one endpoint.
pub(super) struct Hub<'a> {
    agent: Agent,
    place: &'a Place,
    /// Whether any server has said anything yet: before that, silence means that there is no network.
    answered: Cell<bool>,
}

impl<'a> Hub<'a> {
    /// # Errors
    /// [`Error::Offline`] when the environment forbids the network, [`Error::Endpoint`].
    pub(super) fn new(place: &'a Place) -> Result<Self> {
        if place.offline {
            return Err(Error::Offline("HF_HUB_OFFLINE forbids the download".to_owned()));
        }
        if !origin(&place.endpoint).is_some_and(|(scheme, _)| scheme == "http" || scheme == "https") {
            return Err(Error::Endpoint(place.endpoint.clone()));
        }
        let config = settings().max_redirects(0).max_redirects_will_error(false).build();
        Ok(Hub {
            agent: config.into(),
            place,
            answered: Cell::new(false),
        })
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered.get()
    }

    /// That nobody is there, for this reason.
    pub(super) fn unreachable(&self, reason: impl Display) -> Error {
        Error::Offline(format!("{} cannot be reached ({reason})", self.place.endpoint))
    }

    /// Asks what `remote` is at `revision`.
    pub(super) fn metadata(&self, remote: Remote<'_>, revision: &str) -> Result<Metadata> {
        let mut url = remote.repo.url(&self.place.endpoint, revision, remote.file);
        for _ in 0..REDIRECTS {
            let response = self.send(remote, &url, true, 0)?;
            if response.status().is_redirection() {
                let next = redirect(remote, &url, &response)?;
                // Another server knows nothing of the repository: the answer that points there is the one.
                if same_origin(&next, &url) && header(&response, "x-linked-etag").is_none() {
                    url = next;
                    continue;
                }
            } else {
                self.check(remote, response.status())?;
            }
            return read_metadata(remote, &response);
        }
        Err(remote.protocol("redirected too often"))
    }

    /// The bytes of `remote` at `commit` from `start` on, and the position where they really begin: a server may send
    /// everything although it was asked for a part.
    pub(super) fn open(&self, remote: Remote<'_>, metadata: &Metadata, start: u64) -> Result<(impl Read + use<>, u64)> {
        let mut url = remote.repo.url(&self.place.endpoint, &metadata.commit, remote.file);
        for _ in 0..REDIRECTS {
            let response = self.send(remote, &url, false, start)?;
            let status = response.status();
            if status.is_redirection() {
                url = redirect(remote, &url, &response)?;
                continue;
            }
            if status == StatusCode::RANGE_NOT_SATISFIABLE {
                let found = content_range(&response).and_then(|(_, total)| total);
                return Err(remote.size(metadata.size, found.unwrap_or(start)));
            }
            self.check(remote, status)?;
            let (begins, total) = if status == StatusCode::PARTIAL_CONTENT {
                let (begins, total) =
                    content_range(&response).ok_or_else(|| remote.protocol("a partial answer names no range"))?;
                if begins != Some(start) {
                    return Err(remote.protocol("the server sent another range than it was asked for"));
                }
                (start, total)
            } else {
                (0, number(&response, "content-length"))
            };
            if let Some(found) = total.filter(|&total| total != metadata.size) {
                return Err(remote.size(metadata.size, found));
            }
            return Ok((response.into_body().into_reader(), begins));
        }
        Err(remote.protocol("redirected too often"))
    }

    /// One request, one answer, whatever its status.
    fn send(&self, remote: Remote<'_>, url: &str, head: bool, start: u64) -> Result<Response<Body>> {
        let mut request = if head {
            self.agent.head(url)
        } else {
            self.agent.get(url)
        };
        // A compressed answer has another length, and parts of it are of no use.
        request = request.header("accept-encoding", "identity");
        if let Some(token) = &self.place.token
            && same_origin(url, &self.place.endpoint)
        {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if start > 0 {
            request = request.header("range", format!("bytes={start}-"));
        }
        match request.call() {
            Ok(response) => {
                self.answered.set(true);
                Ok(response)
            }
            Err(error) => Err(self.failed(remote, error)),
        }
    }

    fn failed(&self, remote: Remote<'_>, error: ureq::Error) -> Error {
        let unreachable = is_unreachable(&error);
        match error {
            _ if unreachable && !self.has_answered() => self.unreachable(error),
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => remote.broken(error),
            _ if unreachable => remote.broken(error),
            _ => remote.protocol(error.to_string()),
        }
    }

    fn check(&self, remote: Remote<'_>, status: StatusCode) -> Result<()> {
        let repo = remote.repo.name().to_owned();
        let file = remote.file.to_owned();
        match status.as_u16() {
            200 | 206 => Ok(()),
            401 | 403 => Err(Error::Denied {
                repo,
                file,
                status: status.as_u16(),
                hint: match self.place.token {
                    Some(_) => "the one it got (HF_TOKEN, or the token file) may not",
                    None => "set HF_TOKEN",
                },
            }),
            404 => Err(Error::NotFound {
                repo,
                file,
                endpoint: self.place.endpoint.clone(),
            }),
            408 | 429 | 500..=599 => Err(remote.broken(format!("the server answered {status}"))),
            _ => Err(remote.protocol(format!("the server answered {status}"))),
        }
    }
}

fn read_metadata(remote: Remote<'_>, response: &Response<Body>) -> Result<Metadata> {
    let without = |name: &str| remote.protocol(format!("the answer has no usable {name}; is HF_ENDPOINT a hub?"));
    let linked = header(response, "x-linked-etag");
    let tag = linked
        .or_else(|| header(response, "etag"))
        .ok_or_else(|| without("ETag"))?;
    let etag = tag.trim_start_matches("W/").trim_matches('"').to_owned();
    let commit = header(response, "x-repo-commit")
        .ok_or_else(|| without("X-Repo-Commit"))?
        .to_owned();
    if !is_plain_name(&etag) {
        return Err(without("ETag"));
    }
    if !is_plain_name(&commit) {
        return Err(without("X-Repo-Commit"));
    }
    // The length of a redirection is that of its own few words.
    let length = || number(response, "content-length").filter(|_| !response.status().is_redirection());
    let size = number(response, "x-linked-size")
        .or_else(length)
        .ok_or_else(|| without("size"))?;
    let is_sha256 = linked.is_some() && etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit());
    Ok(Metadata {
        sha256: is_sha256.then(|| etag.to_ascii_lowercase()),
        commit,
        etag,
        size,
    })
}

fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

pub(super) fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    header(response, name)?.trim().parse().ok()
}

/// First byte and length of the whole, from `bytes 5-9/10` or `bytes */10`.
pub(super) fn content_range(response: &Response<Body>) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = header(response, "content-range")?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let first = range.split('-').next().and_then(|first| first.trim().parse().ok());
    Some((first, total.trim().parse().ok()))
}

/// Where a redirection goes.
fn redirect(remote: Remote<'_>, url: &str, response: &Response<Body>) -> Result<String> {
    let location = header(response, "location").unwrap_or_default();
    if location.starts_with("https://") || location.starts_with("http://") {
        return Ok(location.to_owned());
    }
    match origin(url) {
        Some((scheme, authority)) if location.starts_with('/') && !location.starts_with("//") => {
            Ok(format!("{scheme}://{authority}{location}"))
        }
        _ => Err(remote.protocol(format!("redirected to {location:?}, which is no address"))),
    }
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((
        uri.scheme_str()?.to_owned(),
        uri.authority()?.as_str().to_ascii_lowercase(),
    ))
}

fn same_origin(left: &str, right: &str) -> bool {
    origin(left).is_some_and(|left| Some(left) == origin(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(same_origin("https://a.b/c?d", "https://A.b"));
        for other in ["http://a.b", "https://a.b:444", "https://b", "https://a.b.c", "nothing"] {
            assert!(!same_origin("https://a.b/c", other), "{other}");
        }
        assert!(!same_origin("nothing", "nothing"));
    }
}
