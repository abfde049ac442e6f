#![no_main]
use levee_proto::record::{StoredBatch, batch, seek};

// Runs of batches, as they are read back from disk and bucket.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = batch::check_run(data, |_, _| true);
    let mut run = seek::Run { next: 0, end: u64::MAX, leader_epoch: 0, compacted: true };
    let _ = seek::seek(data, &mut run, 5, 1000);
    let mut bytes = data.to_vec();
    levee_proto_fuzz::seal_batch(&mut bytes);
    if let Ok(header) = batch::check(&bytes) {
        let stored = StoredBatch::stamped(&bytes.clone().into(), header);
        assert_eq!(batch::check(&stored.to_bytes()), Ok(header));
        assert_eq!(batch::check_run(&bytes, |_, _| true), Ok(bytes.len()));
    }
});
