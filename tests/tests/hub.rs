//! Downloads from a hub on loopback that behaves, and from one that does not.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mlx_llamba::Error;
use mlx_llamba::hub::{HubOptions, reach, resolve, resolve_tokenizer};
use mlx_llamba::progress::Progress;
use mlx_llamba_tests::fake_hub::{Access, FakeHub, Fault, Request};
use tempfile::TempDir;

const REPO: &str = FakeHub::REPO;
const WEIGHTS: &str = "model.safetensors";

fn weights() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A hub with a model, the options to use it, and the cache's directory.
fn setup() -> (FakeHub, HubOptions, TempDir) {
    let hub = FakeHub::start(&[
        ("config.json", b"{}", false),
        (WEIGHTS, &weights(), true),
        ("tokenizer.json", b"{\"version\": 1}", true),
        ("tokenizer_config.json", b"{\"a\": 1}", false),
        ("generation_config.json", b"", false),
        ("pytorch_model.bin", b"no", true),
        ("original/model.safetensors", b"no", true),
        ("README.md", b"no", false),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let options =
        HubOptions::new(cache.path().join("hub")).endpoint(hub.endpoint.clone()).retries(0);
    (hub, options, cache)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn parts(options: &HubOptions) -> Vec<PathBuf> {
    let blobs = options.cache.join("models--owner--model/blobs");
    let parts = names(&blobs).into_iter().filter(|name| name.ends_with(".part"));
    parts.map(|name| blobs.join(name)).collect()
}

fn of_weights(request: &Request) -> bool {
    request.storage && request.path.ends_with(WEIGHTS)
}

fn ranges(hub: &FakeHub) -> Vec<Option<String>> {
    hub.take_requests(of_weights).into_iter().map(|request| request.range).collect()
}

#[track_caller]
fn reason(result: Result<PathBuf, Error>) -> String {
    match result {
        Err(Error::Hub { repo, reason }) => {
            assert_eq!(repo, REPO);
            reason
        }
        other => panic!("{other:?}"),
    }
}

/// The references of a cache that others own are left alone if they are right, and a cache that
/// cannot be written is read.
#[test]
fn a_cache_that_cannot_be_written_is_read() {
    let (_hub, options, _cache) = setup();
    let directory = resolve(REPO, &options).unwrap();
    let references = options.cache.join("models--owner--model/refs");
    let main = references.join("main");
    let written = || std::fs::metadata(&main).unwrap().modified().unwrap();
    let first = written();
    assert_eq!(resolve(REPO, &options).unwrap(), directory);
    assert_eq!(written(), first);
    // Root may write read-only files: nothing can be written under a file.
    std::fs::remove_dir_all(&references).unwrap();
    std::fs::write(&references, b"").unwrap();
    assert_eq!(resolve(REPO, &options).unwrap(), directory);
}

#[test]
fn a_model_comes_with_its_useful_files_and_only_once() {
    let (hub, options, _cache) = setup();
    let directory = resolve(REPO, &options).unwrap();
    let expected = [
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&directory), expected);
    assert_eq!(std::fs::read(directory.join(WEIGHTS)).unwrap(), weights());
    assert_eq!(std::fs::read(directory.join("config.json")).unwrap(), b"{}");
    assert_eq!(std::fs::read(directory.join("generation_config.json")).unwrap(), b"");
    assert!(directory.ends_with(format!("models--owner--model/snapshots/{}", FakeHub::COMMIT)));
    let reference = options.cache.join("models--owner--model/refs/main");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), FakeHub::COMMIT);
    assert!(parts(&options).is_empty());

    // Everything is there: only what the revision holds is asked.
    hub.take_requests(|_| true);
    assert_eq!(resolve(REPO, &options).unwrap(), directory);
    let again = hub.take_requests(|_| true);
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].path, "/api/models/owner/model/revision/main");

    // A new commit with one new file brings that file alone.
    hub.contents().commit = "f".repeat(40);
    hub.contents().files.get_mut("config.json").unwrap().bytes = b"{\"new\": 1}".to_vec();
    let newer = resolve(&format!("{REPO}@v1"), &options).unwrap();
    assert_eq!(std::fs::read(newer.join("config.json")).unwrap(), b"{\"new\": 1}");
    assert_eq!(names(&newer), expected);
    let gets = hub.take_requests(|r| r.method == "GET" && !r.path.starts_with("/api"));
    assert_eq!(gets.len(), 2, "resolve and its redirect: {gets:?}");
    assert_eq!(std::fs::read(directory.join("config.json")).unwrap(), b"{}");

    // A link that leads nowhere is put right.
    std::fs::remove_file(newer.join("config.json")).unwrap();
    std::os::unix::fs::symlink("../../blobs/gone", newer.join("config.json")).unwrap();
    resolve(&format!("{REPO}@v1"), &options).unwrap();
    assert_eq!(std::fs::read(newer.join("config.json")).unwrap(), b"{\"new\": 1}");
}

#[test]
fn a_tokenizer_comes_without_the_weights() {
    let (hub, options, _cache) = setup();
    let directory = resolve_tokenizer(REPO, &options).unwrap();
    let expected = ["generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&directory), expected);
    assert!(hub.take_requests(of_weights).is_empty());
    let offline = options.clone().offline(true);
    assert_eq!(resolve_tokenizer(REPO, &offline).unwrap(), directory);
    assert!(reason(resolve(REPO, &offline)).contains("not in the cache"));

    hub.contents().files.remove("tokenizer.json");
    hub.contents().commit = "e".repeat(40);
    assert!(reason(resolve_tokenizer(REPO, &options)).contains("without any tokenizer.json"));
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let (hub, options, _cache) = setup();
    hub.break_file(WEIGHTS, Fault::Cut { after: 1_000_000, times: 1 });
    let message = reason(resolve(REPO, &options));
    assert!(message.contains("will be resumed"), "{message}");
    let kept = std::fs::metadata(&parts(&options)[0]).unwrap().len();
    assert_eq!(kept, 1_000_000);
    assert_eq!(ranges(&hub), [None]);

    let directory = resolve(REPO, &options).unwrap();
    assert_eq!(ranges(&hub), [Some("bytes=1000000-".to_owned())]);
    assert_eq!(std::fs::read(directory.join(WEIGHTS)).unwrap(), weights());
}

#[test]
fn broken_transfers_are_taken_up_again_by_themselves() {
    let (hub, options, _cache) = setup();
    // More cuts than retries: each brings something, so each is the first again.
    hub.break_file(WEIGHTS, Fault::Cut { after: 800_000, times: 3 });
    let options = options.retries(1);
    let directory = resolve(REPO, &options).unwrap();
    assert_eq!(std::fs::read(directory.join(WEIGHTS)).unwrap(), weights());
    let expected = [None, Some("bytes=800000-"), Some("bytes=1600000-"), Some("bytes=2400000-")];
    assert_eq!(ranges(&hub), expected.map(|range| range.map(str::to_owned)));
}

#[test]
fn a_busy_hub_is_asked_again_but_not_for_ever() {
    let (hub, options, _cache) = setup();
    hub.break_file(WEIGHTS, Fault::Busy { times: 1 });
    resolve(REPO, &options.clone().retries(1)).unwrap();
    assert_eq!(ranges(&hub).len(), 2);

    let (hub, options, _cache) = setup();
    hub.break_file(WEIGHTS, Fault::Busy { times: 9 });
    let message = reason(resolve(REPO, &options.retries(1)));
    assert!(message.contains("status 503"), "{message}");
    assert_eq!(ranges(&hub).len(), 2);
}

#[test]
fn a_complete_part_a_too_long_part_and_a_server_without_ranges() {
    let (hub, options, _cache) = setup();
    hub.break_file(WEIGHTS, Fault::Cut { after: 100, times: 1 });
    reason(resolve(REPO, &options));
    let part = parts(&options).remove(0);

    // Killed between the last byte and the renaming: nothing more is asked for.
    std::fs::write(&part, weights()).unwrap();
    ranges(&hub);
    let directory = resolve(REPO, &options).unwrap();
    assert!(ranges(&hub).is_empty());
    assert_eq!(std::fs::read(directory.join(WEIGHTS)).unwrap(), weights());

    for fault in [None, Some(Fault::NoRange)] {
        let blob = std::fs::canonicalize(directory.join(WEIGHTS)).unwrap();
        std::fs::remove_file(blob).unwrap();
        let length = if fault.is_none() { 4_000_000 } else { 1_000_000 };
        std::fs::write(&part, vec![7; length]).unwrap();
        hub.contents().files.get_mut(WEIGHTS).unwrap().fault = fault;
        resolve(REPO, &options).unwrap();
        assert_eq!(std::fs::read(directory.join(WEIGHTS)).unwrap(), weights());
    }
}

#[test]
fn wrong_bytes_and_wrong_lengths_are_not_kept() {
    let (hub, options, _cache) = setup();
    hub.break_file(WEIGHTS, Fault::OtherBytes);
    assert!(reason(resolve(REPO, &options)).contains("checksum"));
    assert!(parts(&options).is_empty());
    hub.break_file(WEIGHTS, Fault::Announce(2_000_000));
    let message = reason(resolve(REPO, &options));
    assert!(message.contains("longer than its 2000000 bytes"), "{message}");
    hub.break_file(WEIGHTS, Fault::Announce(3_000_001));
    let message = reason(resolve(REPO, &options));
    assert!(message.contains("3000000 of 3000001 bytes"), "{message}");

    // A part of other bytes is noticed at the end and thrown away: the next attempt is good.
    hub.contents().files.get_mut(WEIGHTS).unwrap().fault = None;
    std::fs::write(&parts(&options)[0], vec![7; 1000]).unwrap();
    assert!(reason(resolve(REPO, &options)).contains("checksum"));
    resolve(REPO, &options).unwrap();
}

#[test]
fn gated_private_and_absent_repositories_say_what_to_do() {
    let (hub, options, _cache) = setup();
    let with = |token: &str| options.clone().token(token.to_owned());
    let page = format!("{}/{REPO}", hub.endpoint);
    hub.contents().access = Access::Gated("good".to_owned());
    let message = reason(resolve(REPO, &options));
    for part in ["gated", "accept its license", &page, "HF_TOKEN"] {
        assert!(message.contains(part), "{message}");
    }
    let message = reason(resolve(REPO, &with("other")));
    for part in ["gated and the token has no access", "license", &page] {
        assert!(message.contains(part), "{message}");
    }
    hub.take_requests(|_| true);
    resolve(REPO, &with("good")).unwrap();
    for request in hub.take_requests(|_| true) {
        assert_eq!(request.authorization.is_none(), request.storage, "{request:?}");
    }

    hub.contents().access = Access::Private("good".to_owned());
    let message = reason(resolve(REPO, &options));
    assert!(message.contains("no such repository") && message.contains("HF_TOKEN"), "{message}");
    assert!(reason(resolve(REPO, &with("other"))).contains("refused the token"));

    hub.contents().access = Access::Open;
    let message = reason(resolve(&format!("{REPO}@nothing"), &options));
    assert!(message.contains("no revision nothing"), "{message}");
    let message = resolve("owner/absent", &options).unwrap_err().to_string();
    assert!(message.contains("owner/absent: there is no such repository"), "{message}");
}

#[test]
fn without_a_network_the_cache_is_used() {
    let (_hub, options, _cache) = setup();
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let unreachable = options.clone().endpoint(nobody);
    let offline = unreachable.clone().offline(true);
    let message = reason(resolve(REPO, &unreachable));
    assert!(message.contains("cannot be reached"), "{message}");
    let message = reason(resolve(REPO, &offline));
    assert!(message.contains("offline mode") && message.contains("HF_HUB_OFFLINE"), "{message}");

    let directory = resolve(REPO, &options).unwrap();
    assert_eq!(resolve(REPO, &unreachable).unwrap(), directory);
    assert_eq!(resolve(REPO, &offline).unwrap(), directory);
    let by_commit = format!("{REPO}@{}", FakeHub::COMMIT);
    assert_eq!(resolve(&by_commit, &offline).unwrap(), directory);
    assert!(reason(resolve(&format!("{REPO}@v1"), &offline)).contains("revision v1"));

    // A snapshot whose weights are gone, or whose index names an absent shard, is not whole.
    let index = br#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#;
    std::fs::write(directory.join("model.safetensors.index.json"), index).unwrap();
    reason(resolve(REPO, &offline));
    std::fs::remove_file(directory.join("model.safetensors.index.json")).unwrap();
    resolve(REPO, &offline).unwrap();
    std::fs::remove_file(std::fs::canonicalize(directory.join(WEIGHTS)).unwrap()).unwrap();
    reason(resolve(REPO, &offline));
}

#[test]
fn local_paths_and_other_names_never_reach_the_network() {
    let (hub, options, cache) = setup();
    let local = cache.path().join("here");
    std::fs::create_dir(&local).unwrap();
    assert_eq!(resolve(local.to_str().unwrap(), &options).unwrap(), local);
    for name in ["./owner/model", "/owner/model", "model", "owner/model/x", "../owner/model"] {
        match resolve(name, &options) {
            Err(Error::NotACheckpoint { reason, .. }) => assert!(reason.contains("owner/name")),
            other => panic!("{name}: {other:?}"),
        }
        let tokenizer = resolve_tokenizer(name, &options);
        assert!(matches!(tokenizer, Err(Error::TokenizerMissing { .. })));
    }
    for revision in ["../../x", "v/../../../x", "-x", "a b", ""] {
        let name = format!("{REPO}@{revision}");
        assert!(matches!(resolve(&name, &options), Err(Error::Argument { .. })), "{revision}");
    }
    assert!(hub.take_requests(|_| true).is_empty());
}

#[test]
fn progress_tells_file_bytes_and_total() {
    let (hub, options, _cache) = setup();
    hub.break_file(WEIGHTS, Fault::Cut { after: 1_000_000, times: 1 });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let progress = move |now: Progress<'_>| {
        sink.lock().unwrap().push((now.item.to_owned(), now.done, now.total));
        ControlFlow::Continue(())
    };
    resolve(REPO, &options.retries(1).progress(progress)).unwrap();
    let seen = seen.lock().unwrap();
    let weights: Vec<_> = seen.iter().filter(|(file, ..)| file == WEIGHTS).collect();
    assert_eq!((weights[0].1, weights.last().unwrap().1), (0, 3_000_000));
    assert!(weights.is_sorted_by_key(|(_, bytes, _)| bytes) && weights.len() > 4);
    assert!(weights.iter().all(|(_, _, total)| *total == 3_000_000));
    assert!(seen.iter().any(|(file, ..)| file == "config.json"));
}

#[test]
fn a_stopped_download_is_continued() {
    let (hub, options, _cache) = setup();
    let half = |now: Progress<'_>| match 2 * now.done > 3_000_000 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let stopping = options.clone().progress(half);
    assert!(matches!(resolve(REPO, &stopping), Err(Error::Interrupted)));
    let path = resolve(REPO, &options).unwrap();
    assert_eq!(std::fs::read(path.join(WEIGHTS)).unwrap(), weights());
    assert_eq!(hub.take_requests(|request| request.storage && request.range.is_some()).len(), 1);
}

#[test]
fn hostile_answers_write_nothing_outside_the_cache() {
    let (hub, options, cache) = setup();
    hub.contents().commit = "../../../../escape".to_owned();
    assert!(reason(resolve(REPO, &options)).contains("commit"));
    assert_eq!(names(cache.path()), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_of_writing() {
    let (hub, options, _cache) = setup();
    hub.break_file(WEIGHTS, Fault::Cut { after: 100, times: 1 });
    reason(resolve(REPO, &options));
    let part = parts(&options).remove(0);
    std::fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    match resolve(REPO, &options) {
        Err(Error::Io { action: "write", path, source }) => {
            assert_eq!(path, part);
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_at_once_download_once() {
    let (hub, options, _cache) = setup();
    let found: Vec<PathBuf> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| resolve(REPO, &options))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap().unwrap()).collect()
    });
    assert!(found.iter().all(|directory| *directory == found[0]));
    assert_eq!(ranges(&hub), [None]);
}

#[test]
fn unreadable_certificates_are_named() {
    let (_hub, options, cache) = setup();
    let file = cache.path().join("ca.pem");
    let with = options.certificates(file.clone());
    assert!(matches!(resolve(REPO, &with), Err(Error::Io { action: "read", .. })));
    std::fs::write(&file, "nothing").unwrap();
    assert!(matches!(resolve(REPO, &with), Err(Error::Argument { name: "SSL_CERT_FILE", .. })));
}

#[test]
fn a_hub_is_asked_whether_it_is_there_and_knows_the_token() {
    let (hub, options, _cache) = setup();
    let with = |token: &str| options.clone().token(token.to_owned());
    assert_eq!(reach(&options).unwrap(), None);
    hub.contents().access = Access::Gated("good".to_owned());
    assert_eq!(reach(&with("good")).unwrap().as_deref(), Some("somebody"));
    let refused = reach(&with("other")).unwrap_err().to_string();
    assert!(refused.contains("refuses the token") && refused.contains("HF_TOKEN"), "{refused}");
    assert!(!refused.contains("other"), "{refused}");
    let nobody = options.endpoint("http://127.0.0.1:1".to_owned());
    let away = reach(&nobody).unwrap_err().to_string();
    assert!(away.contains("http://127.0.0.1:1: the hub cannot be reached"), "{away}");
}
