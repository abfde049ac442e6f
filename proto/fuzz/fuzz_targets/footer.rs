#![no_main]
use levee_proto::object::{Footer, ProducerSnapshot, Trailer};

// The bytes are a whole object, a footer, and producer state. The footer of an object is decoded
// without its crc too, so that the golden objects are a start.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut data = data;
    if let Ok(trailer) = Trailer::decode(data, data.len() as u64) {
        let pos = trailer.footer_pos as usize;
        let footer = &data[pos..pos + trailer.footer_len as usize];
        let _ = trailer.footer(footer);
        data = footer;
    }
    let _ = ProducerSnapshot::decode(data);
    let Ok(footer) = Footer::decode(data) else { return };
    for range in &footer.ranges {
        assert!(u64::from(range.seek(range.base)) <= range.len);
        let _ = range.seek_time(range.max_timestamp);
    }
    assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
});
