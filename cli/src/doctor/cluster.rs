//! The broker: whether it answers, is ready, serves all partitions and keeps up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use levee_broker::config::{BrokerConfig, BucketUrl};
use levee_client::Admin;
use levee_client::grpc::{DescribeClusterResponse, TierStatusResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bucket::difference;
use super::finding::Finding;
use crate::codes::Code;
use crate::output::{bytes, count, millis};
use crate::range::now_ms;
use crate::remote::BrokerArgs;

const READY: &str = "ready";
/// More than the network explains.
const CLOCK_WARN_MS: u64 = 1_000;
/// Waiting longer than so many intervals for its upload is not normal.
const LAG_INTERVALS: u32 = 6;
/// tier.interval where the settings are not known.
const USUAL_INTERVAL: Duration = Duration::from_secs(10);
/// Partitions that are named; more are counted.
const NAMED: usize = 5;
/// Longest answer of /readyz that is read.
const ANSWER_BYTES: u64 = 64 << 10;

/// Where a listener can be reached from here.
pub(super) fn reachable(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port()).to_string()
}

/// What `/readyz` says: the only one who speaks while a broker starts.
pub(super) async fn ready(config: &BrokerConfig, limit: Duration) -> Finding {
    if config.http_listen.port() == 0 {
        return Finding::ok(READY, "http.listen takes any port: /readyz is not asked");
    }
    let address = reachable(config.http_listen);
    let answer = match tokio::time::timeout(limit, readyz(&address)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return silent(&address, &error.to_string()),
        Err(_) => return silent(&address, &format!("no answer within {limit:?}")),
    };
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let Ok(body) = serde_json::from_str::<serde_json::Value>(body) else {
        return silent(&address, "the answer is not that of a Levee broker");
    };
    let reasons = body["reasons"].as_array().into_iter().flatten();
    let reasons = reasons.filter_map(|reason| reason.as_str()).collect::<Vec<_>>().join("; ");
    match (body["ready"].as_bool(), reasons.as_str()) {
        (Some(true), "") => Finding::ok(READY, format!("http://{address}/readyz: ready")),
        (Some(true), reasons) => {
            let found = format!("ready, but: {reasons}");
            Finding::warn(READY, found, "levee tier status and levee topic describe show more")
        }
        (_, reasons) => {
            let found = format!("not ready: {reasons}");
            Finding::fail(READY, found, "wait; its log says what it does")
        }
    }
}

fn silent(address: &str, why: &str) -> Finding {
    let found = format!("http://{address}/readyz: {why}");
    Finding::fail(READY, found, "start the broker: levee broker --config FILE")
        .because(Code::NoBroker)
}

/// One request of HTTP/1.1; the broker closes the connection behind its answer.
async fn readyz(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub(super) async fn check(broker: &BrokerArgs, config: Option<&BrokerConfig>) -> Vec<Finding> {
    let admin = match broker.connect().await {
        Ok(client) => broker.admin(&client),
        Err(error) => {
            let found = error.message().to_owned();
            let remedy = "start it, or name another address: --broker HOST:PORT";
            return vec![Finding::fail("broker", found, remedy).because(Code::NoBroker)];
        }
    };
    match ask(&admin).await {
        Ok((cluster, asked_ms, status)) => {
            let interval = config.map_or(USUAL_INTERVAL, |config| config.tier_interval);
            let mut findings = vec![release(&broker.address, &cluster)];
            findings.extend(config.and_then(|config| other_bucket(config, &cluster)));
            findings.push(clock(&cluster, asked_ms));
            findings.extend(partitions(&status));
            findings.push(lag(&status, interval));
            findings
        }
        Err(error) => {
            let code = Code::from(&error);
            let remedy = code.explanation().remedy;
            let found = format!("{} does not answer: {}", broker.address, error.message);
            vec![Finding::fail("broker", found, remedy).because(code)]
        }
    }
}

/// With this machine's time in the middle of the first question.
async fn ask(
    admin: &Admin,
) -> Result<(DescribeClusterResponse, i64, TierStatusResponse), levee_client::Error> {
    let before = now_ms();
    let cluster = admin.describe_cluster().await?;
    let middle = before + (now_ms() - before) / 2;
    Ok((cluster, middle, admin.tier_status(None).await?))
}

fn release(address: &str, cluster: &DescribeClusterResponse) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = match cluster.version.as_str() {
        "" => "older than this program",
        version => version,
    };
    let found = format!("{address}: release {theirs}, cluster {}", cluster.cluster_id);
    match theirs == ours {
        true => Finding::ok("broker", found),
        false => {
            let found = format!("{found}; this program is {ours}");
            Finding::warn("broker", found, "use the same release on both sides")
        }
    }
}

/// What was said of the bucket of these settings says nothing of that broker, then.
fn other_bucket(config: &BrokerConfig, cluster: &DescribeClusterResponse) -> Option<Finding> {
    let (ours, theirs) = (&config.bucket_url, BucketUrl::parse(&cluster.bucket).ok()?);
    let is_same = match (ours.as_folder(), theirs.as_folder()) {
        (Some(ours), Some(theirs)) => {
            let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
            real(ours) == real(theirs)
        }
        _ => place(ours) == place(&theirs),
    };
    (!is_same).then(|| {
        let found = format!("its bucket is {theirs}, and not that of these settings: {ours}");
        let remedy = "start the broker again with these settings, or give those it runs with";
        Finding::fail("broker", found, remedy)
    })
}

/// A bucket's URL without options.
fn place(url: &BucketUrl) -> String {
    let url = url.to_string();
    url.split('?').next().unwrap_or_default().trim_end_matches('/').to_owned()
}

fn clock(cluster: &DescribeClusterResponse, asked_ms: i64) -> Finding {
    if cluster.now_ms == 0 {
        return Finding::ok("clock", "the broker tells no time");
    }
    let ahead = cluster.now_ms - asked_ms;
    let found = format!("the broker's clock is {}", difference(ahead));
    match ahead.unsigned_abs() > CLOCK_WARN_MS {
        false => Finding::ok("clock", found),
        true => Finding::warn("clock", found, "set both clocks (NTP): retention goes by them"),
    }
}

fn partitions(status: &TierStatusResponse) -> Vec<Finding> {
    const CHECK: &str = "partitions";
    let remedy = "it goes on by itself when its medium is back; the broker's log says more";
    let mut found: Vec<Finding> =
        status.stalled.iter().map(|why| Finding::warn("stalled", why, remedy)).collect();
    let lost = "no other copy is known: restore this object from a backup of the bucket";
    found.extend(status.damaged.iter().map(|place| Finding::fail("damaged", place, lost)));
    let live = || status.topics.iter().filter(|topic| topic.deleted_ms.is_none());
    let all: usize = live().map(|topic| topic.partitions.len()).sum();
    let silent: Vec<String> = live()
        .flat_map(|topic| topic.partitions.iter().map(move |p| (&topic.name, p)))
        .filter(|(_, p)| p.state != "serving" && p.state != "handing_off")
        .map(|(name, p)| format!("{name}/{} {} ({})", p.partition, p.state, p.reason))
        .collect();
    found.push(match silent.len() {
        0 => {
            let topics = count(live().count() as u64, "topic");
            Finding::ok(
                CHECK,
                format!("{} of {topics}, all serving", count(all as u64, "partition")),
            )
        }
        missing => {
            let mut text = format!("{missing} of {all} do not serve: ");
            text.push_str(&silent[..missing.min(NAMED)].join("; "));
            if missing > NAMED {
                text.push_str(" ...");
            }
            let remedy = "levee topic describe shows each reason; mostly a disk must come back";
            Finding::fail(CHECK, text, remedy)
        }
    });
    found
}

fn lag(status: &TierStatusResponse, interval: Duration) -> Finding {
    let found = match status.lag_bytes {
        0 => "everything is in the bucket".to_owned(),
        waits => {
            format!("{} wait for the bucket, the oldest {}", bytes(waits), millis(status.lag_ms))
        }
    };
    let long = interval.saturating_mul(LAG_INTERVALS).as_millis();
    match u128::from(status.lag_ms) > long && status.lag_bytes > 0 {
        false => Finding::ok("upload", found),
        true => {
            let remedy = "the bucket is slow or away: look at it and at levee tier status";
            Finding::warn("upload", found, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use levee_client::grpc::{PartitionDescription, TopicDescription};

    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_partition_that_waits_fails_and_says_why() {
        let waiting = PartitionDescription {
            partition: 1,
            state: "waiting".into(),
            reason: "its disk is away".into(),
            ..PartitionDescription::default()
        };
        let serving = PartitionDescription { state: "serving".into(), ..Default::default() };
        let topic =
            |partitions| TopicDescription { name: "t".into(), partitions, ..Default::default() };
        let status = |topic| TierStatusResponse { topics: vec![topic], ..Default::default() };
        let found = partitions(&status(topic(vec![serving.clone(), waiting])));
        assert_eq!(found[0].state, State::Fail);
        assert!(found[0].to_string().contains("t/1 waiting (its disk is away)"), "{}", found[0]);
        assert_eq!(partitions(&status(topic(vec![serving])))[0].state, State::Ok);
    }

    #[test]
    fn lag_and_clocks_warn_beyond_their_bounds() {
        let status = |lag_ms| TierStatusResponse { lag_bytes: 1, lag_ms, ..Default::default() };
        let interval = Duration::from_secs(10);
        assert_eq!(lag(&status(60_000), interval).state, State::Ok);
        assert_eq!(lag(&status(60_001), interval).state, State::Warn);
        let cluster = |now_ms| DescribeClusterResponse { now_ms, ..Default::default() };
        assert_eq!(clock(&cluster(10_000), 9_500).state, State::Ok);
        assert_eq!(clock(&cluster(10_000), 12_500).state, State::Warn);
        assert_eq!(release("a", &cluster(1)).state, State::Warn, "an old broker tells no release");
    }

    #[test]
    fn a_broker_with_another_bucket_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let found = |ours: &str, theirs: &str| {
            let config = BrokerConfig::dev(dir.path(), &[("bucket.url", ours)]).unwrap();
            let bucket = theirs.to_owned();
            let cluster = DescribeClusterResponse { bucket, ..Default::default() };
            other_bucket(&config, &cluster).map(|finding| finding.state)
        };
        assert_eq!(found("s3://b/p?endpoint=http://h", "s3://b/p/"), None);
        assert_eq!(found("s3://b/p", "s3://b/q"), Some(State::Fail));
        let linked = dir.path().join("linked");
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("real"), &linked).unwrap();
        let url = |name: &str| format!("file://{}/{name}", dir.path().display());
        assert_eq!(found(&url("linked"), &url("real/")), None, "the same folder");
        assert_eq!(found(&url("linked"), &url("another")), Some(State::Fail));
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_this_machine() {
        let at = |text: &str| reachable(text.parse().unwrap());
        assert_eq!(at("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(at("[::]:1"), "[::1]:1");
        assert_eq!(at("10.0.0.1:1"), "10.0.0.1:1");
    }
}
