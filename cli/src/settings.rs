//! Flags, environment and file: everything that may hold a broker's settings, read once.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use levee_broker::config::{Flag, Mode, Sources};

use crate::codes::Code;
use crate::error::CliError;

/// A settings file is some kilobytes; anything above this is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Flags that `dev`, `broker` and `config explain` share.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Settings file (TOML).
    #[arg(long, value_name = "FILE", env = "LEVEE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of everything local; made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The bucket: s3://BUCKET/PREFIX, gs://.., az://.., file:///DIR or memory://.
    #[arg(long, value_name = "URL")]
    pub bucket: Option<String>,
    /// Where gRPC clients connect; port 0 takes any free one.
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<String>,
    /// Where Kafka clients connect; `none`: they cannot.
    #[arg(long, value_name = "ADDR")]
    pub kafka: Option<String>,
    /// Where /metrics, /healthz and /readyz are.
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Any setting; `levee config explain` lists them. May be given many times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl SettingsArgs {
    /// Somebody named a source on the command line (or a file in the environment).
    pub fn are_given(&self) -> bool {
        let flags = [&self.bucket, &self.grpc, &self.kafka, &self.http];
        let named = flags.iter().any(|flag| flag.is_some()) || !self.set.is_empty();
        named || self.config.is_some() || self.data.is_some()
    }

    /// Reads the file and the environment.
    pub fn sources(&self, mode: Mode) -> Result<Sources, CliError> {
        let env = std::env::vars_os()
            .map(|(name, value)| {
                // What is not UTF-8 becomes a mark that the check of values refuses.
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })
            .filter(|(name, _)| name.starts_with("LEVEE_"))
            .collect();
        let data = self.data.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let flags = [
            ("--data", "data.dir", &data),
            ("--bucket", "bucket.url", &self.bucket),
            ("--grpc", "grpc.listen", &self.grpc),
            ("--kafka", "kafka.listen", &self.kafka),
            ("--http", "http.listen", &self.http),
        ];
        let flags = flags.into_iter().filter_map(|(flag, setting, value)| {
            value.clone().map(|value| Flag { flag, setting, value })
        });
        Ok(Sources { mode, file: self.file()?, env, set: self.set.clone(), flags: flags.collect() })
    }

    fn file(&self) -> Result<Option<(String, String)>, CliError> {
        let Some(path) = &self.config else { return Ok(None) };
        let name = path.display().to_string();
        let failed = |why: String| {
            let why = format!("settings file {name} cannot be read: {why}");
            CliError::of(Code::LocalFile, why).next_step("check the path and its permissions")
        };
        let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        match read.map_err(|error| failed(error.to_string()))? as u64 {
            bytes if bytes > FILE_BYTES_MAX => Err(failed("it is larger than 1MiB".into())),
            _ => Ok(Some((name, text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("levee.toml");
        let mut file = std::fs::File::create(&path).unwrap();
        write!(file, "grpc.listen = '127.0.0.1:1'\nhttp.listen = '127.0.0.1:2'\n").unwrap();
        let args = SettingsArgs {
            config: Some(path),
            data: Some(dir.path().to_owned()),
            grpc: Some("127.0.0.1:3".into()),
            ..SettingsArgs::default()
        };
        let mut sources = args.sources(Mode::Dev).unwrap();
        sources.env.clear();
        let config = sources.load().unwrap().config;
        assert_eq!(config.grpc_listen.port(), 3);
        assert_eq!(config.http_listen.port(), 2);
        assert_eq!(config.data_dir, dir.path());
    }

    #[test]
    fn a_file_that_is_no_settings_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| {
            let config = Some(dir.path().join(name));
            let error = SettingsArgs { config, ..SettingsArgs::default() }.sources(Mode::Broker);
            error.unwrap_err().to_string()
        };
        assert!(read("missing.toml").contains("missing.toml cannot be read"));
        std::fs::write(dir.path().join("large"), vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(read("large").contains("larger than 1MiB"));
        std::fs::write(dir.path().join("binary"), [0xff; 16]).unwrap();
        assert!(read("binary").contains("UTF-8"));
    }
}
