#![no_main]
use bytes::Bytes;
use levee_kafka::frame::Header;
use levee_kafka::{Message, Reader, Writer, for_each_message};

/// What a stranger may send as the first frame: a header, then what its key says. Behind the header
/// every other message is tried as well: they come from logs and other brokers.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new(Bytes::copy_from_slice(data));
    let Ok(header) = Header::decode(&mut reader) else { return };
    let version = header.version;
    let body = Bytes::copy_from_slice(&data[data.len() - reader.left()..]);
    macro_rules! check {
        ($message:ty) => {
            if <$message>::VERSIONS.contains(&version)
                && let Ok(message) = <$message>::decode(&mut Reader::new(body.clone()), version)
            {
                let written = encode(&message, version);
                let again = <$message>::decode(&mut Reader::new(written.clone()), version);
                let again = again.expect("what was written is read");
                assert_eq!(encode(&again, version), written, "{}", <$message>::NAME);
            }
        };
    }
    for_each_message!(check);
});

fn encode<M: Message>(message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new();
    message.encode(&mut writer, version);
    writer.into_bytes()
}
