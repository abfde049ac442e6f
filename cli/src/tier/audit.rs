//! `levee tier audit`: metadata, listing and footers of a bucket held against each other. Reads the
//! bucket itself and changes nothing, so it needs no broker and can run beside one.

use levee_broker::config::BucketUrl;
use levee_runtime::real::RealWorld;
use levee_tiering::audit::{Audit, AuditError, Count, audit};
use levee_tiering::budget::Budget;
use levee_tiering::metalog::MetaLog;
use levee_tiering::store::Store;
use serde_json::json;

use crate::codes::Code;
use crate::error::CliError;
use crate::output::{Output, OutputArgs, Unit, bytes, print, print_json, progress, table};

/// Reads in a second at most: a cluster at work feels nothing of them.
const REQUESTS_PER_SECOND: u64 = 500;

pub(super) async fn run(url: &str, output: OutputArgs) -> Result<(), CliError> {
    // Opening a folder makes it.
    if let Some(folder) = BucketUrl::parse(url).ok().and_then(|url| url.as_folder())
        && !folder.exists()
    {
        return Err(no_cluster(&format!("{}, which is not there", folder.display())));
    }
    let host = RealWorld::host();
    let store = Store::open(url, host.clone())?;
    if !MetaLog::exists(&store).await? {
        return Err(no_cluster(store.describe()));
    }
    let bar = progress("reading", None, Unit::Records);
    let cluster = MetaLog::identify(&store, &host).await;
    let cluster = cluster.map_err(|error| CliError::new(error.to_string()))?;
    let log = MetaLog::open(store.clone(), host.clone(), cluster.id);
    let budget = Budget::new(host, u64::MAX, REQUESTS_PER_SECOND);
    let audit = audit(&log, &store, &budget).await;
    bar.finish_and_clear();
    let audit = audit.map_err(|error| match error {
        AuditError::Store(error) => error.into(),
        AuditError::Load(error) => CliError::new(format!("the metadata cannot be read: {error}")),
    })?;
    match output.output {
        Output::Text => text(&audit)?,
        Output::Json => print_json(&as_json(&audit))?,
    }
    match audit.findings.len() {
        0 => Ok(()),
        count => Err(CliError::of(Code::AuditFailed, format!("{count} things do not add up"))),
    }
}

fn no_cluster(place: &str) -> CliError {
    let remedy = Code::NoCluster.explanation().remedy;
    CliError::of(Code::NoCluster, format!("no cluster lives in {place}")).next_step(remedy)
}

const ROWS: [&str; 7] = [
    "slots of lanes",
    "shared objects",
    "of one partition",
    "unreferenced",
    "in flight",
    "left behind",
    "metadata",
];

fn counts(audit: &Audit) -> [Count; 7] {
    let Audit { slots, shared, single, unreferenced, in_flight, orphans, metadata, .. } = audit;
    [*slots, *shared, *single, *unreferenced, *in_flight, *orphans, *metadata]
}

fn text(audit: &Audit) -> Result<(), CliError> {
    let row = |(name, count): (&str, Count)| {
        vec![name.to_owned(), count.objects.to_string(), bytes(count.bytes)]
    };
    let rows = ROWS.into_iter().zip(counts(audit)).map(row);
    print(table(&["WHAT", "OBJECTS", "BYTES"], rows))?;
    print(format_args!(
        "\n{} partitions as of metadata slot {}; {:.1} objects per GiB; {} of dead records in \
         objects that are needed",
        audit.partitions,
        audit.slot,
        audit.objects_per_gib(),
        bytes(audit.dead_bytes)
    ))?;
    match audit.findings.is_empty() {
        true => print("everything that is referenced is there, and logs have no gaps"),
        false => {
            let lines: Vec<String> = audit.findings.iter().map(|f| format!("FOUND {f}")).collect();
            print(lines.join("\n"))
        }
    }
}

fn as_json(audit: &Audit) -> serde_json::Value {
    let names = ["slots", "shared", "single", "unreferenced", "in_flight", "orphans", "metadata"];
    let count = |count: Count| json!({"objects": count.objects, "bytes": count.bytes});
    let objects: serde_json::Map<_, _> = names
        .into_iter()
        .zip(counts(audit))
        .map(|(name, found)| (name.to_owned(), count(found)))
        .collect();
    json!({
        "slot": audit.slot,
        "partitions": audit.partitions,
        "objects": objects,
        "objects_per_gib": audit.objects_per_gib(),
        "dead_bytes": audit.dead_bytes,
        "findings": audit.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
