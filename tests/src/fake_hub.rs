//! A hub on loopback: the responses of a model hub that downloads need, and its faults.
//!
//! Like the real hub, it serves small files itself, after a redirect on its own host, and redirects
//! large ones to a storage server at another address, which must not receive any token.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

/// A fault in serving a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after this many bytes, this many times.
    Cut { after: usize, times: u32 },
    /// A wrong length is announced.
    Announce(u64),
    /// Other bytes of the same length arrive.
    OtherBytes,
    /// Ranges are ignored: the whole file arrives.
    NoRange,
    /// The server is busy (503), this many times.
    Busy { times: u32 },
    /// Nothing comes after this many bytes, and the connection stays open.
    Stall { after: usize },
}

/// Access to a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Those with this token; others see that it exists.
    Gated(String),
    /// Those with this token; others see nothing.
    Private(String),
}

/// One file of the repository.
#[derive(Debug, Clone)]
pub struct FakeFile {
    /// Its contents.
    pub bytes: Vec<u8>,
    /// True if the storage server has it.
    pub large: bool,
    /// Its fault.
    pub fault: Option<Fault>,
}

/// One request, in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// True if it went to the storage server.
    pub storage: bool,
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path, with a slash in front.
    pub path: String,
    /// The `range` header.
    pub range: Option<String>,
    /// The `authorization` header.
    pub authorization: Option<String>,
}

/// The contents of the hub, and its requests.
#[derive(Debug)]
pub struct Contents {
    /// Access to the repository.
    pub access: Access,
    /// The commit of `main` and of `v1`.
    pub commit: String,
    /// The files, by name.
    pub files: BTreeMap<String, FakeFile>,
    /// All requests so far.
    pub requests: Vec<Request>,
    storage: String,
}

/// A hub with a single repository, [`FakeHub::REPO`], that lives as long as the process.
#[derive(Debug)]
pub struct FakeHub {
    /// Its address.
    pub endpoint: String,
    contents: Arc<Mutex<Contents>>,
}

impl FakeHub {
    /// The repository that exists.
    pub const REPO: &str = "owner/model";
    /// Its first commit.
    pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// Starts a hub with these files: (name, content, large).
    ///
    /// # Panics
    /// If loopback has no free port.
    #[must_use]
    pub fn start(files: &[(&str, &[u8], bool)]) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = |listener: &TcpListener| {
            format!("http://{}", listener.local_addr().expect("an address"))
        };
        let (hub, storage) = (listen(), listen());
        let files = files.iter().map(|&(name, bytes, large)| {
            (name.to_owned(), FakeFile { bytes: bytes.to_vec(), large, fault: None })
        });
        let contents = Arc::new(Mutex::new(Contents {
            access: Access::Open,
            commit: Self::COMMIT.to_owned(),
            files: files.collect(),
            requests: Vec::new(),
            storage: address(&storage),
        }));
        let endpoint = address(&hub);
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let contents = Arc::clone(&contents);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let contents = Arc::clone(&contents);
                    std::thread::spawn(move || answer(stream, is_storage, &contents));
                }
            });
        }
        Self { endpoint, contents }
    }

    /// Returns the contents of the hub, to read or change.
    ///
    /// # Panics
    /// If an answering thread panicked.
    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("no thread panicked")
    }

    /// Sets the fault of a file.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn break_file(&self, name: &str, fault: Fault) {
        self.contents().files.get_mut(name).expect("a file of the repository").fault = Some(fault);
    }

    /// Returns the requests so far that `wanted` accepts, and forgets all of them.
    pub fn take_requests(&self, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        let mut requests = std::mem::take(&mut self.contents().requests);
        requests.retain(wanted);
        requests
    }
}

/// A response: status line, headers, body, and the number of bytes after which the connection ends.
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    stalls: bool,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, stalls: false }
    }

    fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn body(self, body: Vec<u8>) -> Self {
        Self { body, ..self }
    }
}

fn answer(mut stream: TcpStream, storage: bool, contents: &Mutex<Contents>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    let mut words = first.split(' ').map(str::to_owned);
    let request = Request {
        storage,
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        range: headers.get("range").cloned(),
        authorization: headers.get("authorization").cloned(),
    };
    let answer = {
        let mut contents = contents.lock().expect("no thread panicked");
        contents.requests.push(request.clone());
        contents.answer(&request)
    };
    let length = answer.body.len();
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| *name == "content-length") {
        head += &format!("content-length: {length}\r\n");
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let body =
        if request.method == "HEAD" { &[] } else { &answer.body[..answer.cut.unwrap_or(length)] };
    // A client may close the connection.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    if answer.stalls {
        loop {
            std::thread::park();
        }
    }
}

impl Contents {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path.trim_start_matches('/').to_owned();
        if request.storage || path.starts_with("cached/") {
            let name = path.split_once('/').map_or("", |(_, name)| name);
            return self.file(name, request);
        }
        if path == "api/whoami-v2" {
            return match &self.access {
                Access::Gated(token) | Access::Private(token)
                    if request.authorization == Some(format!("Bearer {token}")) =>
                {
                    Answer::new("200 OK").body(b"{\"name\": \"somebody\"}".to_vec())
                }
                _ => Answer::new("401 Unauthorized"),
            };
        }
        if let Some(refused) = self.refuse(&path, request) {
            return refused;
        }
        let api = format!("api/models/{}/revision/", FakeHub::REPO);
        if let Some(revision) = path.strip_prefix(&api) {
            return if self.knows(revision) { self.info() } else { no_revision() };
        }
        let resolve = format!("{}/resolve/", FakeHub::REPO);
        let file = path.strip_prefix(&resolve).and_then(|rest| rest.split_once('/'));
        match file {
            Some((revision, _)) if !self.knows(revision) => no_revision(),
            Some((_, name)) => self.resolve(name),
            None => Answer::new("404 Not Found").header("x-error-code", "RepoNotFound"),
        }
    }

    fn knows(&self, revision: &str) -> bool {
        revision == "main" || revision == "v1" || revision == self.commit
    }

    fn refuse(&self, path: &str, request: &Request) -> Option<Answer> {
        let has = |token: &str| request.authorization == Some(format!("Bearer {token}"));
        match &self.access {
            // The file list of a gated repository is public, its files are not.
            Access::Gated(token) if !has(token) && !path.starts_with("api/") => {
                let anonymous = request.authorization.is_none();
                let status = if anonymous { "401 Unauthorized" } else { "403 Forbidden" };
                Some(Answer::new(status).header("x-error-code", "GatedRepo"))
            }
            Access::Private(token) if !has(token) => {
                Some(Answer::new("401 Unauthorized").header("x-error-code", "RepoNotFound"))
            }
            _ => None,
        }
    }

    fn info(&self) -> Answer {
        let siblings: Vec<_> =
            self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "sha": self.commit, "siblings": siblings, "id": "x" });
        Answer::new("200 OK").body(info.to_string().into_bytes())
    }

    /// Returns the response about a file's location and checksum.
    fn resolve(&self, name: &str) -> Answer {
        let Some(file) = self.files.get(name) else {
            return Answer::new("404 Not Found").header("x-error-code", "EntryNotFound");
        };
        if !file.large {
            let place = format!("/cached/{name}");
            return Answer::new("307 Temporary Redirect").header("location", place);
        }
        Answer::new("302 Found")
            .header("location", format!("{}/{}/{name}", self.storage, "large"))
            .header("x-repo-commit", &self.commit)
            .header("x-linked-etag", format!("\"{}\"", sha256(&file.bytes)))
            .header("x-linked-size", file.announced())
    }

    /// Returns the bytes of a file.
    fn file(&mut self, name: &str, request: &Request) -> Answer {
        let commit = self.commit.clone();
        let Some(file) = self.files.get_mut(name) else {
            return Answer::new("404 Not Found");
        };
        if request.method == "HEAD" {
            return Answer::new("200 OK")
                .header("etag", format!("\"{}\"", &sha256(&file.bytes)[..40]))
                .header("x-repo-commit", commit)
                .header("content-length", file.announced());
        }
        let mut body = file.bytes.clone();
        let mut answer = Answer::new("200 OK");
        let start = request.range.as_ref().and_then(|range| {
            range.strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok()
        });
        if let Some(start) = start.filter(|_| file.fault != Some(Fault::NoRange)) {
            let length = body.len();
            if start >= length {
                return Answer::new("416 Range Not Satisfiable");
            }
            body.drain(..start);
            answer = Answer::new("206 Partial Content")
                .header("content-range", format!("bytes {start}-{}/{length}", length - 1));
        }
        match &mut file.fault {
            Some(Fault::Cut { after, times }) if *times > 0 => {
                *times -= 1;
                answer.cut = Some((*after).min(body.len()));
            }
            Some(Fault::Busy { times }) if *times > 0 => {
                *times -= 1;
                return Answer::new("503 Service Unavailable");
            }
            Some(Fault::Stall { after }) => {
                answer.cut = Some((*after).min(body.len()));
                answer.stalls = true;
            }
            Some(Fault::OtherBytes) => body.iter_mut().for_each(|byte| *byte ^= 1),
            _ => {}
        }
        answer.body(body)
    }
}

impl FakeFile {
    fn announced(&self) -> u64 {
        match self.fault {
            Some(Fault::Announce(length)) => length,
            _ => self.bytes.len() as u64,
        }
    }
}

fn no_revision() -> Answer {
    Answer::new("404 Not Found").header("x-error-code", "RevisionNotFound")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
