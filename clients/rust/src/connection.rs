//! One connection to a broker, shared by everything made from it.

use std::time::Duration;

use levee_proto::grpc::ErrorCode;
use levee_proto::grpc::admin_client::AdminClient;
use levee_proto::grpc::log_client::LogClient;
use levee_proto::limits::BATCH_BYTES_MAX;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};
use crate::producer::{Producer, ProducerConfig};
use crate::reader::{Position, ReadConfig, Reader};

const MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX + (1 << 20);
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Cheap to clone. Connects again by itself after the broker was away.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// `address`: `http://HOST:PORT`, or `HOST:PORT`.
    pub async fn connect(address: &str) -> Result<Self> {
        let client = Self::lazy(address)?;
        let mut probe = client.log();
        let ready = probe.init_producer(levee_proto::grpc::InitProducerRequest {});
        match tokio::time::timeout(Duration::from_secs(10), ready).await {
            Ok(Ok(_)) => Ok(client),
            Ok(Err(status)) => {
                let error = Error::from(status);
                Err(Error { message: format!("{address}: {}", error.message), ..error })
            }
            Err(_) => Err(Error::connection(format!("{address}: no answer within 10 s"))),
        }
    }

    /// As `connect`, without asking the broker anything yet.
    pub fn lazy(address: &str) -> Result<Self> {
        let url = match address.contains("://") {
            true => address.to_owned(),
            false => format!("http://{address}"),
        };
        let endpoint = Endpoint::from_shared(url).map_err(|error| {
            let why = format!("{address:?} is no address ({error}); write http://HOST:PORT");
            Error::new(ErrorCode::InvalidArgument, why, false)
        })?;
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    /// The `Log` service, as it is on the wire.
    pub fn log(&self) -> LogClient<Channel> {
        LogClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The `Admin` service, as it is on the wire.
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub async fn producer(&self, config: ProducerConfig) -> Result<Producer> {
        Producer::open(self.clone(), config).await
    }

    pub async fn read(
        &self,
        topic: &str,
        partition: u32,
        from: Position,
        config: ReadConfig,
    ) -> Result<Reader> {
        Reader::open(self.clone(), topic, partition, from, config).await
    }

    pub async fn partitions(&self, topic: &str) -> Result<u32> {
        let name = topic.to_owned();
        let request = levee_proto::grpc::DescribeTopicRequest { name };
        let topic = self.admin().describe_topic(request).await?.into_inner();
        Ok(topic.partitions.len() as u32)
    }
}
