//! The connection to a broker that producers and administration share; readers have their own.

use std::sync::Arc;
use std::time::Duration;

use levee_proto::grpc::admin_client::AdminClient;
use levee_proto::grpc::log_client::LogClient;
use levee_proto::limits::BATCH_BYTES_MAX;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};
use crate::seat::{Seat, Seats};

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
}

impl Client {
    /// `address`: `http://HOST:PORT`, or `HOST:PORT`. Fails where nothing listens.
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_within(address, CONNECT_LIMIT).await
    }

    /// As `connect`, and gives up after `limit`, name look-up included.
    pub async fn connect_within(address: &str, limit: Duration) -> Result<Self> {
        let none = |why: String| {
            let error = Error::connection(format!("no broker at {address}: {why}"));
            Error { may_be_written: false, ..error }
        };
        let endpoint = endpoint(address, limit)?;
        match tokio::time::timeout(limit, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(Self { endpoint, channel, seats: Arc::default() }),
            Ok(Err(error)) => Err(none(cause(&error))),
            Err(_) => Err(none(format!("no connection within {limit:?}"))),
        }
    }

    /// The `Log` service, as it is on the wire.
    pub fn log(&self) -> LogClient<Channel> {
        log_over(self.channel.clone())
    }

    /// A place for a reader.
    pub(crate) fn seat(&self) -> Seat {
        self.seats.take(&self.endpoint)
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

fn endpoint(address: &str, limit: Duration) -> Result<Endpoint> {
    let url = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let endpoint = Endpoint::from_shared(url).map_err(|error| {
        Error::invalid(format!("{address:?} is no address ({error}); write http://HOST:PORT"))
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
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
