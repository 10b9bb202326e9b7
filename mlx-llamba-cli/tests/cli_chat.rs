//! Conversations on the command line, saved sessions, and reading a stream.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};

use mlx_llamba_tests::chat;
use mlx_llamba_tests::command::{Cli, Run, names, signal, wait_for};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// Runs the command with its own data directory.
fn run(data: &Path, arguments: &[&str], input: &str) -> Run {
    let mut command = CLI.command(arguments);
    command.env("MLX_LLAMBA_DATA", data).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Run::from(child.wait_with_output().unwrap())
}

fn ok(data: &Path, arguments: &[&str], input: &str) -> String {
    let run = run(data, arguments, input);
    assert!(run.code == Some(0) && run.err.is_empty(), "{arguments:?}: {run:?}");
    run.out
}

#[test]
fn a_line_is_a_message_and_replies_are_all_that_is_printed() {
    let data = tempfile::tempdir().unwrap();
    let chat = ["chat", "-t", "0", "-n", "8"];
    let story = ok(data.path(), &chat, "Once upon a time\n\nThen the cat came\n");
    assert_eq!(story.lines().count(), 2);
    // The first reply equals the output of generate for what the template makes of the message.
    let prompt = "Once upon a time<|begin_of_text|>";
    let generated = CLI.ok(&["generate", "-t", "0", "-n", "8", prompt]);
    assert_eq!(story.lines().next(), generated.lines().next());
    // A message as an argument is the only one.
    let more = ["--chat-template", "chatml"];
    for template in [&[][..], &more] {
        let more = [&["-t", "0", "-n", "8"], template].concat();
        let line = ok(data.path(), &[&["chat"], &more[..]].concat(), "Once upon a time\n");
        let argument = [&["run", "Once upon a time"], &more[..]].concat();
        let argument = ok(data.path(), &argument, "No\n");
        let generated = CLI.ok(&[&["generate", "--chat", "Once upon a time"], &more[..]].concat());
        assert_eq!((&argument, &generated), (&line, &line));
    }
    assert_eq!(names(data.path()), [""; 0]);
    // An empty line, and a slash that is not a command.
    assert_eq!(ok(data.path(), &chat, ""), "");
    let slash = ok(data.path(), &chat, "//home\n/history\n");
    assert!(slash.contains("#0 user: /home\n"), "{slash}");
}

#[test]
fn commands_go_back_and_forth() {
    let data = tempfile::tempdir().unwrap();
    let chat = ["chat", "-t", "0.7", "-n", "6", "--seed", "3"];
    let say = |lines: &[&str]| ok(data.path(), &chat, &(lines.join("\n") + "\n"));
    let once = say(&["One day", "/history"]);
    let (reply, history) = once.split_once('\n').unwrap();
    // Undo and repeat; edit and edit back; in a fork.
    for lines in [
        &["A cat", "/undo", "One day", "/history"][..],
        &["A cat", "/edit One day", "/history"],
        &["A cat", "And", "/edit #0 One day", "/history"],
        &["A cat", "/new", "One day", "/history"],
        &["One day", "/fork", "More", "/switch 1", "/history"],
    ] {
        let out = say(lines);
        assert!(out.ends_with(history), "{lines:?}: {out}");
        assert!(out.contains(reply));
    }
    // A regenerated reply is another one, and the same ones in each run.
    let anew = say(&["One day", "/regen", "/regen", "/undo", "One day"]);
    let replies = anew.lines().collect::<Vec<&str>>();
    let [first, second, third, again]: [&str; 4] = replies.try_into().unwrap();
    assert!(first == reply && again == reply, "{anew}");
    assert!(first != second && second != third && first != third, "{anew}");
    assert_eq!(anew, say(&["One day", "/regen", "/regen", "/undo", "One day"]));
    // The same holds later, after other turns.
    let later = say(&["One day", "/regen", "More", "/undo", "/regen"]);
    let replies: [&str; 4] = later.lines().collect::<Vec<_>>().try_into().unwrap();
    assert!(replies[..2] == [first, second] && replies[3] == third, "{later}");
    let out =
        say(&["/system Be kind.", "One day", "/system Be brief.", "More", "/history", "/stats"]);
    assert!(out.contains("#0 system: Be brief.\n"), "{out}");
    assert!(out.contains("messages: 5 | tokens: ") && out.contains("last reply: "), "{out}");
    let help = say(&["/help", "/quit", "never said"]);
    assert!(help.contains("/undo") && help.lines().count() < 20, "{help}");
}

#[test]
fn what_cannot_be_done_is_one_line() {
    let data = tempfile::tempdir().unwrap();
    for (input, part) in [
        ("/undo\n", "nothing to undo"),
        ("/regen\n", "no reply"),
        ("/edit\n", "/help"),
        ("/edit #9 x\n", "no message 9"),
        ("/edit #x y\n", "a number"),
        ("/switch 2\n", "no copy 2"),
        ("/load nothing\n", "nothing.session"),
        ("/load ../x/y\n", "../x/y"),
        ("/save\n", "a name"),
        ("/save .hidden\n", "not a valid session name"),
        ("/dance\n", "/dance"),
        ("/quit now\n", "takes no argument"),
    ] {
        run(data.path(), &["chat", "-n", "1"], input).fails(&[part]);
    }
    let binary = CLI.with_input(&["chat", "-n", "1"], b"\xff\xfe\n");
    binary.fails(&["line 1", "not UTF-8"]);
    let base = mlx_llamba_tests::fixtures::path("a_base").display().to_string();
    run(data.path(), &["chat", "-m", &base], "hi\n").fails(&["no tokenizer"]);
    let bad = data.path().join("bad.jinja");
    std::fs::write(&bad, "{% if %}").unwrap();
    let template = bad.display().to_string();
    run(data.path(), &["chat", "--chat-template", &template], "hi\n").fails(&["bad.jinja"]);
    run(data.path(), &["chat", "--chat-template", "nosuch"], "").fails(&["nosuch", "chatml"]);
    std::fs::write(&bad, "{{ raise_exception('not today') }}").unwrap();
    run(data.path(), &["chat", "--chat-template", &template], "hi\n").fails(&["not today"]);
    run(data.path(), &["chat", "--tools", &template], "hi\n").fails(&["not valid JSON"]);
}

#[test]
fn sessions_are_kept_listed_compared_and_removed() {
    let data = tempfile::tempdir().unwrap();
    let model = chat::directory(1);
    let model = model.path().display().to_string();
    let talk = |session: &str, input: &str| {
        let named = ["chat", "-m", &model, "-s", session, "-t", "0", "-n", "5"];
        ok(data.path(), &named, input)
    };
    let sessions = |arguments: &[&str]| ok(data.path(), &[&["session"], arguments].concat(), "");
    assert_eq!(sessions(&["list"]), "");
    talk("rivers", "one\ntwo\n");
    talk("lakes", "one\n");
    // It continues where it stopped, and knows its model.
    let on = ["chat", "-s", "lakes", "-t", "0", "-n", "5"];
    ok(data.path(), &on, "two\n");
    assert_eq!(names(&data.path().join("sessions")), ["lakes.session", "rivers.session"]);
    let history = |name: &str| talk(name, "/history\n");
    assert_eq!(history("rivers"), history("lakes"));
    let same = sessions(&["diff", "rivers", "lakes"]);
    assert!(same.contains("in common: 4 messages") && same.contains("distance 0.000e0"), "{same}");
    talk("lakes", "/undo\nthree\n");
    let diff = sessions(&["diff", "rivers", "lakes"]);
    assert!(diff.contains("in common: 2 messages"), "{diff}");
    assert!(diff.contains("- #2 user: two\n") && diff.contains("+ #2 user: three\n"), "{diff}");
    let list = sessions(&["list"]);
    assert!(list.starts_with("lakes: 4 messages, ") && list.lines().count() == 2, "{list}");
    let inspect = sessions(&["inspect", "rivers"]);
    assert!(inspect.contains("#0 user (") && inspect.contains(&model), "{inspect}");
    let json: serde_json::Value =
        serde_json::from_str(&sessions(&["inspect", "--json", "rivers"])).unwrap();
    assert_eq!(json["messages"][2]["content"], "two");
    sessions(&["list", "--json"]);
    assert_eq!(sessions(&["list", "-m", &model]), list);
    assert_eq!(sessions(&["list", "-m", "another"]), "");

    // Sessions of another model, damaged ones, and missing ones.
    let file = data.path().join("sessions/rivers.session");
    let path = file.display().to_string();
    let foreign = ["chat", "-m", &chat::directory(2).keep().display().to_string(), "-s", "rivers"];
    run(data.path(), &foreign, "hi\n").fails(&["another model", &model]);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() - 9;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    run(data.path(), &["session", "inspect", &path], "").fails(&["damaged", "checksum"]);
    run(data.path(), &["chat", "-s", &path], "hi\n").fails(&["damaged", "checksum"]);
    std::fs::write(data.path().join("sessions/none.session"), "nothing at all").unwrap();
    run(data.path(), &["session", "inspect", "none"], "").fails(&["none.session"]);
    let list = run(data.path(), &["session", "list"], "");
    assert!(list.code == Some(0) && list.err.contains("none.session"), "{list:?}");
    run(data.path(), &["session", "rm", "lakes", "nosuch"], "").fails(&["nosuch.session"]);
    sessions(&["rm", "lakes", "rivers"]);
    assert_eq!(names(&data.path().join("sessions")), ["none.session"]);
}

#[test]
fn ctrl_c_stops_the_reply_and_keeps_the_session() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("long.session").display().to_string();
    let endless = ["chat", "-n", "1000000", "-s", &file, "--logit-bias", "1=-1000", "--seed", "1"];
    let mut child = CLI.spawn(&endless, Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Once upon a time\n").unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = vec![0; 20];
    out.read_exact(&mut text).unwrap();
    signal(&child, "INT");
    out.read_to_end(&mut text).unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.err.as_str()), (Some(130), "(stopped)\n"));
    let text = String::from_utf8(text).unwrap();
    let inspect = CLI.ok(&["session", "inspect", &file]);
    assert!(inspect.contains(text.trim_end()), "{inspect}");
}

/// A command in a terminal that `script` provides.
struct Terminal {
    child: Child,
    input: ChildStdin,
    seen: Arc<Mutex<Vec<u8>>>,
    from: usize,
}

impl Terminal {
    /// Returns `None` without `script`.
    fn open(data: &Path, arguments: &str) -> Option<Self> {
        let command = format!("exec {} {arguments}", env!("CARGO_BIN_EXE_mlx-llamba"));
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("MLX_LLAMBA_DATA", data);
        script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = script.spawn() else {
            eprintln!("not tried: there is no command script");
            return None;
        };
        let input = child.stdin.take().unwrap();
        let mut out = child.stdout.take().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = seen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 512];
            while let Ok(length @ 1..) = out.read(&mut piece) {
                copy.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Some(Self { child, input, seen, from: 0 })
    }

    /// Waits for a text in new output.
    fn until(&mut self, what: &str) {
        wait_for(what, || {
            let text =
                String::from_utf8_lossy(&self.seen.lock().unwrap()[self.from..]).into_owned();
            self.from += text.find(what)? + what.len();
            Some(())
        });
    }

    /// Types a line at the next prompt; earlier input would be lost.
    fn say(&mut self, line: &str) {
        self.until("[K> ");
        self.press(&format!("{line}\r"));
    }

    fn press(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
    }

    /// Sends the signal of Ctrl-C.
    fn interrupt(&self) {
        let script = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children"));
        // Only Linux reports this.
        for process in children.unwrap_or_default().split_whitespace() {
            let kill = std::process::Command::new("kill").args(["-INT", process]).status();
            assert!(kill.unwrap().success());
        }
    }

    /// Ends the input and waits for the end.
    fn end(mut self) -> Option<i32> {
        self.until("[K> ");
        self.press("\x04");
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_person_gets_prompts_and_a_history() {
    let data = tempfile::tempdir().unwrap();
    let Some(mut terminal) = Terminal::open(data.path(), "chat -t 0 -n 4") else { return };
    for (line, answer) in [
        ("/undo", "error: there is nothing to undo"),
        ("/history", "there is no message yet"),
        ("Once upon a time", "\n"),
        ("/stats", "messages: 2"),
        ("/undo", "your last message is removed; 0 messages left"),
    ] {
        terminal.say(line);
        terminal.until(answer);
    }
    assert_eq!(terminal.end(), Some(0));
    let history = std::fs::read_to_string(data.path().join("history")).unwrap();
    assert!(history.contains("Once upon a time"), "{history}");
}

/// Ctrl-C stops only the reply, and the conversation continues.
#[test]
fn a_person_stops_a_reply_and_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("talk.session").display().to_string();
    let arguments = format!("chat -n 1000000 --logit-bias 1=-1000 --seed 1 -s {file}");
    let Some(mut terminal) = Terminal::open(data.path(), &arguments) else { return };
    for line in ["Once upon a time", "Then", "/regen"] {
        terminal.say(line);
        terminal.until("\n");
        for _ in 0..3 {
            terminal.until(" ");
        }
        terminal.press("\x03");
        terminal.until("(stopped)");
    }
    // A late Ctrl-C stops nothing.
    terminal.until("[K> ");
    terminal.interrupt();
    terminal.press("/stats\r");
    terminal.until("messages: 4");
    assert_eq!(terminal.end(), Some(0));
    let inspect = CLI.ok(&["session", "inspect", &file]);
    assert!(inspect.contains("#2 user") && inspect.contains("#3 assistant"), "{inspect}");
}

/// Another conversation never overwrites a saved one.
#[test]
fn copies_are_saved_each_in_its_file() {
    let data = tempfile::tempdir().unwrap();
    let talk = |session: &str, lines: &[&str]| {
        let arguments = ["chat", "-t", "0", "-n", "5", "-s", session];
        ok(data.path(), &arguments, &(lines.join("\n") + "\n"))
    };
    let history = |session: &str| talk(session, &["/history"]);
    talk("one", &["/system Be kind.", "Lily", "/fork", "A dog", "/switch 1", "A cat"]);
    let one = history("one");
    assert!(one.starts_with("#0 system: Be kind.\n#1 user: Lily\n"), "{one}");
    assert!(one.contains("#3 user: A cat\n") && !one.contains("A dog"), "{one}");
    // It stays as it is after /new or /load.
    talk("two", &["Tom"]);
    talk("one", &["/new", "A bird", "/load two", "A fish"]);
    assert_eq!(history("one"), one);
    assert!(history("two").contains("#2 user: A fish\n"));
    let anew = talk("one", &["/new", "A bird", "/save three", "/history"]);
    assert!(anew.contains("#0 system: Be kind.\n#1 user: A bird\n"), "{anew}");
    assert_eq!(talk("three", &["/history"]), anew[anew.find("#0").unwrap()..]);
    // A system message alone is saved too.
    talk("four", &["/system Be brief."]);
    assert_eq!(history("four"), "#0 system: Be brief.\n");
    for (lines, part) in [
        ("/save two\n", "two.session already"),
        ("/load one\n/load two\n/load one\n", "is copy 1; /switch 1 goes there"),
        ("/load one\n/fork\n/save one\n", "is copy 1; /save needs another name"),
    ] {
        run(data.path(), &["chat", "-n", "1"], lines).fails(&[part]);
    }
    assert_eq!(history("one"), one);
}

/// Messages dropped for another reply are restored if that reply fails.
#[test]
fn nothing_is_dropped_for_a_reply_that_fails() {
    let data = tempfile::tempdir().unwrap();
    let template = data.path().join("picky.jinja");
    let picky = "{% for m in messages %}{% if 'no' in m.content %}{{ raise_exception('refused') }}\
        {% endif %}{{ m.content }}{% endfor %}";
    std::fs::write(&template, picky).unwrap();
    let arguments = format!("chat -t 0 -n 3 --chat-template {}", template.display());
    let Some(mut terminal) = Terminal::open(data.path(), &arguments) else { return };
    for (line, answer) in [
        ("Lily", "\n"),
        ("no", "error: chat template"),
        ("/edit no", "error: chat template"),
        ("/history", "#0 user: Lily\r\n#1 assistant:"),
        ("/stats", "messages: 2"),
        ("A cat", "\n"),
        ("/stats", "messages: 4"),
    ] {
        terminal.say(line);
        terminal.until(answer);
    }
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn a_stream_is_read_as_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state").display().to_string();
    let text = "Once upon a time there was a little girl.\nShe had a red ball. ".repeat(60);
    let follow = ["generate", "--follow", "--every", "100", "--json"];
    let whole = CLI.with_input(&[&follow[..], &["--state-out", &state]].concat(), text.as_bytes());
    assert_eq!((whole.code, whole.err.as_str()), (Some(0), ""));
    let reports: Vec<serde_json::Value> =
        whole.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = &reports[reports.len() - 1];
    assert_eq!(last["total"]["bytes"], text.len());
    assert!(reports[..reports.len() - 1].iter().all(|r| r["window"]["tokens"] == 100));
    let nats = |report: &serde_json::Value| report["window"]["nats_per_token"].as_f64().unwrap();
    assert!(nats(&reports[0]) < 6.0, "{reports:?}");
    // Its state is that of the whole text.
    let next = CLI.ok(&["generate", "--state-in", &state, "-t", "0", "-n", "5"]);
    let prompted = CLI.with_input(&["generate", "-t", "0", "-n", "5", "-"], text.as_bytes());
    assert_eq!(prompted.out, next);

    // Reports arrive before the end; Ctrl-C keeps the state.
    let mut child = CLI.spawn(&[&follow[..], &["--state-out", &state]].concat(), Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    input.write_all(&text.as_bytes()[..2000]).unwrap();
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), whole.out.lines().next().unwrap());
    std::fs::remove_file(&state).unwrap();
    signal(&child, "INT");
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.err.as_str()), (Some(130), ""));
    assert!(Path::new(&state).exists());
    drop(input);
    // Bytes that are not UTF-8 are replaced.
    let junk = CLI.with_input(&["generate", "--follow"], &[0xff; 2000]);
    assert!(junk.code == Some(0) && junk.out.contains("bits per byte"), "{:?}", junk.err);
}

/// A disk that takes nothing, here a directory that is a file, costs no conversation: the next turn
/// saves again, and so does the end.
#[test]
fn a_save_that_fails_is_tried_again() {
    let data = tempfile::tempdir().unwrap();
    let place = data.path().join("sessions");
    std::fs::write(&place, "in the way").unwrap();
    let chat = ["chat", "-t", "0", "-n", "2", "--session", "talk"];
    let failed = run(data.path(), &chat, "Once\nThen\n");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert_eq!(failed.out.lines().count(), 2, "{failed:?}");
    assert!(failed.err.matches("error: not saved").count() == 2, "{failed:?}");
    // One question that could not be saved is not answered.
    let one = run(data.path(), &[&chat[..], &["Once"]].concat(), "");
    assert_eq!((one.code, one.out.as_str()), (Some(1), ""), "{one:?}");
    one.fails(&["cannot write", "talk.session"]);

    let mut command = CLI.command(&chat);
    command.env("MLX_LLAMBA_DATA", data.path()).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Once\n").unwrap();
    lines.next().unwrap().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(errors.next().unwrap().unwrap().starts_with("warn: cannot write"));
    assert!(errors.next().unwrap().unwrap().starts_with("error: not saved"));
    std::fs::remove_file(&place).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
    let saved = place.join("talk.session");
    // Others cannot read it.
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in [(&saved, 0o600), (&place, 0o700)] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
    }
}
