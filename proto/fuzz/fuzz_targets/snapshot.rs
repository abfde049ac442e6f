#![no_main]
use levee_proto::codec::Reader;
use levee_proto::metalog::wire::Wire;
use levee_proto::metalog::{Image, Snapshot};

// A whole snapshot, and the image in it, which a fuzzer does not reach through the compression.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    levee_proto_fuzz::seal_object(&mut bytes);
    let _ = Snapshot::decode(&bytes);
    if let Ok(image) = Image::get(&mut Reader::new("image", data)) {
        let mut again = bytes::BytesMut::new();
        image.put(&mut again);
        assert_eq!(Image::get(&mut Reader::new("image", &again)), Ok(image));
    }
});
