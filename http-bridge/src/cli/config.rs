//! Options from the environment and from a file.
//!
//! ```text
//!   flag --x-y  >  environment DMSG_X_Y  >  file: [section] x_y  >  file: top-level x_y  >  default
//! ```
//!
//! The names of all three follow from the flag's, so they cannot drift apart. The arguments are parsed once to see
//! what flags and environment say; what the file adds is then put in as flags, and all of it is parsed together. So a value
//! from the file passes the same checks as one from the command line.

use std::{env, ffi::OsString, fs, path::Path};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, Error, FromArgMatches,
    builder::BoolishValueParser, error::ContextKind, error::ContextValue, error::ErrorKind,
    parser::ValueSource,
};
use toml::de::{DeTable, DeValue};

use super::Cli;

/// Bytes of a configuration file that are read.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// An option that the file sets.
struct Setting {
    /// The section it stands in; `None` at the top.
    section: Option<String>,
    key: String,
    values: Vec<String>,
    shape: Shape,
    line: usize,
}

/// How a value is written in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    YesOrNo,
    List,
    Other,
}

impl Shape {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::Boolean(_) => Self::YesOrNo,
            DeValue::Array(_) => Self::List,
            _ => Self::Other,
        }
    }
}

/// Parses the arguments, with the environment and the file they name.
pub(super) fn parse(args: Vec<OsString>) -> Result<Cli, Error> {
    let given = Cli::command().ignore_errors(true).try_get_matches_from(args.clone()).ok();
    let command = with_environment(Cli::command(), given.as_ref());
    let first = command.clone().try_get_matches_from(args.clone())?;
    let named = first.get_one::<std::path::PathBuf>("config").cloned();
    let matches = match named.filter(|path| !is_of_a_visor(&first, path)) {
        None => first,
        Some(path) => {
            let settings = read(&path)
                .and_then(|text| settings(&text))
                .and_then(|settings| check(&command, &settings).map(|()| settings))
                .map_err(|message| failure(&path, &message))?;
            let args = with_file(&command, &first, args, &settings);
            // Flags and environment have passed already, so what fails now is from the file.
            command
                .clone()
                .try_get_matches_from(args)
                .map_err(|error| failure(&path, &of_value(&error, &settings)))?
        }
    };
    warn_of_secret_argument(&matches);
    Cli::from_arg_matches(&matches)
}

/// For `up`, the file of --config is a visor's configuration, which is JSON. No TOML begins with a brace.
fn is_of_a_visor(matches: &ArgMatches, path: &Path) -> bool {
    let is_json = |text: String| text.trim_start().starts_with('{');
    matches.subcommand_name() == Some("up") && read(path).is_ok_and(is_json)
}

fn failure(path: &Path, message: &str) -> Error {
    Error::raw(ErrorKind::InvalidValue, format!("{}: {}\n", path.display(), message.trim_end()))
}

/// What is wrong with a value, without the usage of a command line that nobody wrote, and with the line it is in.
fn of_value(error: &Error, settings: &[Setting]) -> String {
    let text = error.render().to_string();
    let text = text.split("\n\nUsage:").next().unwrap_or_default();
    let text = text.split("\n\nFor more").next().unwrap_or_default();
    let text = text.trim_start_matches("error: ");
    let option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => option.as_str(),
        _ => "",
    };
    let name = option.split([' ', '=']).next().unwrap_or_default().trim_start_matches('-');
    match settings.iter().rev().find(|setting| setting.key.replace('_', "-") == name) {
        Some(Setting { line, .. }) => format!("line {line}: {text}"),
        None => text.to_owned(),
    }
}

/// Gives each flag its name in the environment, and lets switches be spelled yes, no, 1, 0 there. What a given argument
/// excludes is not looked for there.
fn with_environment(command: Command, given: Option<&ArgMatches>) -> Command {
    let is_given = |arg: &Arg| {
        let source = given.and_then(|given| given.value_source(arg.get_id().as_str()));
        source == Some(ValueSource::CommandLine)
    };
    let is_excluded = |arg: &Arg| {
        let mut others = command.get_arguments();
        others.any(|other| is_given(other) && exclude_each_other(&command, arg, other))
    };
    let excluded: Vec<clap::Id> = command
        .get_arguments()
        .filter(|arg| is_excluded(arg))
        .map(|arg| arg.get_id().clone())
        .collect();
    command
        .mut_args(|arg| {
            if !is_option(&arg) || excluded.contains(arg.get_id()) {
                return arg;
            }
            let name = format!("DMSG_{}", arg.get_id().as_str().to_uppercase());
            // The help would show a secret key from the environment otherwise.
            let arg = arg.env(name).hide_env_values(true);
            if is_switch(&arg) {
                arg.value_parser(BoolishValueParser::new())
            } else {
                // So that -1 is a bad number rather than an unknown flag.
                arg.allow_negative_numbers(true)
            }
        })
        .mut_subcommands(|sub| {
            let inner = given.and_then(ArgMatches::subcommand);
            let inner = inner.filter(|(name, _)| *name == sub.get_name()).map(|(_, inner)| inner);
            with_environment(sub, inner)
        })
}

fn is_option(arg: &Arg) -> bool {
    arg.get_long().is_some()
        && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version | ArgAction::Count)
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn read(path: &Path) -> Result<String, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_MAX_BYTES {
        return Err(format!(
            "{size} bytes are no configuration; at most {FILE_MAX_BYTES} are read"
        ));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

fn settings(text: &str) -> Result<Vec<Setting>, String> {
    let table = DeTable::parse(text).map_err(|error| error.to_string())?;
    let line = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count();
    let mut settings = Vec::new();
    for (key, value) in table.get_ref() {
        let name = key.get_ref().to_string();
        let DeValue::Table(section) = value.get_ref() else {
            let (shape, line) = (Shape::of(value.get_ref()), line(key.span().start));
            let values = values(value.get_ref(), &name)
                .map_err(|message| format!("line {line}: {message}"))?;
            settings.push(Setting { section: None, key: name, values, shape, line });
            continue;
        };
        for (key, value) in section {
            let line = line(key.span().start);
            let values = values(value.get_ref(), key.get_ref())
                .map_err(|message| format!("line {line}: {message}"))?;
            let (section, key) = (Some(name.clone()), key.get_ref().to_string());
            let shape = Shape::of(value.get_ref());
            settings.push(Setting { section, key, values, shape, line });
        }
    }
    Ok(settings)
}

fn values(value: &DeValue<'_>, key: &str) -> Result<Vec<String>, String> {
    match value {
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref(), key)).collect(),
        value => Ok(vec![scalar(value, key)?]),
    }
}

fn scalar(value: &DeValue<'_>, key: &str) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Float(number) => Ok(number.to_string()),
        DeValue::Boolean(yes) => Ok(yes.to_string()),
        _ => Err(format!("{key}: a text, a number, true, false, or a list of them is wanted")),
    }
}

/// Each key must be an option of its section, or at the top of any subcommand, and a list only stand where the flag
/// may be repeated.
fn check(command: &Command, settings: &[Setting]) -> Result<(), String> {
    for Setting { section, key, shape, line, .. } in settings {
        let place = match section {
            None => Some(command),
            Some(name) => command.get_subcommands().find(|sub| sub.get_name() == name),
        };
        let Some(place) = place else {
            let name = section.as_deref().unwrap_or_default();
            return Err(format!("line {line}: unknown section [{name}]"));
        };
        let Some(arg) = anywhere(place, key).filter(|_| key != "config") else {
            let place = section.as_ref().map(|name| format!(" in [{name}]")).unwrap_or_default();
            return Err(format!("line {line}: unknown key {key:?}{place}"));
        };
        let wanted = match shape {
            Shape::List if !matches!(arg.get_action(), ArgAction::Append) => "one value, no list,",
            Shape::List | Shape::Other if is_switch(arg) => "true or false",
            _ => continue,
        };
        return Err(format!("line {line}: {key}: {wanted} is wanted"));
    }
    Ok(())
}

/// The option of the command or, if it has none of this name, of a subcommand.
fn anywhere<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    option(command, key).or_else(|| command.get_subcommands().find_map(|sub| anywhere(sub, key)))
}

fn option<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_id() == key && is_option(arg))
}

/// The arguments, with what only the file sets put in as flags behind the subcommand's name.
fn with_file(
    command: &Command,
    matches: &ArgMatches,
    mut args: Vec<OsString>,
    settings: &[Setting],
) -> Vec<OsString> {
    let (mut place, mut values, mut at) = (command, matches, 1);
    let mut section = None;
    // The options before a subcommand's name are global ones, each of which takes a value.
    while let Some((name, inner)) = values.subcommand() {
        while args.get(at).is_some_and(|arg| arg.as_encoded_bytes().starts_with(b"-")) {
            let has_value_inside = args[at].as_encoded_bytes().contains(&b'=');
            at += if has_value_inside { 1 } else { 2 };
        }
        at += 1;
        let Some(sub) = place.find_subcommand(name) else { break };
        section.get_or_insert(name);
        (place, values) = (sub, inner);
    }
    let mut added = Vec::new();
    for setting in settings {
        let is_shadowed = setting.section.is_none()
            && settings.iter().any(|s| s.section.as_deref() == section && s.key == setting.key);
        let applies = setting.section.is_none() || setting.section.as_deref() == section;
        let Some(arg) = option(place, &setting.key).or_else(|| option(command, &setting.key))
        else {
            continue;
        };
        let is_set = |key: &str| {
            matches!(
                values.value_source(key),
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            )
        };
        // What a stronger source says, or what that excludes.
        let is_beaten = is_set(&setting.key)
            || place.get_arguments().any(|other| {
                is_set(other.get_id().as_str()) && exclude_each_other(place, arg, other)
            });
        if applies && !is_shadowed && !is_beaten {
            added.extend(as_flags(arg, &setting.values));
        }
    }
    let at = at.min(args.len());
    args.splice(at..at, added);
    args
}

/// Whether two options of a command cannot be given together.
fn exclude_each_other(command: &Command, one: &Arg, other: &Arg) -> bool {
    let excludes = |one: &Arg, other: &Arg| {
        let excluded = command.get_arg_conflicts_with(one);
        excluded.iter().any(|arg| arg.get_id() == other.get_id())
    };
    excludes(one, other) || excludes(other, one)
}

fn as_flags(arg: &Arg, values: &[String]) -> Vec<OsString> {
    let name = arg.get_long().unwrap_or_default();
    values
        .iter()
        .filter_map(|value| match (is_switch(arg), value.as_str()) {
            (true, "true") => Some(format!("--{name}")),
            (true, "false") => None,
            _ => Some(format!("--{name}={value}")),
        })
        .map(OsString::from)
        .collect()
}

/// Other users of the machine see arguments in the list of processes.
fn warn_of_secret_argument(matches: &ArgMatches) {
    let mut leaf = matches;
    while let Some((_, inner)) = leaf.subcommand() {
        leaf = inner;
    }
    let is_argument = |arg: &OsString| {
        arg.as_encoded_bytes().starts_with(b"--secret-key=")
            || arg.as_encoded_bytes() == b"--secret-key"
    };
    if matches!(leaf.try_contains_id("secret_key"), Ok(true))
        && env::args_os().any(|a| is_argument(&a))
    {
        eprintln!(
            "dmsg: warning: other users can read a --secret-key in the list of processes; \
             use --secret-key-file or DMSG_SECRET_KEY"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        with_environment(Cli::command(), None).debug_assert();
    }

    #[test]
    fn one_name_in_three_spellings() {
        fn check(command: &Command) {
            for arg in command.get_arguments().filter(|arg| is_option(arg)) {
                let id = arg.get_id().as_str();
                assert_eq!(arg.get_long(), Some(id.replace('_', "-").as_str()));
                let env = arg.get_env().and_then(|env| env.to_str()).map(str::to_owned);
                assert_eq!(env, Some(format!("DMSG_{}", id.to_uppercase())));
            }
            command.get_subcommands().for_each(check);
        }
        check(&with_environment(Cli::command(), None));
    }
}
