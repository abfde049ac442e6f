#![no_main]
use bytes::Bytes;
use levee_proto::wal::{GROUP_HEAD_BYTES, GroupHead};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    levee_proto_fuzz::seal_group(&mut bytes);
    let bytes = Bytes::from(bytes);
    let Ok(head) = GroupHead::decode(&bytes) else { return };
    assert_eq!(GroupHead::decode(&head.encode()), Ok(head));
    if let Ok(entries) = head.body(&bytes.slice(GROUP_HEAD_BYTES..)) {
        let data: u64 = entries.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        assert_eq!(data, u64::from(head.data_len));
    }
});
