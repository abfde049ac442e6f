//! The topics of a run and what was sent to each partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Exit};
use crate::payload::key;
use crate::verify::{Findings, Ledger, Track};
use crate::workload::{Keys, Workload};

/// See the module. Partitions of all topics are numbered through.
pub struct Log {
    pub run: u64,
    pub topics: Vec<Arc<str>>,
    pub partitions_per_topic: u32,
    /// By partition, then by writer.
    ledgers: Vec<Mutex<BTreeMap<u32, Ledger>>>,
    /// Keys that belong to each partition of a topic; none where records have no keys.
    keys: Vec<Vec<u32>>,
}

/// The chains of one partition, as a reader follows them.
#[derive(Default)]
pub struct Tracks {
    pub by_writer: BTreeMap<u32, Track>,
    pub foreign: u64,
    /// Why the reader went no further.
    pub broken: Option<Error>,
}

impl Log {
    pub fn new(run: u64, topics: Vec<Arc<str>>, partitions: u32, workload: &Workload) -> Self {
        let count = topics.len() * partitions as usize;
        let mut keys = vec![Vec::new(); partitions as usize];
        if workload.record.keys != Keys::None {
            for number in 0..workload.record.key_count {
                let partition = levee_client::partition_of_key(&key(number), partitions);
                keys[partition as usize].push(number);
            }
        }
        let ledgers = (0..count).map(|_| Mutex::default()).collect();
        Self { run, topics, partitions_per_topic: partitions, ledgers, keys }
    }

    pub fn partitions(&self) -> u32 {
        self.ledgers.len() as u32
    }

    /// Topic and its partition.
    pub fn place(&self, number: u32) -> (&Arc<str>, u32) {
        let topic = &self.topics[(number / self.partitions_per_topic) as usize];
        (topic, number % self.partitions_per_topic)
    }

    pub fn keys(&self, number: u32) -> &[u32] {
        &self.keys[(number % self.partitions_per_topic) as usize]
    }

    pub fn with_ledger<T>(
        &self,
        number: u32,
        writer: u32,
        with: impl FnOnce(&mut Ledger) -> T,
    ) -> T {
        with(self.ledgers[number as usize].lock().entry(writer).or_default())
    }

    pub fn not_acked(&self, number: u32, writer: u32, first: u64, records: u64) {
        self.with_ledger(number, writer, |ledger| ledger.not_acked(first, records));
    }

    /// What one partition came to.
    pub fn judge(&self, number: u32, tracks: &Tracks) -> Findings {
        let ledgers = self.ledgers[number as usize].lock();
        let (fresh, nothing) = (Track::default(), Ledger::default());
        let mut findings = Findings { foreign: tracks.foreign, ..Findings::default() };
        let mut behind = 0;
        for (writer, ledger) in ledgers.iter() {
            let track = tracks.by_writer.get(writer).unwrap_or(&fresh);
            findings.judge(ledger, track);
            behind += ledger.behind(track);
        }
        for (writer, track) in &tracks.by_writer {
            if !ledgers.contains_key(writer) {
                findings.judge(&nothing, track);
            }
        }
        match &tracks.broken {
            // What is behind damaged bytes cannot be read by anybody.
            Some(error) if error.exit == Exit::Wrong => findings.changed += 1,
            // A gap in what was read is one all the same.
            Some(_) => findings.unread(behind),
            None => {}
        }
        findings
    }

    /// What was sent to partitions that nobody read.
    pub fn unread(&self, partitions: impl IntoIterator<Item = u32>) -> Findings {
        let mut findings = Findings::default();
        for number in partitions {
            for ledger in self.ledgers[number as usize].lock().values() {
                findings.judge(ledger, &Track::default());
            }
        }
        findings.unread(findings.lost);
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;

    #[test]
    fn a_reader_that_breaks_leaves_open_only_what_is_behind_it() {
        let log = Log::new(1, vec!["t".into()], 1, &Workload::default());
        log.with_ledger(0, 7, |ledger| ledger.sent(100));
        log.with_ledger(0, 8, |ledger| ledger.sent(10));
        log.not_acked(0, 7, 60, 5);
        let mut track = Track::default();
        for sequence in (0..20).chain(23..50) {
            let stamp = Stamp { run: 1, writer: 7, sequence, due: 0, previous: 0, own: 0 };
            track.see(&stamp, true);
        }
        let broken = Some(Error::failed("the connection is gone"));
        let tracks = Tracks { by_writer: [(7, track)].into(), broken, ..Tracks::default() };
        let findings = log.judge(0, &tracks);
        assert_eq!((findings.acked, findings.read), (105, 47));
        assert_eq!((findings.lost, findings.not_judged), (3, 45 + 10), "{findings:?}");
        let damaged = Tracks { broken: Some(Error::wrong("crc")), ..tracks };
        assert_eq!(log.judge(0, &damaged).lost, 3 + 45 + 10);
    }
}
