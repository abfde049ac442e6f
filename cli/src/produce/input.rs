//! Lines of a file or of standard input, read ahead by a thread: standard input has no other way.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use tokio::sync::mpsc;

use super::shape::Shape;
use crate::codes::Code;
use crate::error::CliError;
use crate::output::bytes;

/// Lines that go together, once they hold this much or nothing more is there.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that were read and not sent.
const CHUNKS_AHEAD: usize = 2;

type Chunk = Result<Vec<Vec<u8>>, CliError>;

/// See the module.
pub(super) struct Input {
    chunks: mpsc::Receiver<Chunk>,
    bytes: Option<u64>,
}

impl Input {
    pub(super) fn open(path: Option<&Path>, shape: &Shape) -> Result<Self, CliError> {
        let (source, bytes): (Box<dyn Read + Send>, _) = match path {
            None => (Box::new(std::io::stdin()), None),
            Some(path) => {
                let unreadable = |error: std::io::Error| {
                    let why = format!("{} cannot be read: {error}", path.display());
                    CliError::of(Code::LocalFile, why).next_step("name a file that can be read")
                };
                let file = File::open(path).map_err(unreadable)?;
                let meta = file.metadata().map_err(unreadable)?;
                if meta.is_dir() {
                    return Err(unreadable(std::io::Error::other("it is a folder")));
                }
                (Box::new(file), meta.is_file().then_some(meta.len()))
            }
        };
        let (is_one, max) = (shape.is_one, shape.bytes_max);
        let (send, chunks) = mpsc::channel(CHUNKS_AHEAD);
        std::thread::spawn(move || {
            let mut reader = BufReader::with_capacity(CHUNK_BYTES, source);
            let mut lines = 0;
            loop {
                let (chunk, error) = match is_one {
                    true => whole(&mut reader, max),
                    false => chunk(&mut reader, max, lines),
                };
                lines += chunk.len() as u64;
                let ends = chunk.is_empty() || error.is_some() || is_one;
                // What was read in front of an error is sent.
                let gone = send.blocking_send(Ok(chunk)).is_err();
                if let Some(error) = error {
                    let _ = send.blocking_send(Err(error));
                }
                if gone || ends {
                    return;
                }
            }
        });
        Ok(Self { chunks, bytes })
    }

    /// How much there is, where that is known.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    pub(super) async fn next(&mut self) -> Option<Chunk> {
        self.chunks.recv().await
    }
}

/// The next lines that are there, without their ends, and why it goes no further. None at the end.
/// `before`: how many there were.
fn chunk<R: Read>(
    input: &mut BufReader<R>,
    max: u64,
    before: u64,
) -> (Vec<Vec<u8>>, Option<CliError>) {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    loop {
        match line(input, max) {
            Ok(Some(line)) => {
                bytes += line.len();
                lines.push(line);
            }
            Ok(None) => return (lines, None),
            Err(error) => {
                let number = before + lines.len() as u64 + 1;
                return (lines, Some(error.at(format_args!("line {number}"))));
            }
        }
        // A person who types, or a slow pipe, must not wait for company.
        if bytes >= CHUNK_BYTES || !input.buffer().contains(&b'\n') {
            return (lines, None);
        }
    }
}

fn line(input: &mut impl BufRead, max: u64) -> Result<Option<Vec<u8>>, CliError> {
    let mut line = Vec::new();
    // One more for the line's end, one to see that it is too long.
    let read = input.take(max + 2).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    check(line.len(), max)?;
    Ok((read > 0).then_some(line))
}

fn whole(input: &mut impl Read, max: u64) -> (Vec<Vec<u8>>, Option<CliError>) {
    let mut value = Vec::new();
    let read = input.take(max + 1).read_to_end(&mut value).map_err(CliError::from);
    match read.and_then(|read| check(read, max)) {
        Ok(()) => (vec![value], None),
        Err(error) => (Vec::new(), Some(error)),
    }
}

fn check(len: usize, max: u64) -> Result<(), CliError> {
    match len as u64 > max {
        true => Err(CliError::of(Code::BadInput, format!("longer than {}", bytes(max)))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_without_their_ends_and_bounded() {
        let mut input = BufReader::new(&b"a\n\nlast"[..]);
        let mut next = |before| chunk(&mut input, 8, before);
        assert_eq!(next(0).0, [b"a".to_vec(), b"".to_vec()], "an empty line is a record");
        assert_eq!(next(2), (vec![b"last".to_vec()], None));
        assert_eq!(next(3), (vec![], None));
        let mut long = BufReader::new(&b"12345678\n123456789\n"[..]);
        let (first, error) = chunk(&mut long, 8, 6);
        assert_eq!(first, [b"12345678".to_vec()]);
        assert!(error.unwrap().to_string().contains("line 8: longer than 8 B"));
        assert!(whole(&mut &b"123456789"[..], 8).1.is_some());
        assert_eq!(whole(&mut &b"1\n3"[..], 8), (vec![b"1\n3".to_vec()], None));
    }
}
