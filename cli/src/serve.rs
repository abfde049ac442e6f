//! One broker in the foreground: start, `ready` line, stop by signal or because its session ended.

use std::io::Write;
use std::time::Duration;

use levee_broker::config::{Loaded, Mode};
use levee_broker::server;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::codes::Code;
use crate::error::CliError;
use crate::logging::{self, LogFormat};
use crate::settings::SettingsArgs;

/// Flags of a broker process.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// How logs are written (standard error); LEVEE_LOG says how much.
    #[arg(long, value_enum, default_value = "text")]
    log: LogFormat,
}

/// Exits with success only after a signal.
pub async fn serve(args: ServeArgs, mode: Mode) -> Result<(), CliError> {
    logging::init(args.log)?;
    abort_on_panic();
    let Loaded { config, warnings } = args.settings.sources(mode)?.load()?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = ?config.chosen(), "starting");
    let dir = &config.data_dir;
    tokio::fs::create_dir_all(dir).await.map_err(|error| {
        let why = format!("data folder {} cannot be made: {error}", dir.display());
        CliError::of(Code::LocalFile, why).next_step("choose another one with --data DIR")
    })?;
    let mut stop = StopSignals::new()?;
    let (bucket, data) = (config.bucket_url.to_string(), config.data_dir.clone());
    let drain = config.shutdown_timeout;
    let running = tokio::select! {
        biased;
        name = stop.next() => {
            tracing::info!(signal = name, "stopped before it served");
            return Ok(());
        }
        started = server::start(config) => {
            started.map_err(|error| CliError::of(Code::NotStarted, format!("the broker did not start: {error}")))?
        }
    };
    let (grpc, http) = (running.grpc_addr, running.http_addr);
    let kafka = running.kafka_addr.map_or_else(|| "none".to_owned(), |addr| addr.to_string());
    let data = data.display();
    say(&format!("ready grpc={grpc} http={http} kafka={kafka} bucket={bucket} data={data}"))?;
    let name = tokio::select! {
        biased;
        name = stop.next() => name,
        reason = running.ended() => {
            return Err(CliError::of(Code::NotStarted, format!("the broker's session ended: {reason}"))
                .next_step("start it again: a new session takes over"));
        }
    };
    tracing::info!(signal = name, "draining");
    tokio::select! {
        biased;
        () = running.shutdown(drain) => {
            tracing::info!("stopped");
            Ok(())
        }
        name = stop.next() => Err(CliError::new(format!("stopped at once by a second {name}"))),
        // The broker keeps to its deadline; this is for the day when it does not.
        () = tokio::time::sleep(drain + Duration::from_secs(5)) => {
            Err(CliError::new(format!("did not drain within {drain:?}")))
        }
    }
}

/// A task that panicked leaves a broker behind that looks alive and is not: better none, which the
/// next start recovers from as from any crash.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The one line on standard output that scripts wait for. It stays open for them to read, so a
/// closed pipe is not a reason to stop serving.
fn say(line: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, CliError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
