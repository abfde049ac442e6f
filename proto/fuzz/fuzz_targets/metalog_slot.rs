#![no_main]
use levee_proto::metalog::Slot;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    levee_proto_fuzz::seal_object(&mut bytes);
    if let Ok((slot, _)) = Slot::decode(&bytes) {
        let (again, crc) = slot.encode();
        assert_eq!(Slot::decode(&again), Ok((slot, crc)));
    }
});
