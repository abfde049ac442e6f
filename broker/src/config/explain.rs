//! `levee config explain`: the table of settings for people.

use std::fmt::Write;

use super::error::ConfigError;
use super::setting::{Scope, Setting};
use super::sources::{every_setting, find, of_scope};
use super::table::BrokerConfig;
use super::values::Origin;

/// One setting, or all of them; with what holds now where a configuration is given.
pub fn explain(name: Option<&str>, config: Option<&BrokerConfig>) -> Result<String, ConfigError> {
    if let Some(name) = name {
        let by_topic_name = || every_setting().find(|setting| setting.name == name);
        let found = find(name).or_else(|near| by_topic_name().ok_or(near));
        return match found {
            Ok(setting) => Ok(one(setting, config)),
            Err(near) => Err(ConfigError::unknown(name, Origin::Default, near)),
        };
    }
    let mut out = String::from(
        "Settings of a broker. Later sources win: defaults, the file of --config (TOML),\n\
         environment variables, --set KEY=VALUE, direct flags.\n",
    );
    for (scope, title) in [
        (Scope::Broker, "Broker"),
        (Scope::Topic, "Topics (set per topic without `topic.`; here: the default for topics)"),
    ] {
        let _ = write!(out, "\n== {title}\n");
        for setting in of_scope(scope) {
            out.push('\n');
            out.push_str(&one(setting, config));
        }
    }
    Ok(out)
}

fn one(setting: &Setting, config: Option<&BrokerConfig>) -> String {
    let mut out = setting.broker_name();
    if let Some(held) = config.and_then(|config| config.values.get(setting.name)) {
        let _ = write!(out, " = {}  ({})", setting.show(&held.value), held.origin);
    }
    out.push('\n');
    for line in wrap(setting.doc, 90) {
        let _ = writeln!(out, "    {line}");
    }
    let _ = writeln!(out, "    {}: {}", setting.kind, setting.allowed());
    let _ = writeln!(out, "    default: {}", setting.default_text());
    let _ = writeln!(out, "    environment: {}", setting.env_name());
    out
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
