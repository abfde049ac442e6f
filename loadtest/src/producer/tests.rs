use super::*;
use crate::driver::fake::Fake;
use crate::recorder::Tally;
use crate::results::Latency;
use crate::workload::values::Size;
use crate::workload::{Arrivals, Produce, Record, Topics, Workload};

const MS: u64 = 1_000_000;

struct Ran {
    tally: Tally,
    log: Arc<Log>,
}

/// One producer that sends `rate` records a second for a second, one at a time.
async fn ran(rate: u64, in_flight_sends: usize, fake: impl FnOnce(Clock) -> Fake) -> Ran {
    let workload = Workload {
        topics: Topics { partitions: 2, ..Topics::default() },
        record: Record { bytes: Size(64), ..Record::default() },
        produce: Produce { batch_records: 1, producers: 1, ..Produce::default() },
        ..Workload::default()
    };
    let clock = Clock::start();
    let log = Arc::new(Log::new(1, vec!["t".into()], 2, &workload));
    let recorder = Arc::new(Recorder::new(1, 1));
    let (_keep, stop) = watch::channel(false);
    let shared = Shared {
        driver: Arc::new(fake(clock)),
        log: log.clone(),
        payload: Arc::new(Payload::new(&workload).unwrap()),
        recorder: recorder.clone(),
        clock,
        stop,
        kind: ClientKind::Stream,
        stamped: true,
        seed: 1,
        bytes_max: None,
        in_flight_bytes: 1 << 20,
        in_flight_sends,
    };
    let pace = Pace { rate, batch_records: 1, producers: 1, arrivals: Arrivals::Even };
    let start = clock.now();
    let window = Window { phase: 0, start, end: start + 1000 * MS, pace: Some(pace) };
    let producer = Producer::open(shared, 0, 0, vec![0, 1]).await.unwrap();
    producer.run(vec![window]).await.unwrap();
    let mut totals = vec![Tally::default(); 2];
    recorder.take(&mut totals);
    Ran { tally: totals.remove(0), log }
}

#[tokio::test]
async fn a_stall_shows_in_every_send_that_was_due_in_it() {
    let ran = ran(1000, 4, |clock| {
        let now = clock.now();
        Fake { stall: now + 300 * MS..now + 700 * MS, ..Fake::new(clock) }
    })
    .await;
    let latency = Latency::of(&ran.tally.latency);
    let service = Latency::of(&ran.tally.service);
    assert_eq!(ran.tally.counts.sends, 1000);
    // Four in ten sends were due in the stall of 400 ms, though only four were under way.
    assert!(latency.p99 > 350.0, "{latency:?}");
    assert!(latency.p90 > 200.0, "{latency:?}");
    // A closed loop would have seen this.
    assert!(service.p90 < 100.0, "{service:?}");
}

#[tokio::test]
async fn what_cannot_go_in_time_is_said_and_counts_as_late() {
    // Nothing is answered until long after the phase: two sends go, the rest never does.
    let ran = ran(1000, 2, |clock| Fake { stall: 0..3000 * MS, ..Fake::new(clock) }).await;
    assert_eq!((ran.tally.counts.sends, ran.tally.counts.unsent), (2, 998));
    assert_eq!(ran.tally.latency.len(), 1000);
    assert!(Latency::of(&ran.tally.latency).p50 > 1000.0);
}

#[tokio::test]
async fn a_broken_link_leaves_unknown_outcomes_and_the_load_goes_on() {
    let ran = ran(1000, 8, |clock| Fake { break_after: Some(200), ..Fake::new(clock) }).await;
    let counts = &ran.tally.counts;
    assert!((1..=8).contains(&counts.failed), "{counts:?}");
    assert_eq!(counts.sends + counts.failed, 1000);
    let findings = ran.log.unread(0..ran.log.partitions());
    assert_eq!((findings.sent, findings.unacked), (1000, counts.failed));
}
