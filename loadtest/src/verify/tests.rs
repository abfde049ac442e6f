use super::*;
use crate::stamp::STAMP_BYTES;

/// The values of a chain of `records`, and its ledger.
fn chain(records: u64) -> (Vec<Vec<u8>>, Ledger) {
    let mut ledger = Ledger::default();
    let values = (0..records).map(|sequence| {
        let mut value = vec![sequence as u8; STAMP_BYTES + 20];
        let previous = ledger.last;
        let stamp = Stamp { run: 1, writer: 1, sequence, due: 0, previous, own: 0 };
        ledger.last = stamp.write(b"", &mut value);
        ledger.sent(1);
        value
    });
    (values.collect(), ledger)
}

fn judged<'a>(values: impl IntoIterator<Item = &'a Vec<u8>>, ledger: &Ledger) -> Findings {
    let mut track = Track::default();
    for value in values {
        let stamp = Stamp::read(value).unwrap();
        track.see(&stamp, stamp.is_intact(b"", value));
    }
    let mut findings = Findings::default();
    findings.judge(ledger, &track);
    findings
}

#[test]
fn what_came_as_it_was_sent_is_right() {
    let (values, ledger) = chain(100);
    let findings = judged(&values, &ledger);
    assert_eq!((findings.acked, findings.read), (100, 100));
    assert!(!findings.is_wrong(), "{findings:?}");
}

#[test]
fn lost_records_are_found_in_the_middle_and_at_the_end() {
    let (mut values, ledger) = chain(100);
    values.truncate(95);
    values.drain(40..43);
    let findings = judged(&values, &ledger);
    assert_eq!((findings.lost, findings.read), (8, 92));
    assert_eq!((findings.duplicated, findings.reordered, findings.changed), (0, 0, 0));
    assert_eq!(judged([], &ledger).lost, 100);
}

#[test]
fn what_was_not_acknowledged_may_be_missing_or_there() {
    let (mut values, mut ledger) = chain(100);
    ledger.not_acked(40, 5);
    ledger.not_acked(98, 2);
    values.truncate(98);
    values.drain(40..43);
    let findings = judged(&values, &ledger);
    assert_eq!((findings.lost, findings.acked, findings.unacked_read), (0, 93, 2));
    assert!(!findings.is_wrong());
}

#[test]
fn duplicates_are_found_near_and_far() {
    let (mut values, ledger) = chain(100);
    values.insert(50, values[49].clone());
    values.push(values[3].clone());
    let findings = judged(&values, &ledger);
    assert_eq!((findings.duplicated, findings.lost, findings.reordered), (2, 0, 0));
}

#[test]
fn what_found_no_room_is_not_judged_and_no_duplicate() {
    let (values, ledger) = chain(20_000);
    let (late, early): (Vec<_>, Vec<_>) =
        values.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let in_turn = early.into_iter().chain(late).map(|(_, value)| value);
    let findings = judged(in_turn, &ledger);
    assert_eq!((findings.read, findings.lost, findings.duplicated), (20_000, 0, 0));
    assert!(findings.not_judged > 0 && findings.reordered > 0, "{findings:?}");
}

#[test]
fn reordered_records_are_neither_lost_nor_duplicated() {
    let (mut values, ledger) = chain(100);
    values.swap(10, 11);
    let moved = values.remove(30);
    values.insert(60, moved);
    let findings = judged(&values, &ledger);
    assert_eq!((findings.reordered, findings.lost, findings.duplicated), (2, 0, 0));
}

#[test]
fn a_changed_byte_is_found_once() {
    let (mut values, ledger) = chain(100);
    values[20][STAMP_BYTES + 3] ^= 1;
    values[70][20] ^= 1;
    let findings = judged(&values, &ledger);
    // The second one lost its number: it is changed, and the record it was is lost.
    assert_eq!((findings.changed, findings.lost), (2, 1));
}

#[test]
fn a_record_of_another_chain_in_its_place_is_found() {
    let (mut values, ledger) = chain(100);
    let stamp = Stamp { run: 1, writer: 1, sequence: 50, due: 9, previous: 77, own: 0 };
    stamp.write(b"", &mut values[50]);
    // It does not follow the one before, and the one behind does not follow it.
    assert_eq!(judged(&values, &ledger).changed, 2);
}
