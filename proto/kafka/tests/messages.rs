//! Every message in every version against what Kafka itself writes, and against strangers.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use bytes::Bytes;
use levee_kafka::for_each_message;
use levee_kafka::{Message, Reader, Writer};
use proptest::prelude::*;

const GOLDEN: &str = include_str!("../golden/kafka-4.3.1.txt");

fn hex(text: &str) -> Bytes {
    let digit = |c: u8| char::from(c).to_digit(16).expect("a hex digit") as u8;
    text.as_bytes().chunks(2).map(|two| digit(two[0]) << 4 | digit(two[1])).collect()
}

fn encode<M: Message>(message: &M, version: i16) -> Bytes {
    let mut w = Writer::new();
    message.encode(&mut w, version);
    let length = w.len();
    let bytes = w.into_bytes();
    assert_eq!(bytes.len(), length);
    bytes
}

/// Versions of `M` that the golden file has.
fn golden<M: Message>() -> BTreeSet<i16> {
    let mut seen = BTreeSet::new();
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap());
        if name != M::NAME {
            continue;
        }
        let version: i16 = version.parse().unwrap();
        let bytes = hex(words.next().unwrap_or_default());
        let mut r = Reader::new(bytes.clone());
        let message =
            M::decode(&mut r, version).unwrap_or_else(|e| panic!("{name} v{version}: {e}"));
        r.end().unwrap_or_else(|e| panic!("{name} v{version}: {e}"));
        assert_eq!(encode(&message, version), bytes, "{name} v{version}");
        seen.insert(version);
    }
    seen
}

#[test]
fn every_message_is_read_and_written_as_kafka_does() {
    let mut count = 0;
    macro_rules! check {
        ($message:ty) => {
            let versions: BTreeSet<i16> = <$message as Message>::VERSIONS.collect();
            let seen = golden::<$message>();
            let name = <$message as Message>::NAME;
            // Kafka cannot write this one any more.
            let old = if name == "TransactionLogValue" { 1 } else { 0 };
            let missing: Vec<_> = versions.difference(&seen).collect();
            assert_eq!(missing.len(), old, "{name} {missing:?}");
            count += seen.len();
        };
    }
    for_each_message!(check);
    assert_eq!(count * 2, GOLDEN.lines().count() - 1, "no line is for nobody");
}

#[test]
fn a_message_cut_short_anywhere_is_an_error_that_says_where() {
    macro_rules! check {
        ($message:ty) => {
            for line in GOLDEN.lines().filter(|l| l.split(' ').next() == Some(<$message>::NAME)) {
                let mut words = line.split(' ').skip(1);
                let version: i16 = words.next().unwrap().parse().unwrap();
                let bytes = hex(words.next().unwrap_or_default());
                for end in 0..bytes.len() {
                    let error = <$message>::decode(&mut Reader::new(bytes.slice(..end)), version);
                    assert!(error.is_err_and(|e| e.at <= end), "{line} cut at {end}");
                }
            }
        };
    }
    for_each_message!(check);
}

/// What one count of 2^31 would take down.
#[test]
fn counts_are_held_against_the_bytes_that_are_there() {
    use levee_kafka::messages::metadata_request::MetadataRequest;
    use levee_kafka::read::Problem;
    let bytes = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff]);
    let error = MetadataRequest::decode(&mut Reader::new(bytes), 1).unwrap_err();
    assert_eq!(error.problem, Problem::Truncated { need: i32::MAX as usize, left: 0 });
    assert_eq!(
        error.to_string(),
        "MetadataRequest.topics at byte 4: 2147483647 more bytes are needed, 0 are left"
    );
    // Many small things that would be large in memory.
    let mut w = Writer::new();
    w.i32(40 << 20);
    let bytes = [w.into_bytes(), vec![0; 80 << 20].into()].concat().into();
    let error = MetadataRequest::decode(&mut Reader::new(bytes), 1).unwrap_err();
    assert_eq!(error.problem, Problem::TooLarge);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever comes: an error, or a message that means the same when it is written and read again.
    #[test]
    fn strangers_get_an_error_or_a_message(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        macro_rules! check {
            ($message:ty) => {
                for version in <$message>::VERSIONS {
                    let Ok(message) = <$message>::decode(&mut Reader::new(bytes.clone()), version)
                    else { continue };
                    let written = encode(&message, version);
                    let again = <$message>::decode(&mut Reader::new(written.clone()), version).unwrap();
                    prop_assert_eq!(encode(&again, version), written);
                }
            };
        }
        for_each_message!(check);
    }

    /// One byte of a good message is another.
    #[test]
    fn damage_never_panics(line in 0..1050usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let line = GOLDEN.lines().nth(line + 1).unwrap();
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
        let mut bytes = hex(words.next().unwrap_or_default()).to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        macro_rules! check {
            ($message:ty) => {
                if name == <$message>::NAME {
                    let _ = <$message>::decode(&mut Reader::new(bytes.clone().into()), version);
                }
            };
        }
        for_each_message!(check);
    }
}

#[test]
fn a_null_in_a_tagged_field_is_not_an_absent_one() {
    use levee_kafka::messages::consumer_group_member_metadata_value::ConsumerGroupMemberMetadataValue as Value;
    // As Kafka writes it after setClassicMemberMetadata(null).
    let null = hex("010101010101ffffffff0101000100");
    let mut r = Reader::new(null.clone());
    let value = Value::decode(&mut r, 0).unwrap();
    assert_eq!(value.classic_member_metadata, None);
    let written = encode(&value, 0);
    assert!(written.ends_with(&null[null.len() - 4..]));
    let absent = hex("010101010101ffffffff0100");
    let value = Value::decode(&mut Reader::new(absent), 0).unwrap();
    assert!(value.classic_member_metadata.is_some());
}
