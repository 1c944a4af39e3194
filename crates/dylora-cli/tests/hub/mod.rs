//! A hub on the loopback interface: it speaks as much of the protocol as a download uses, and misbehaves when told to.
//!
//! Two servers with a port each: the endpoint, which knows repositories, and the one it redirects to for large files.
// Each test file uses its own part.
#![allow(dead_code)]

pub(crate) mod parquet_file;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "e2da8e2f811d1448a5b465c236feacd80ffbac7b";
pub(crate) const MODEL: &str = "FacebookAI/roberta-base";
pub(crate) const DATA: &str = "datasets/nyu-mll/glue";

/// How a file is served.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The first so many transfers end after so many bytes.
    Breaks { times: usize, after: usize },
    /// As `Breaks`, and the next answer is the whole file although a part was asked for.
    BreaksAndForgets { after: usize },
    /// Only so many bytes are there.
    Short(usize),
    /// The bytes are others than the announced ones.
    Altered,
    /// This status on the endpoint.
    Status(u16),
    /// 401 without this token.
    Wants(&'static str),
    /// The redirection does not say how long the file is.
    Sizeless,
    /// The first so many questions are answered with 503.
    Busy(usize),
}

/// One request that was made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) cdn: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

struct Entry {
    bytes: Vec<u8>,
    large: bool,
    fault: Option<Fault>,
    transfers: usize,
    questions: usize,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Entry>,
    requests: Vec<Request>,
}

/// A running hub; its threads end with the process.
pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    endpoint: String,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            (listener, address)
        };
        let ((front, endpoint), (back, cdn)) = (listen(), listen());
        for (listener, is_cdn) in [(front, false), (back, true)] {
            let (state, cdn) = (state.clone(), cdn.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    answer(stream, &state, is_cdn, &cdn);
                }
            });
        }
        Hub { state, endpoint }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A file kept in large file storage (`large`), or in the repository itself.
    pub(crate) fn put(&self, repo: &str, file: &str, bytes: impl Into<Vec<u8>>, large: bool) {
        let entry = Entry {
            bytes: bytes.into(),
            large,
            fault: None,
            transfers: 0,
            questions: 0,
        };
        self.state.lock().unwrap().files.insert(format!("{repo}/{file}"), entry);
    }

    pub(crate) fn remove(&self, repo: &str, file: &str) {
        self.state.lock().unwrap().files.remove(&format!("{repo}/{file}"));
    }

    pub(crate) fn fault(&self, repo: &str, file: &str, fault: Option<Fault>) {
        let mut state = self.state.lock().unwrap();
        state.files.get_mut(&format!("{repo}/{file}")).unwrap().fault = fault;
    }

    /// What was asked since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(stream: TcpStream, state: &Mutex<State>, is_cdn: bool, cdn: &str) {
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let request = Request {
        cdn: is_cdn,
        method,
        path,
        range: headers.remove("range"),
        authorization: headers.remove("authorization"),
    };
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    if is_cdn {
        let key = request.path.strip_prefix("/bytes/").unwrap().to_owned();
        let entry = state.files.get_mut(&key).unwrap();
        send_bytes(&stream, &request, entry, "");
    } else {
        front(&stream, &request, &mut state, cdn);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// The endpoint: `/REPO/resolve/REVISION/FILE`, and `/api/resolve-cache/REPO/FILE` for small files.
fn front(stream: &TcpStream, request: &Request, state: &mut State, cdn: &str) {
    let cached = request.path.strip_prefix("/api/resolve-cache/");
    let key = match (cached, request.path[1..].split_once("/resolve/")) {
        (Some(key), _) => key.to_owned(),
        (None, Some((repo, rest))) => {
            let (revision, file) = rest.split_once('/').unwrap();
            assert!(["main", COMMIT].contains(&revision), "{revision}");
            format!("{repo}/{file}")
        }
        // Another server's file, below its name, as a mirror has it.
        (None, None) => request.path[1..].split('?').next().unwrap_or_default().to_owned(),
    };
    let is_plain = cached.is_none() && !request.path.contains("/resolve/");
    let Some(entry) = state.files.get_mut(&key) else {
        return status(stream, 404, "x-error-code: EntryNotFound\r\n");
    };
    entry.questions += 1;
    match entry.fault {
        Some(Fault::Status(code)) => return status(stream, code, ""),
        Some(Fault::Busy(times)) if entry.questions <= times => return status(stream, 503, ""),
        Some(Fault::Wants(token)) if request.authorization.as_deref() != Some(&format!("Bearer {token}")) => {
            return status(stream, 401, "x-error-code: RepoNotFound\r\n");
        }
        _ => {}
    }
    if is_plain {
        return send_bytes(stream, request, entry, "");
    }
    let commit = format!("x-repo-commit: {COMMIT}\r\n");
    let hash = sha256(&entry.bytes);
    if entry.large {
        let size = match entry.fault {
            Some(Fault::Sizeless) => String::new(),
            _ => format!("x-linked-size: {}\r\n", entry.bytes.len()),
        };
        let linked =
            format!("{commit}etag: \"other\"\r\nx-linked-etag: \"{hash}\"\r\n{size}location: {cdn}/bytes/{key}\r\n");
        status(stream, 302, &linked);
    } else if cached.is_none() {
        let location = format!("{commit}location: /api/resolve-cache/{key}\r\n");
        status(stream, 307, &location);
    } else {
        // As long as git's own hash of a blob, which such files have.
        let tag = format!("{commit}etag: W/\"{}\"\r\n", &hash[..40]);
        send_bytes(stream, request, entry, &tag);
    }
}

fn send_bytes(mut stream: &TcpStream, request: &Request, entry: &mut Entry, headers: &str) {
    let mut bytes = entry.bytes.clone();
    match entry.fault {
        Some(Fault::Short(length)) => bytes.truncate(length),
        Some(Fault::Altered) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        _ => {}
    }
    let start = request.range.as_ref().map(|range| {
        let first = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        first.parse::<usize>().unwrap()
    });
    let forgets = matches!(entry.fault, Some(Fault::BreaksAndForgets { .. }));
    let start = start.filter(|_| !forgets);
    let total = bytes.len();
    if start.is_some_and(|start| start >= total) {
        return status(stream, 416, &format!("content-range: bytes */{total}\r\n"));
    }
    let (code, range) = match start {
        Some(start) => (206, format!("content-range: bytes {start}-{}/{total}\r\n", total - 1)),
        None => (200, String::new()),
    };
    let body = &bytes[start.unwrap_or(0)..];
    let head = format!(
        "HTTP/1.1 {code} -\r\nconnection: close\r\naccept-ranges: bytes\r\ncontent-length: {}\r\n{range}{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    if request.method == "HEAD" {
        return;
    }
    entry.transfers += 1;
    let sent = match entry.fault {
        Some(Fault::Breaks { times, after }) if entry.transfers <= times => after,
        Some(Fault::BreaksAndForgets { after }) if entry.transfers == 1 => after,
        _ => body.len(),
    };
    let _ = stream.write_all(&body[..sent.min(body.len())]);
}

fn status(mut stream: &TcpStream, code: u16, headers: &str) {
    let head = format!("HTTP/1.1 {code} -\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n");
    let _ = stream.write_all(head.as_bytes());
}
