//! What commands that talk to a broker share: its address, deadlines, names that nobody knows,
//! patterns of names.

use std::time::Duration;

use levee_broker::config::nearest;
use levee_client::grpc::{ErrorCode, TopicDescription};
use levee_client::{Admin, Client, Error, ErrorKind};
use regex::Regex;

use crate::codes::Code;
use crate::error::CliError;
use crate::output::note;

const DEFAULT_ADDRESS: &str = "127.0.0.1:9644";
/// Questions to the broker at a time, where there are many.
pub const SIDE_BY_SIDE: usize = 32;
/// How long a broker may be away before it is said.
const QUIET: Duration = Duration::from_secs(3);

/// The same flags for all of them.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Broker")]
pub struct BrokerArgs {
    /// Address of the broker's gRPC listener; its port may be left out.
    #[arg(
        short = 'b',
        long = "broker",
        env = "LEVEE_BROKER",
        value_name = "HOST:PORT",
        default_value = DEFAULT_ADDRESS,
        aliases = ["brokers", "bootstrap-server"],
        global = true
    )]
    pub address: String,
    /// How long a connection may take.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = limit,
        global = true
    )]
    pub connect_timeout: Duration,
    /// How long an answer may take [default: 30s; 60s for `tier flush`, 120s for each record of
    /// `produce` and for a broker that goes away under `consume`].
    #[arg(long, value_name = "TIME", value_parser = limit, global = true)]
    pub timeout: Option<Duration>,
}

/// How long an answer may take where nobody says.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A time that is not nothing, and not so long that clocks overflow.
fn limit(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    match humantime::parse_duration(text) {
        Ok(limit) if (Duration::from_millis(1)..=LONGEST).contains(&limit) => Ok(limit),
        _ => Err("write a time from 1ms to 24h with its unit, like 500ms, 30s or 5m".into()),
    }
}

impl BrokerArgs {
    pub async fn connect(&self) -> Result<Client, CliError> {
        let connected = Client::connect_within(&self.address, self.connect_timeout).await;
        connected.map_err(|error| match error.kind {
            ErrorKind::Invalid => error.into(),
            _ => {
                let remedy = "start one with `levee dev`, or name its address: --broker HOST:PORT";
                CliError::from(error).next_step(remedy)
            }
        })
    }

    /// For commands that wait: says when the broker does not answer, and when it does again.
    /// `limit`: how long that is borne.
    pub fn tell_of_trouble(&self, client: &Client, limit: Duration) {
        let mut trouble = client.watch_trouble();
        let address = self.address.clone();
        let limit = humantime::format_duration(limit);
        tokio::spawn(async move {
            while trouble.wait_for(Option::is_some).await.map(drop).is_ok() {
                let over = trouble.wait_for(Option::is_none);
                if tokio::time::timeout(QUIET, over).await.is_ok() {
                    continue;
                }
                let why = trouble.borrow().as_ref().map(|error| error.message.clone());
                let why = why.unwrap_or_default();
                note(format_args!("{address}: {why}; it is tried again for up to {limit}"));
                if trouble.wait_for(Option::is_none).await.is_ok() {
                    note(format_args!("{address} answers again"));
                }
            }
        });
    }

    /// Nobody named a broker.
    pub fn is_default(&self) -> bool {
        self.address == DEFAULT_ADDRESS
    }

    pub fn answer_limit(&self) -> Duration {
        self.timeout.unwrap_or(ANSWER_LIMIT)
    }

    pub fn admin(&self, client: &Client) -> Admin {
        client.manage().with_limit(self.answer_limit())
    }
}

/// A topic that is there, or an error that suggests one that is.
pub async fn describe(admin: &Admin, name: &str) -> Result<TopicDescription, CliError> {
    match admin.describe_topic(name).await {
        Ok(topic) => Ok(topic),
        Err(error) => Err(suggest(admin, name, error).await),
    }
}

/// For a refusal that may be about the name of a topic.
pub async fn suggest(admin: &Admin, name: &str, error: Error) -> CliError {
    let (code, error) = (error.code, CliError::from(error));
    if code != ErrorCode::UnknownTopic {
        return error;
    }
    let topics = admin.list_topics().await.unwrap_or_default();
    let names = topics.iter().filter(|topic| topic.deleted_ms.is_none());
    match nearest(name, names.map(|topic| topic.name.as_str())) {
        Some(near) => error.next_step(format!("did you mean {near:?}?")),
        None => error.next_step(format!(
            "`levee topic list` shows those there are; make it: levee topic create {name}"
        )),
    }
}

/// A partition that a topic with `count` of them has not.
pub fn no_partition(topic: &str, partition: u32, count: u32) -> CliError {
    let why = format!("topic {topic:?} has no partition {partition}, it has {count}");
    let last = count.saturating_sub(1);
    CliError::of(Code::UnknownPartition, why)
        .next_step(format!("write -p 0 to {last}, or leave it out"))
}

/// For command lines: a regular expression that matches whole names only.
pub fn whole_name(pattern: &str) -> Result<Regex, String> {
    let why = |error: regex::Error| {
        // The last line, below a picture.
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("{pattern:?} is not a regular expression: {last}")
    };
    // By itself first: a bracket too many must not close ours.
    Regex::new(pattern).and_then(|_| Regex::new(&format!("^(?:{pattern})$"))).map_err(why)
}

/// `KEY=VALUE` of a command line.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_and_its_fault_is_told_in_one_line() {
        let matches = |pattern: &str, name| whole_name(pattern).unwrap().is_match(name);
        assert!(matches("rt|rt2", "rt2") && !matches("rt", "rt2") && matches("|a|", "a"));
        for pattern in ["a(b", "a)|(b"] {
            let why = whole_name(pattern).unwrap_err();
            assert!(why.contains("group") && !why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn times_and_pairs_of_a_command_line() {
        assert!(key_value("a").is_err() && key_value("=b").is_err());
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(limit("2m"), Ok(Duration::from_secs(120)));
        for text in ["0s", "", "5", "-1s", "1y"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }
}
