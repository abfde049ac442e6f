#![no_main]
use levee_proto::head::Head;
use levee_proto::metalog::{Boundary, ClusterId};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Head::decode(data);
    let mut bytes = data.to_vec();
    levee_proto_fuzz::seal_head(&mut bytes);
    if let Ok(head) = Head::decode(&bytes) {
        assert_eq!(Head::decode(&head.encode()), Ok(head));
    }
    let _ = Boundary::decode(&bytes);
    let _ = ClusterId::decode(&bytes);
});
