//! What is measured: a broker that this program starts, one that runs, or another program.
//!
//! Owns: the words on the command line, and how a target starts and ends.

pub mod process;
pub mod s2;
pub mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bucket::{OwnPrefix, without_query};
use crate::driver::Driver;
use crate::driver::levee::Levee;
use crate::error::{Error, Result};
use crate::workload::Workload;
use process::Process;
use usage::Usage;

/// How a target is named: `levee[:PATH][,KEY=VALUE]...`, `HOST:PORT[,http=HOST:PORT]`, `s2[:DIR]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    Started(Started),
    Running {
        grpc: String,
        http: Option<String>,
    },
    /// s2 lite, measured by its own tool; `folder`: where that is.
    S2 {
        folder: Option<PathBuf>,
    },
}

impl Spec {
    /// Of a broker that is to be started in a bucket: in a prefix of its own; and that.
    pub fn apart(&self) -> Result<(Self, Option<OwnPrefix>)> {
        let Self::Started(started) = self else { return Ok((self.clone(), None)) };
        let Some(bucket) = &started.bucket else { return Ok((self.clone(), None)) };
        let name = format!("load-{:016x}", rand::random::<u64>());
        let own = OwnPrefix::below(bucket, name)?;
        let bucket = Some(own.expose().to_owned());
        Ok((Self::Started(Started { bucket, ..started.clone() }), Some(own)))
    }
}

/// A broker that this program starts, and stops again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Started {
    /// The one beside this program without it.
    pub path: Option<PathBuf>,
    /// A folder in the data folder without it.
    pub bucket: Option<String>,
    /// A temporary one without it.
    pub data: Option<PathBuf>,
    /// Where the temporary one is made: the disk that is measured.
    pub within: Option<PathBuf>,
    /// Settings of the broker.
    pub set: BTreeMap<String, String>,
    /// Settings of topics, over those of the workload.
    pub topic: BTreeMap<String, String>,
}

impl Started {
    /// Of broker and topics, by the names that they have on the command line.
    fn settings(&self) -> BTreeMap<String, String> {
        let named = |kind: &str, name: &str, value: &str| (format!("{kind}.{name}"), value.into());
        let set = self.set.iter().map(|(name, value)| named("set", name, value));
        set.chain(self.topic.iter().map(|(name, value)| named("topic", name, value))).collect()
    }
}

/// The target as reports name it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    pub spec: String,
    pub version: String,
    pub address: String,
    /// Without its query, which may hold secrets.
    pub bucket: String,
    pub class: String,
    /// What is synced before an ack.
    pub sync: String,
    pub settings: BTreeMap<String, String>,
}

/// For a program that cannot choose one itself.
pub fn free_port() -> Result<u16> {
    let failed = |error: std::io::Error| Error::failed(format!("no free port: {error}"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

const FORMS: &str = "write levee, levee:PATH,bucket=URL,data=DIR,set.NAME=VALUE, HOST:PORT or s2";

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("target {text:?}: {why}; {FORMS}"));
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let mut pairs = Vec::new();
        for part in parts {
            pairs.push(part.split_once('=').ok_or_else(|| wrong("an option has no `=`"))?);
        }
        let (kind, path) = match name.split_once(':') {
            Some((kind, path)) => (kind, Some(path)),
            None => (name, None),
        };
        if kind == "levee" {
            return started(path, &pairs).map_err(|why| wrong(&why)).map(Self::Started);
        }
        if kind == "s2" {
            return match pairs.is_empty() {
                true => Ok(Self::S2 { folder: path.map(PathBuf::from) }),
                false => Err(wrong("s2 takes no options")),
            };
        }
        let host = name.trim_start_matches("http://").trim_start_matches("grpc://");
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            return Err(wrong("is neither a known program nor an address"));
        }
        let mut http = None;
        for (key, value) in pairs {
            match key {
                "http" => http = Some(value.to_owned()),
                _ => return Err(wrong("a running broker takes only `http=HOST:PORT`")),
            }
        }
        Ok(Self::Running { grpc: host.to_owned(), http })
    }
}

fn started(path: Option<&str>, pairs: &[(&str, &str)]) -> Result<Started, String> {
    let mut started = Started { path: path.map(PathBuf::from), ..Started::default() };
    for &(key, value) in pairs {
        if let Some(name) = key.strip_prefix("set.") {
            started.set.insert(name.into(), value.into());
        } else if let Some(name) = key.strip_prefix("topic.") {
            started.topic.insert(name.into(), value.into());
        } else if key == "bucket" {
            started.bucket = Some(value.into());
        } else if key == "data" {
            started.within = Some(value.into());
        } else {
            let known = "bucket, data, set.NAME, topic.NAME";
            return Err(format!("option {key:?} is not one of {known}"));
        }
    }
    Ok(started)
}

/// A target that is driven.
pub struct Target {
    pub about: About,
    pub driver: Arc<dyn Driver>,
    pub topic_settings: BTreeMap<String, String>,
    /// Only of a broker that this program started.
    pub process: Option<Process>,
    http: Option<String>,
}

impl Target {
    /// Starts or reaches it.
    pub async fn open(spec: &Spec, workload: &Workload) -> Result<Self> {
        let connections = workload.connections();
        let (process, grpc, http, about, topic) = match spec {
            Spec::Started(started) => {
                let process = Process::start(started).await?;
                let about = process.about(started).await;
                let (grpc, http) = (process.grpc.clone(), Some(process.http.clone()));
                (Some(process), grpc, http, about, started.topic.clone())
            }
            Spec::Running { grpc, http } => {
                let about = About {
                    spec: grpc.clone(),
                    address: grpc.clone(),
                    version: "unknown: it was not started by this program".into(),
                    ..About::default()
                };
                (None, grpc.clone(), http.clone(), about, BTreeMap::new())
            }
            Spec::S2 { .. } => {
                let why = "s2 measures itself with its own tool: name it in `compare --workload`";
                return Err(Error::usage(why));
            }
        };
        let levee = Levee::connect(&grpc, connections)
            .await
            .map_err(|error| error.at(format!("target {grpc} cannot be reached")))?;
        let mut about = about;
        if about.bucket.is_empty()
            && let Ok(cluster) = levee.client(0).manage().describe_cluster().await
        {
            about.bucket = without_query(&cluster.bucket).into();
        }
        let driver = Arc::new(levee);
        Ok(Self { about, driver, topic_settings: topic, process, http })
    }

    #[cfg(test)]
    pub fn fake(driver: Arc<dyn Driver>) -> Self {
        let (about, topic_settings) = Default::default();
        Self { about, driver, topic_settings, process: None, http: None }
    }

    pub async fn usage(&self) -> Usage {
        match (&self.process, &self.http) {
            (Some(process), _) => process.usage(),
            (None, Some(http)) => {
                usage::scrape(http).await.map(|all| all.usage()).unwrap_or_default()
            }
            (None, None) => Usage::default(),
        }
    }

    /// Everything that the broker counts; nothing where it cannot be asked.
    pub async fn counters(&self) -> BTreeMap<String, f64> {
        match &self.http {
            Some(http) => usage::scrape(http).await.map(|all| all.values).unwrap_or_default(),
            None => BTreeMap::new(),
        }
    }

    /// Ends what was started, in peace.
    pub async fn close(&self) -> Result<()> {
        match &self.process {
            Some(process) => process.terminate().await,
            None => Ok(()),
        }
    }

    /// Ends what was started, at once.
    pub async fn kill(&self) -> Result<()> {
        match &self.process {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Nobody writes for it any more.
    pub fn is_gone(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        let text = "levee:./levee,bucket=s3://b/p?region=x&a=b,set.tail.bytes=64MiB,\
                    topic.durability.class=object";
        let Spec::Started(started) = text.parse::<Spec>().unwrap() else { panic!("{text}") };
        assert_eq!(started.bucket.as_deref(), Some("s3://b/p?region=x&a=b"));
        assert_eq!(started.set["tail.bytes"], "64MiB");
        assert_eq!(started.topic["durability.class"], "object");
        let running = "127.0.0.1:9644,http=127.0.0.1:9645".parse::<Spec>().unwrap();
        let http = Some("127.0.0.1:9645".into());
        assert_eq!(running, Spec::Running { grpc: "127.0.0.1:9644".into(), http });
        assert!(matches!("s2".parse::<Spec>().unwrap(), Spec::S2 { folder: None }));
        for wrong in ["kafka", "levee,speed=1", "levee,x", "host", "host:port"] {
            let error = wrong.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("HOST:PORT"), "{error}");
        }
    }
}
