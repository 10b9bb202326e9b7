//! The configuration file: a key is the long name of an option, a table the name of a command.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use clap::Command;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::{Value, similar};
use super::{Origin, Setting, options};
use crate::places;

/// The size limit, in bytes, against a file that never ends.
const LONGEST: u64 = 1 << 20;

/// Returns the path of the configuration file, which need not exist, and true if
/// `MLX_LLAMBA_CONFIG` names it.
pub(crate) fn place() -> Result<(PathBuf, bool)> {
    match places::variable("MLX_LLAMBA_CONFIG") {
        Some(file) => Ok((file.into(), true)),
        None => Ok((places::config()?.join("config.toml"), false)),
    }
}

/// Reads the settings of the file. Without a file there are none, unless a variable names one.
pub(super) fn read(command: &Command) -> Result<Vec<Setting>> {
    let Ok((path, named)) = place() else {
        // Without a home directory there is no file.
        return Ok(Vec::new());
    };
    let failed = || format!("cannot read the configuration file {}", path.display());
    let file = match std::fs::File::open(&path) {
        Err(e) if !named && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) if named && e.kind() == ErrorKind::NotFound => {
            bail!("{}: no such file, though MLX_LLAMBA_CONFIG names it", path.display())
        }
        file => file.with_context(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).with_context(failed)?;
    if bytes.len() as u64 > LONGEST {
        bail!("{}: longer than {LONGEST} bytes, not a configuration file", path.display());
    }
    let Ok(text) = String::from_utf8(bytes) else {
        bail!("{}: not UTF-8 text, not a configuration file", path.display());
    };
    parse(command, &path, &text)
}

/// Parses the text of the file at `path`.
fn parse(command: &Command, path: &Path, text: &str) -> Result<Vec<Setting>> {
    let mut reader = Reader { path, text, settings: Vec::new() };
    let table = DeTable::parse(text).map_err(|e| {
        reader.error(e.span().unwrap_or_default(), &e.message().replace('\n', ", "))
    })?;
    reader.table(command, command, &mut Vec::new(), table.get_ref())?;
    Ok(reader.settings)
}

struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
    settings: Vec<Setting>,
}

impl Reader<'_> {
    fn line(&self, at: &Range<usize>) -> usize {
        1 + self.text.bytes().take(at.start).filter(|byte| *byte == b'\n').count()
    }

    fn error(&self, at: Range<usize>, problem: &str) -> Error {
        anyhow!("{}, line {}: {problem}", self.path.display(), self.line(&at))
    }

    /// Reads the table of the command at `scope`.
    fn table(
        &mut self,
        root: &Command,
        command: &Command,
        scope: &mut Vec<String>,
        table: &DeTable<'_>,
    ) -> Result<()> {
        for (key, value) in table {
            let name = key.get_ref().replace('_', "-");
            let DeValue::Table(inner) = value.get_ref() else {
                self.option(root, scope, &name, key, value)?;
                continue;
            };
            let Some(subcommand) = command.find_subcommand(&name) else {
                let of = if scope.is_empty() { "" } else { &format!(" of {}", scope.join(" ")) };
                let known = command.get_subcommands().map(Command::get_name);
                let problem = format!("[{}] is not a command{of}", printable(key.get_ref()));
                return Err(self.error(key.span(), &suggest(problem, &name, known)));
            };
            scope.push(subcommand.get_name().to_owned());
            self.table(root, subcommand, scope, inner)?;
            scope.pop();
        }
        Ok(())
    }

    fn option(
        &mut self,
        root: &Command,
        scope: &[String],
        name: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<()> {
        let shown = printable(key.get_ref());
        let values = values(value.get_ref())
            .map_err(|expected| self.error(key.span(), &format!("{shown}: {expected}")))?;
        let line = self.line(&key.span());
        let setting = Setting {
            scope: scope.to_vec(),
            option: name.to_owned(),
            values,
            origin: Origin::File { path: self.path.to_owned(), line },
        };
        let options = options(root);
        let in_scope = options.iter().filter(|(path, _)| path.starts_with(scope));
        let known: Vec<&str> = in_scope.filter_map(|(_, arg)| arg.get_long()).collect();
        let problem = match setting.check(&options) {
            Ok(()) => {
                self.settings.push(setting);
                return Ok(());
            }
            Err(Some(expected)) => format!("{shown}: {expected}"),
            Err(None) if known.contains(&name) => format!(
                "the meaning of {shown} depends on the command: put it under a command's [name]"
            ),
            Err(None) => {
                let of = if scope.is_empty() { "any command" } else { &scope.join(" ") };
                suggest(format!("{shown} is not an option of {of}"), name, known.into_iter())
            }
        };
        Err(self.error(key.span(), &problem))
    }
}

fn suggest<'n>(problem: String, name: &str, known: impl Iterator<Item = &'n str>) -> String {
    match similar(name, known) {
        Some(similar) => format!("{problem}; perhaps {similar} was meant"),
        None => format!("{problem}; see mlx-llamba --help"),
    }
}

fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

fn values(value: &DeValue<'_>) -> Result<Vec<Value>, String> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(Value::Text(text.clone().into_owned())),
        DeValue::Integer(number) => {
            let text = number.as_str();
            let number = i128::from_str_radix(text, number.radix());
            number.map(|n| Value::Typed(n.to_string())).map_err(|e| e.to_string())
        }
        DeValue::Float(number) => Ok(Value::Typed(number.as_str().to_owned())),
        DeValue::Boolean(value) => Ok(Value::Typed(value.to_string())),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            Err("expected a string, a number, true, false, or a list of these".to_owned())
        }
    };
    match value {
        DeValue::Array(values) => values.iter().map(|value| one(value.get_ref())).collect(),
        value => Ok(vec![one(value)?]),
    }
}
