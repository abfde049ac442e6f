#![no_main]
use bytes::Bytes;
use levee_proto::record::codecs::Compression;
use levee_proto::record::records::{BatchBuilder, decode_records};

// Records of one batch: whatever they hold, they can be sent again.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    levee_proto_fuzz::seal_batch(&mut bytes);
    let Ok(records) = decode_records(&Bytes::from(bytes)) else { return };
    if records.is_empty() {
        return;
    }
    let mut builder = BatchBuilder::new(Compression::None);
    records.iter().for_each(|record| builder.push(&record.data));
    let again = decode_records(&builder.build(None)).expect("was just built");
    assert!(again.iter().map(|r| &r.data).eq(records.iter().map(|r| &r.data)));
});
