//! `levee config explain`: the table of settings for people and programs.

use clap::Subcommand;
use levee_broker::config::{
    BROKER_SETTINGS, BrokerConfig, Loaded, Mode, Scope, Setting, TOPIC_SETTINGS, nearest,
};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, OutputArgs, note, print, print_json};
use crate::settings::SettingsArgs;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List settings: meaning, unit, bounds, default, and what holds now and from where.
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// A setting, or words that its name or meaning holds: tail.bytes, topic, upload lag.
    #[arg(value_name = "NAME|WORD")]
    words: Vec<String>,
    /// What holds for `levee dev`.
    #[arg(long)]
    dev: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub fn run(args: Args) -> Result<(), CliError> {
    let Command::Explain(args) = args.command;
    let found = search(&args.words)?;
    let present = present(&args)?;
    for warning in present.iter().flat_map(|loaded| &loaded.warnings) {
        note(warning);
    }
    let config = present.as_ref().map(|loaded| &loaded.config);
    match args.output.output {
        Output::Json => print_json(&found.iter().map(|setting| json(setting, config)).collect()),
        Output::Text => print(text(&found, config).trim_end()),
    }
}

/// What holds; nothing where that cannot be told and nobody named a source.
fn present(args: &ExplainArgs) -> Result<Option<Loaded>, CliError> {
    let mode = if args.dev { Mode::Dev } else { Mode::Broker };
    let sources = args.settings.sources(mode)?;
    match sources.load() {
        Ok(loaded) => Ok(Some(loaded)),
        Err(error) if args.settings.are_given() => Err(error.into()),
        Err(error) => {
            note(format_args!("what holds now is not shown: {error}"));
            Ok(None)
        }
    }
}

fn every_setting() -> impl Iterator<Item = &'static Setting> {
    BROKER_SETTINGS.iter().chain(TOPIC_SETTINGS)
}

/// The one of that name; else those whose name holds all words; else those that speak of them.
fn search(words: &[String]) -> Result<Vec<&'static Setting>, CliError> {
    let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    if let [name] = &words[..]
        && let Some(one) = every_setting().find(|s| s.broker_name() == *name || s.name == name)
    {
        return Ok(vec![one]);
    }
    let by = |text: fn(&Setting) -> String| {
        let holds = |setting: &&Setting| {
            let text = text(setting).to_lowercase();
            words.iter().all(|word| text.contains(word.as_str()))
        };
        every_setting().filter(holds).collect::<Vec<_>>()
    };
    let by_name = by(Setting::broker_name);
    if !by_name.is_empty() {
        return Ok(by_name);
    }
    let by_meaning = by(|setting| format!("{} {}", setting.env_name(), setting.doc));
    if !by_meaning.is_empty() {
        return Ok(by_meaning);
    }
    let names: Vec<String> = every_setting().map(Setting::broker_name).collect();
    let asked = words.join(" ");
    let step = match nearest(&asked, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`levee config explain` lists all of them".to_owned(),
    };
    Err(CliError::usage(format!("no setting has {asked:?} in its name or meaning")).next_step(step))
}

fn text(settings: &[&Setting], config: Option<&BrokerConfig>) -> String {
    let mut out = String::new();
    if settings.len() > 1 {
        out.push_str(
            "Later sources win: defaults, the file of --config (TOML), environment variables,\n\
             --set KEY=VALUE, direct flags.\n",
        );
    }
    for (scope, title) in [
        (Scope::Broker, "Broker"),
        (Scope::Topic, "Topics (set per topic without `topic.`; here: the default for topics)"),
    ] {
        let of_scope: Vec<_> = settings.iter().filter(|s| s.scope == scope).collect();
        if settings.len() > 1 && !of_scope.is_empty() {
            out.push_str(&format!("\n== {title}\n\n"));
        }
        let blocks: Vec<_> = of_scope.into_iter().map(|setting| one(setting, config)).collect();
        out.push_str(&blocks.join("\n"));
    }
    out
}

fn one(setting: &Setting, config: Option<&BrokerConfig>) -> String {
    let mut out = setting.broker_name();
    if let Some((value, origin)) = config.and_then(|config| config.present(setting)) {
        out.push_str(&format!(" = {value}  ({origin})"));
    }
    out.push('\n');
    for line in wrap(setting.doc, 90) {
        out.push_str(&format!("    {line}\n"));
    }
    out.push_str(&format!("    {}: {}\n", setting.kind, setting.allowed()));
    out.push_str(&format!("    default: {}\n", setting.default_text()));
    out.push_str(&format!("    environment: {}\n", setting.env_name()));
    out
}

fn json(setting: &Setting, config: Option<&BrokerConfig>) -> Value {
    let present = config.and_then(|config| config.present(setting));
    json!({
        "name": setting.broker_name(),
        "doc": setting.doc,
        "kind": setting.kind.to_string(),
        "allowed": setting.allowed(),
        "default": setting.default_text(),
        "environment": setting.env_name(),
        "value": present.as_ref().map(|(value, _)| value),
        "from": present.as_ref().map(|(_, origin)| origin.to_string()),
    })
}

/// Lines of at most `width` characters, broken at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        search(&words).unwrap().into_iter().map(Setting::broker_name).collect()
    }

    #[test]
    fn settings_are_found_by_name_then_by_meaning() {
        assert_eq!(names(&["tail.bytes"]), ["tail.bytes"]);
        assert_eq!(names(&["retention.ms"]), ["topic.retention.ms"]);
        let lag = names(&["lag", "upload"]);
        assert_eq!(lag, ["topic.upload.lag.max.bytes", "topic.upload.lag.policy"]);
        assert!(names(&["power", "loss"]).contains(&"topic.local.flush".to_owned()));
        assert_eq!(names(&[]).len(), every_setting().count());
        let error = search(&["tail.bites".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("did you mean tail.bytes?"), "{error}");
    }

    #[test]
    fn a_setting_shows_its_value_and_where_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let config = BrokerConfig::dev(dir.path(), &[("tail.bytes", "64MiB")]).unwrap();
        let all: Vec<&Setting> = every_setting().collect();
        let text = text(&all, Some(&config));
        for setting in &all {
            assert!(text.contains(&format!("\n{}", setting.broker_name())), "{}", setting.name);
            assert!(text.contains(&setting.env_name()));
        }
        assert!(text.contains("\ntail.bytes = 64MiB  (--set)\n"), "{text}");
        let tail = search(&["tail.bytes".to_owned()]).unwrap()[0];
        assert_eq!(json(tail, Some(&config))["from"], "--set");
        assert_eq!(json(tail, None)["value"], Value::Null);
    }
}
