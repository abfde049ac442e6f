//! The load tools of Kafka's Java client and of librdkafka: how they are called, and what their
//! words mean.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::apache::java;
use crate::error::{Error, Result};

/// Bytes of each record.
pub const RECORD_BYTES: u64 = 1024;
/// What a tool may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Where the tools are, and the broker that they talk to.
pub struct Tools {
    pub jars: PathBuf,
    pub rdkafka: PathBuf,
    pub address: String,
}

/// What a producer says at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Produced {
    pub records_per_second: f64,
    /// p50, p99, p99.9; librdkafka's tool measures none.
    pub latency_ms: Option<[f64; 3]>,
}

impl Tools {
    pub async fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        let mut tool = self.java_tool("org.apache.kafka.tools.TopicCommand");
        tool.args(["--bootstrap-server", &self.address, "--create", "--topic", topic]);
        tool.args(["--partitions", &partitions.to_string()]);
        output(tool).await.map(drop)
    }

    /// `warm`: of the records, those that come first and do not count: a virtual machine is slow
    /// before it has seen the work. `rate`: records a second; as fast as it goes without one.
    pub async fn java_produce(
        &self,
        topic: &str,
        (records, warm): (u64, u64),
        rate: Option<u64>,
    ) -> Result<Produced> {
        let mut tool = self.java_tool("org.apache.kafka.tools.ProducerPerformance");
        tool.args(["--bootstrap-server", &self.address, "--topic", topic]);
        let rate = rate.map_or("-1".to_owned(), |rate| rate.to_string());
        tool.args(["--num-records", &records.to_string(), "--throughput", &rate]);
        tool.args(["--warmup-records", &warm.to_string()]);
        tool.args(["--record-size", &RECORD_BYTES.to_string(), "--command-property", "acks=all"]);
        understood(&output(tool).await?, java_produced)
    }

    /// Records a second.
    pub async fn java_consume(&self, topic: &str, records: u64) -> Result<f64> {
        let mut tool = self.java_tool("org.apache.kafka.tools.ConsumerPerformance");
        tool.args(["--bootstrap-server", &self.address, "--topic", topic]);
        tool.args(["--num-records", &records.to_string(), "--timeout", "60000"]);
        understood(&output(tool).await?, java_consumed)
    }

    pub async fn rdkafka_produce(&self, topic: &str, records: u64) -> Result<Produced> {
        let mut tool = self.rdkafka_tool();
        tool.args(["-P", "-t", topic, "-c", &records.to_string(), "-a", "-1"]);
        tool.args(["-s", &RECORD_BYTES.to_string(), "-X", "queue.buffering.max.messages=1000000"]);
        let records_per_second = understood(&output(tool).await?, rdkafka_rate)?;
        Ok(Produced { records_per_second, latency_ms: None })
    }

    /// Records a second, as a group of one.
    pub async fn rdkafka_consume(&self, topic: &str, group: &str, records: u64) -> Result<f64> {
        let mut tool = self.rdkafka_tool();
        tool.args(["-G", group, "-t", topic, "-c", &records.to_string()]);
        tool.args(["-X", "auto.offset.reset=earliest"]);
        understood(&output(tool).await?, rdkafka_rate)
    }

    fn java_tool(&self, class: &str) -> Command {
        let mut command = java(&self.jars);
        command.args(["-Xmx512m", class]);
        command
    }

    fn rdkafka_tool(&self) -> Command {
        let mut command = Command::new(&self.rdkafka);
        command.args(["-b", &self.address, "-q"]).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

async fn output(mut command: Command) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let failed = |why: String| Error::failed(format!("{name}: {why}"));
    let done = tokio::time::timeout(LIMIT, command.output()).await;
    let out = done.map_err(|_| failed(format!("took longer than {LIMIT:?}")))?;
    let out = out.map_err(|error| failed(error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}\n{}", text(&out.stderr), text(&out.stdout));
    match out.status.success() {
        true => Ok(said),
        false => Err(failed(format!("ended with {}: {}", out.status, said.trim()))),
    }
}

fn understood<T>(said: &str, read: fn(&str) -> Option<T>) -> Result<T> {
    read(said).ok_or_else(|| Error::failed(format!("a tool's words are not understood: {said}")))
}

/// The last line: `N records sent, R records/sec (..), .., X ms 50th, X ms 95th, X ms 99th, ..`.
fn java_produced(said: &str) -> Option<Produced> {
    let line = said.lines().rfind(|line| line.contains("99.9th"))?;
    let parts = || line.split(", ");
    let of = |unit: &str| {
        let part = parts().find_map(|part| part.trim_end_matches('.').strip_suffix(unit))?;
        part.trim().parse::<f64>().ok()
    };
    let rate = parts().find(|part| part.contains(" records/sec"))?.split(' ').next()?;
    let latency_ms = Some([of("ms 50th")?, of("ms 99th")?, of("ms 99.9th")?]);
    Some(Produced { records_per_second: rate.parse().ok()?, latency_ms })
}

/// `start, end, MB, MB/s, records, records/s, rebalance ms, fetch ms, MB/s, records/s` without the
/// time of joining the group.
fn java_consumed(said: &str) -> Option<f64> {
    let fields = |line: &str| line.split(',').map(|f| f.trim().to_owned()).collect::<Vec<_>>();
    let rows = said.lines().map(fields).rfind(|fields| fields.len() == 10);
    rows?[9].parse().ok()
}

/// `% N messages .. in M ms: R msgs/s and ..`.
fn rdkafka_rate(said: &str) -> Option<f64> {
    let line = said.lines().rfind(|line| line.contains(" msgs/s"))?;
    line.split(" msgs/s").next()?.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_tools_are_understood() {
        let said = "1 records sent, 7.0 records/sec (0.01 MB/sec), 1.0 ms avg latency, 2.0 ms max \
            latency.\n1000000 records sent, 101234.5 records/sec (98.86 MB/sec), 250.10 ms avg \
            latency, 460.00 ms max latency, 250 ms 50th, 400 ms 95th, 460 ms 99th, 470 ms 99.9th.";
        let latency_ms = Some([250.0, 460.0, 470.0]);
        let found = java_produced(said);
        assert_eq!(found, Some(Produced { records_per_second: 101_234.5, latency_ms }));
        let said = "start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, \
            nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec\n\
            2026-11-21 21:24:02:137, 2026-11-21 21:24:11:981, 2929.6875, 297.6115, 3000000, \
            304754.1650, 287, 9557, 306.5489, 313906.5\n";
        assert_eq!(java_consumed(said), Some(313_906.5));
        let said = "% 3000000 messages (3072000000 bytes) consumed in 5981ms: 501574 msgs/s \
            (513.61 MB/s)\n% Average application fetch latency: 2us\n";
        assert_eq!(rdkafka_rate(said), Some(501_574.0));
        let said = "% 9 messages produced (9 bytes), 9 delivered (offset 3, 0 failed) in 8152ms: \
            367982 msgs/s and 376.81 MB/s, 625 produce failures, 0 in queue, no compression\n";
        assert_eq!(rdkafka_rate(said), Some(367_982.0));
        assert!(java_produced("").is_none() && java_consumed("a,b").is_none());
    }
}
