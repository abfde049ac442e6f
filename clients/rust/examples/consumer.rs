//! A member of a group that prints what it reads: `consumer ADDRESS GROUP TOPIC...`. Start several.

// A program of its own, on tokio.
#![allow(clippy::disallowed_methods)]

use levee_client::{Client, ConsumerConfig, Error, Event};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let (Some(address), Some(group)) = (args.next(), args.next()) else {
        eprintln!("usage: consumer ADDRESS GROUP TOPIC...");
        std::process::exit(2);
    };
    let client = Client::connect(&address).await?;
    let mut consumer = client.consumer(ConsumerConfig::new(group, args)).await?;
    loop {
        let event = tokio::select! {
            event = consumer.next() => event?,
            _ = tokio::signal::ctrl_c() => return consumer.close().await,
        };
        match event {
            Event::Records(batch) => {
                for record in &batch.records {
                    let value = record.data.value.as_deref().unwrap_or_default();
                    println!("{} {}: {}", batch.at, record.offset, String::from_utf8_lossy(value));
                }
            }
            other => eprintln!("{other:?}"),
        }
    }
}
