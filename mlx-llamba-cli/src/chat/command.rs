//! Commands in a conversation: lines that begin with a slash.

use anyhow::{Result, bail};
use mlx_llamba::Session;
use mlx_llamba::units::count;

use super::copies::Copy;
use super::talk::{Ask, Chat};
use crate::output::{printable_text, show};
use crate::places;

const HELP: &str = "\
/undo            remove your last message and everything after it
/regen           write another reply to your last message
/edit TEXT       replace your last message and get a new reply
/edit #N TEXT    replace message N; if it is yours, everything after it is removed
/system TEXT     set or replace the system message; the conversation stays
/fork            continue in a copy; /switch goes back and forth
/switch N        continue in copy N
/save [NAME]     save this copy (a name or a file) now and after every turn
/load NAME       continue a saved session
/new             start over; the system message stays
/history         list the messages
/stats           show tokens, snapshots and speed
/help            show this list
/quit            end the conversation
To send a line that begins with /, begin it with //.
";

enum Command {
    Say(String),
    Undo,
    Regen,
    Edit(Option<usize>, String),
    System(String),
    Fork,
    Switch(usize),
    Save(Option<String>),
    Load(String),
    New,
    History,
    Stats,
    Help,
    Quit,
}

/// Runs the command of a line, or says the line. Returns false if that ends the conversation.
pub(super) fn take(chat: &mut Chat<'_>, line: &str) -> Result<bool> {
    Command::parse(line)?.run(chat)
}

impl Command {
    fn parse(line: &str) -> Result<Self> {
        let Some(rest) = line.strip_prefix('/') else { return Ok(Self::Say(line.to_owned())) };
        if rest.starts_with('/') {
            return Ok(Self::Say(rest.to_owned()));
        }
        let (word, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let text = text.trim();
        let needed = |what: &str| match text {
            "" => bail!("/{word} needs {what}; see /help"),
            text => Ok(text.to_owned()),
        };
        if matches!(word, "undo" | "regen" | "fork" | "new" | "history" | "stats" | "help" | "quit")
            && !text.is_empty()
        {
            bail!("/{word} takes no argument; see /help");
        }
        Ok(match word {
            "undo" => Self::Undo,
            "regen" => Self::Regen,
            "edit" => edit(&needed("a text")?)?,
            "system" => Self::System(needed("a text")?),
            "fork" => Self::Fork,
            "switch" => match needed("a number")?.parse() {
                Ok(number) => Self::Switch(number),
                Err(_) => bail!("/switch needs a number; see /help"),
            },
            "save" => Self::Save(Some(text.to_owned()).filter(|text| !text.is_empty())),
            "load" => Self::Load(needed("a name")?),
            "new" => Self::New,
            "history" => Self::History,
            "stats" => Self::Stats,
            "help" => Self::Help,
            "quit" | "exit" => Self::Quit,
            _ => bail!("there is no command /{}; see /help", word.escape_debug()),
        })
    }

    fn run(self, chat: &mut Chat<'_>) -> Result<bool> {
        match self {
            Self::Say(text) => chat.say(text)?,
            Self::Undo => {
                chat.session().undo()?;
                chat.copies.save();
                let left = chat.session().messages().len() as u64;
                note(&format!("your last message is removed; {} left", count(left, "message")));
            }
            Self::Regen => {
                let before = chat.session().fork();
                chat.reply(Ask::Regenerate, before, true)?;
            }
            Self::Edit(number, text) => change(chat, number, text)?,
            Self::System(text) => {
                system(chat.session(), text)?;
                chat.copies.save();
                note("the system message is set");
            }
            Self::Fork => {
                let session = chat.session().fork();
                go_on(chat, Copy { session, file: None });
            }
            Self::Switch(number) => chat.copies.switch(number)?,
            Self::Save(name) => {
                if let Some(name) = name {
                    chat.copies.name(places::session(&name, None)?)?;
                }
                let Some(file) = chat.copies.here().file.clone() else {
                    bail!("/save needs a name the first time")
                };
                chat.copies.write()?;
                note(&format!("saved as {}", file.display()));
            }
            Self::Load(name) => {
                let file = places::session(&name, None)?;
                if let Some(number) = chat.copies.of(&file) {
                    bail!("{} is copy {number}; /switch {number} goes there", file.display());
                }
                let mut session = Session::load(chat.llamba, &file)?;
                session.set_snapshot_budget(chat.budget);
                session.set_source(chat.name.clone());
                go_on(chat, Copy { session, file: Some(file) });
            }
            Self::New => {
                let mut session = chat.session().fork();
                let system = session.messages().next().is_some_and(|m| m.role == "system");
                let kept = usize::from(system);
                if session.messages().len() > kept {
                    session.rewind(kept)?;
                }
                go_on(chat, Copy { session, file: None });
            }
            Self::History => {
                if chat.session().messages().len() == 0 {
                    note("there is no message yet");
                }
                for (number, message) in chat.session().messages().enumerate() {
                    let (role, content) =
                        (printable_text(&message.role), printable_text(&message.content));
                    show(&format!("#{number} {role}: {content}\n"))?;
                }
            }
            Self::Stats => show(&stats(chat))?,
            Self::Help => show(HELP)?,
            Self::Quit => return Ok(false),
        }
        Ok(true)
    }
}

/// Parses `#N TEXT`, or a text alone.
fn edit(text: &str) -> Result<Command> {
    let Some(rest) = text.strip_prefix('#') else {
        return Ok(Command::Edit(None, text.to_owned()));
    };
    match rest.split_once(char::is_whitespace).map(|(number, text)| (number.parse(), text.trim())) {
        Some((Ok(number), text)) if !text.is_empty() => {
            Ok(Command::Edit(Some(number), text.to_owned()))
        }
        _ => bail!("/edit needs a number after # and a text; see /help"),
    }
}

fn change(chat: &mut Chat<'_>, number: Option<usize>, text: String) -> Result<()> {
    let session = chat.session();
    let roles: Vec<bool> = session.messages().map(|message| message.role == "user").collect();
    let number = match number.or_else(|| roles.iter().rposition(|user| *user)) {
        Some(number) => number,
        None => bail!("there is no message to change"),
    };
    if roles.get(number) == Some(&true) {
        let before = session.fork();
        session.rewind(number)?;
        session.push_user(text);
        return chat.reply(Ask::Next, before, true);
    }
    session.edit(number, text)?;
    chat.copies.save();
    note(&format!("message {number} is replaced"));
    Ok(())
}

/// Continues in another conversation, and tells how to come back.
fn go_on<'m>(chat: &mut Chat<'m>, copy: Copy<'m>) {
    let before = chat.copies.number();
    let saved = if copy.file.is_some() { "" } else { ", which is not saved yet" };
    chat.copies.add(copy);
    let (now, count) = (chat.copies.number(), chat.copies.count());
    if now != before {
        note(&format!("now in copy {now} of {count}{saved}; /switch {before} goes back"));
    }
}

fn system(session: &mut Session<'_>, text: String) -> Result<()> {
    let first = session.messages().next().map(|message| message.role == "system");
    match first {
        None => session.push_system(text),
        Some(true) => session.edit(0, text)?,
        Some(false) => {
            bail!("the conversation began without a system message; /new starts over")
        }
    }
    Ok(())
}

fn stats(chat: &mut Chat<'_>) -> String {
    let (copy, copies) = (chat.copies.number(), chat.copies.count());
    let last = chat.last.clone();
    let stats = chat.session().stats();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let mut text = format!(
        "messages: {} | tokens: {} | read by the model: {} | copy {copy} of {copies}\n\
         state: {:.2} MiB | snapshots: {}, {:.2} of {:.0} MiB, after {:?} tokens\n",
        stats.messages,
        stats.tokens,
        stats.tokens_read,
        mib(stats.state_bytes),
        stats.snapshots.len(),
        mib(stats.snapshot_bytes),
        mib(stats.snapshot_budget),
        stats.snapshots,
    );
    if let Some(last) = last {
        text += &format!(
            "last reply: {} read, {} written, first after {:.3} s, {:.1} tok/s\n",
            count(last.prompt_tokens as u64, "token"),
            last.generated_tokens,
            last.time_to_first_token,
            last.decode_tokens_per_second,
        );
    }
    text
}

/// Tells something to a person; scripts need not know it.
fn note(text: &str) {
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        eprintln!("{text}");
    }
}
