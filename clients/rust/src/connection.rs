//! The connection to a broker that producers and administration share; readers have their own.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use levee_proto::grpc::admin_client::AdminClient;
use levee_proto::grpc::groups_client::GroupsClient;
use levee_proto::grpc::log_client::LogClient;
use levee_proto::grpc::transactions_client::TransactionsClient;
use levee_proto::limits::BATCH_BYTES_MAX;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};
use crate::seat::{Seat, Seats};
use crate::trouble::{Trouble, Troubles};

/// Of a broker's gRPC listener, where an address names none.
const DEFAULT_PORT: u16 = 9644;

/// Bytes of one message: the largest batch and what is around it.
const MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX + (16 << 20);
/// HTTP/2 windows, bytes under way: of one stream, and of all of them together.
pub(crate) const STREAM_WINDOW: u32 = 16 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 128 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping within twice this is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Cheap to clone. Connects again by itself after the broker was away.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
    channel: Channel,
    seats: Arc<Seats>,
    troubles: Troubles,
}

impl Client {
    /// `address`: `http://HOST:PORT`, `HOST:PORT` or `HOST`. Fails where nothing listens.
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_within(address, CONNECT_LIMIT).await
    }

    /// As `connect`, and gives up after `limit`, name look-up included.
    pub async fn connect_within(address: &str, limit: Duration) -> Result<Self> {
        let endpoint = endpoint(address, limit)?;
        let url = url(address);
        let none = |why: String| {
            let error = Error::connection(format!("no broker at {}: {why}", shown(&url)));
            Error { may_be_written: false, ..error }
        };
        match tokio::time::timeout(limit, endpoint.connect()).await {
            Ok(Ok(channel)) => {
                let (seats, troubles) = (Arc::default(), Troubles::new(shown(&url)));
                Ok(Self { endpoint, channel, seats, troubles })
            }
            Ok(Err(error)) => Err(none(cause(&error))),
            Err(_) => Err(none(format!("no connection within {limit:?}"))),
        }
    }

    /// Why producers and readers try something again now, one reason where there are several;
    /// `None` while the broker answers all of them.
    pub fn watch_trouble(&self) -> watch::Receiver<Option<Error>> {
        self.troubles.watch()
    }

    /// For a reader, or a partition's worker.
    pub(crate) fn trouble(&self) -> Trouble {
        self.troubles.of_one()
    }

    /// The `Log` service, as it is on the wire.
    pub fn log(&self) -> LogClient<Channel> {
        log_over(self.channel.clone())
    }

    /// A place for a reader.
    pub(crate) fn seat(&self) -> Seat {
        self.seats.take(&self.endpoint)
    }

    /// The `Groups` service, as it is on the wire; no deadlines.
    pub fn groups(&self) -> GroupsClient<Channel> {
        GroupsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The `Transactions` service, as it is on the wire; no deadlines.
    pub fn transactions(&self) -> TransactionsClient<Channel> {
        TransactionsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The `Admin` service, as it is on the wire; no deadlines. See [`Client::manage`].
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

pub(crate) fn log_over(channel: Channel) -> LogClient<Channel> {
    LogClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Without a scheme a name may stand alone; with one, its own port holds.
fn url(address: &str) -> Cow<'_, str> {
    if address.contains("://") {
        return Cow::Borrowed(address);
    }
    // Colons of an IPv6 address are in brackets.
    let name_ends = address.rfind(']').unwrap_or(0);
    let port = match address[name_ends..].contains(':') || address.is_empty() {
        true => String::new(),
        false => format!(":{DEFAULT_PORT}"),
    };
    Cow::Owned(format!("http://{address}{port}"))
}

/// As people write it.
fn shown(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}

fn endpoint(address: &str, limit: Duration) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(url(address).into_owned()).map_err(|error| {
        let error = Error::invalid(format!("{address:?} is no address ({error})"));
        Error { remedy: "write HOST:PORT or http://HOST:PORT".into(), ..error }
    })?;
    Ok(endpoint
        .connect_timeout(limit)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// The innermost reason; the outer ones only say "transport error".
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_has_the_port_of_brokers() {
        for (address, whole) in [
            ("localhost", "http://localhost:9644"),
            ("10.0.0.1", "http://10.0.0.1:9644"),
            ("[::1]", "http://[::1]:9644"),
            ("[::1]:1", "http://[::1]:1"),
            ("h:1", "http://h:1"),
            ("http://h", "http://h"),
        ] {
            assert_eq!(url(address), whole);
            assert!(endpoint(address, CONNECT_LIMIT).is_ok(), "{address}");
        }
        for address in ["", ":::", "h o s t", "::1"] {
            let error = endpoint(address, CONNECT_LIMIT).unwrap_err();
            assert!(error.message.starts_with(&format!("{address:?} is no address")), "{error}");
        }
    }
}
