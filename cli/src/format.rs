//! How a record is written as text: the format strings of rpk and kcat, as far as both agree.
//!
//! Owns: the grammar, and writing a record by it. Does not own: JSON (`jsonl`).

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use levee_client::DecodedRecord;

use crate::output::time;

/// The grammar, for `--help`.
pub const HELP: &str = "\
Formats (-f, as in rpk and kcat). Default: '%v\\n'
  %t %p %o      topic, partition, offset
  %k %v         key, value (%s too); %k{hex} %v{base64} write bytes as text
  %K %V %H      bytes of key and value (%S too; -1: null), number of headers
  %h            headers as NAME=VALUE,NAME=VALUE; %h{%k=%v;} writes each of them as the braces say
  %d            time in milliseconds since 1970; %d{rfc3339} as a date, where one fits
  \\n \\t \\r \\0 \\xNN \\\\ and %% %{ %} stand for themselves
";

/// What stands between key and value, for command lines: shells make a tab hard to write.
pub fn delimiter(text: &str) -> Result<String, String> {
    match text {
        "" => Err("write at least one character".into()),
        text => Ok(text.replace("\\t", "\t")),
    }
}

/// A parsed format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Plain(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key(Form),
    Value(Form),
    KeyBytes,
    ValueBytes,
    HeaderCount,
    /// `None`: as `NAME=VALUE,..`.
    Headers(Option<Vec<Part>>),
    Millis,
    Date,
}

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Hex,
    Base64,
}

impl Format {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text, in_header: false };
        Ok(Self(parser.parts()?))
    }

    /// Key and value in one line, as `produce --key-delimiter` takes them.
    pub fn keyed(delimiter: &str) -> Self {
        let plain = |text: &str| Part::Plain(text.as_bytes().to_vec());
        Self(vec![Part::Key(Form::Plain), plain(delimiter), Part::Value(Form::Plain), plain("\n")])
    }

    pub fn write(
        &self,
        out: &mut impl Write,
        topic: &str,
        partition: u32,
        record: &DecodedRecord,
    ) -> io::Result<()> {
        let data = &record.data;
        for part in &self.0 {
            match part {
                Part::Topic => out.write_all(topic.as_bytes())?,
                Part::Partition => write!(out, "{partition}")?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::HeaderCount => write!(out, "{}", data.headers.len())?,
                Part::Millis => write!(out, "{}", data.timestamp_ms)?,
                Part::Date => out.write_all(time(data.timestamp_ms).as_bytes())?,
                Part::Headers(format) => headers(out, format.as_deref(), &data.headers)?,
                part => common(out, part, data.key.as_deref(), data.value.as_deref())?,
            }
        }
        Ok(())
    }
}

/// Parts that records and headers have.
fn common(
    out: &mut impl Write,
    part: &Part,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> io::Result<()> {
    match part {
        Part::Plain(text) => out.write_all(text),
        Part::Key(form) => form.write(out, key),
        Part::Value(form) => form.write(out, value),
        Part::KeyBytes => write!(out, "{}", len(key)),
        Part::ValueBytes => write!(out, "{}", len(value)),
        _ => Ok(()),
    }
}

/// -1 tells null from empty, as in kcat.
fn len(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

fn headers(
    out: &mut impl Write,
    format: Option<&[Part]>,
    headers: &[(String, Option<Bytes>)],
) -> io::Result<()> {
    for (at, (name, value)) in headers.iter().enumerate() {
        let (name, value) = (name.as_bytes(), value.as_deref());
        match format {
            Some(parts) => {
                parts.iter().try_for_each(|part| common(out, part, Some(name), value))?;
            }
            None => {
                out.write_all(if at == 0 { b"" } else { b"," })?;
                out.write_all(name)?;
                out.write_all(b"=")?;
                Form::Plain.write(out, value)?;
            }
        }
    }
    Ok(())
}

impl Form {
    /// Null is written as nothing; `%V` and JSON tell it from empty.
    fn write(self, out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
        let bytes = bytes.unwrap_or_default();
        match self {
            Self::Plain => out.write_all(bytes),
            Self::Hex => bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
            Self::Base64 => out.write_all(STANDARD.encode(bytes).as_bytes()),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    in_header: bool,
}

impl<'a> Parser<'a> {
    /// To the end of the text; in a header's braces to the closing one.
    fn parts(&mut self) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        while let Some(c) = self.next() {
            let part = match c {
                '}' if self.in_header => {
                    flush(&mut plain, &mut parts);
                    return Ok(parts);
                }
                '\\' => {
                    let byte = self.escape()?;
                    plain.push(byte);
                    continue;
                }
                '%' => match self.percent()? {
                    Ok(part) => part,
                    Err(byte) => {
                        plain.push(byte);
                        continue;
                    }
                },
                c => {
                    plain.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            flush(&mut plain, &mut parts);
            parts.push(part);
        }
        if self.in_header {
            return Err("the brace behind %h is not closed".into());
        }
        flush(&mut plain, &mut parts);
        Ok(parts)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn escape(&mut self) -> Result<u8, String> {
        match self.next() {
            Some('n') => Ok(b'\n'),
            Some('t') => Ok(b'\t'),
            Some('r') => Ok(b'\r'),
            Some('0') => Ok(0),
            Some('\\') => Ok(b'\\'),
            Some('x') => {
                let digits = self.rest.get(..2).unwrap_or_default();
                let byte = u8::from_str_radix(digits, 16).ok();
                let byte = byte.filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = byte.ok_or("write two hex digits behind \\x")?;
                self.rest = &self.rest[2..];
                Ok(byte)
            }
            Some(other) => {
                Err(format!("\\{other} is unknown; write \\n \\t \\r \\0 \\xNN or \\\\"))
            }
            None => Err("a single \\ stands at the end; write \\\\".into()),
        }
    }

    /// A part, or a character that stands for itself.
    fn percent(&mut self) -> Result<Result<Part, u8>, String> {
        let Some(letter) = self.next() else {
            return Err("a single % stands at the end; write %%".into());
        };
        let part = match (letter, self.in_header) {
            ('%' | '{' | '}', _) => return Ok(Err(letter as u8)),
            ('k', _) => Part::Key(self.form()?),
            ('v' | 's', _) => Part::Value(self.form()?),
            ('K', _) => Part::KeyBytes,
            ('V' | 'S', _) => Part::ValueBytes,
            (_, true) => return Err(format!("%{letter} has no meaning in a header; %k and %v do")),
            ('t', _) => Part::Topic,
            ('p', _) => Part::Partition,
            ('o', _) => Part::Offset,
            ('H', _) => Part::HeaderCount,
            ('h', _) => Part::Headers(self.headers()?),
            ('d', _) => match self.modifier()? {
                None => Part::Millis,
                Some("rfc3339") => Part::Date,
                Some(other) => {
                    return Err(format!("%d{{{other}}} is unknown; write %d{{rfc3339}}"));
                }
            },
            _ => {
                let known = "%t %p %o %k %v %K %V %H %h %d and %%";
                return Err(format!("%{letter} is unknown; there are {known}"));
            }
        };
        Ok(Ok(part))
    }

    fn headers(&mut self) -> Result<Option<Vec<Part>>, String> {
        let Some(inner) = self.rest.strip_prefix('{') else { return Ok(None) };
        let mut parser = Parser { rest: inner, in_header: true };
        let parts = parser.parts()?;
        self.rest = &self.rest[self.rest.len() - parser.rest.len()..];
        Ok(Some(parts))
    }

    fn form(&mut self) -> Result<Form, String> {
        match self.modifier()? {
            None => Ok(Form::Plain),
            Some("hex") => Ok(Form::Hex),
            Some("base64") => Ok(Form::Base64),
            Some(other) => Err(format!("{{{other}}} is unknown; write {{hex}} or {{base64}}")),
        }
    }

    fn modifier(&mut self) -> Result<Option<&'a str>, String> {
        let Some(inner) = self.rest.strip_prefix('{') else { return Ok(None) };
        let (modifier, rest) = inner.split_once('}').ok_or("a brace is not closed; write }")?;
        self.rest = rest;
        Ok(Some(modifier))
    }
}

fn flush(plain: &mut Vec<u8>, parts: &mut Vec<Part>) {
    if !plain.is_empty() {
        parts.push(Part::Plain(std::mem::take(plain)));
    }
}

#[cfg(test)]
mod tests {
    use levee_client::RecordData;

    use super::*;

    fn written(format: &str) -> Vec<u8> {
        let data = RecordData {
            timestamp_ms: 2250,
            key: Some(Bytes::from_static(&[0xff, 0x0a])),
            value: None,
            headers: vec![("a".into(), Some("1".into())), ("b".into(), None)],
        };
        let record = DecodedRecord { offset: 7, data };
        let mut out = Vec::new();
        let format = Format::parse(format).unwrap_or_else(|why| panic!("{format}: {why}"));
        format.write(&mut out, "t", 3, &record).unwrap();
        out
    }

    #[test]
    fn records_are_written_as_the_format_says() {
        assert_eq!(written("%t/%p@%o\\n"), b"t/3@7\n");
        assert_eq!(written("%k"), [0xff, 0x0a]);
        assert_eq!(written("%k{hex} %k{base64}"), b"ff0a /wo=");
        assert_eq!(written("%K %V %S %H"), b"2 -1 -1 2");
        assert_eq!(written("[%v|%s]"), b"[|]");
        assert_eq!(written("%d %d{rfc3339}"), b"2250 1970-01-01T00:00:02.250Z");
        assert_eq!(written("%h"), b"a=1,b=");
        assert_eq!(written("%h{<%k{hex}=%v %V>}!"), b"<61=1 1><62= -1>!");
        assert_eq!(written("%h{%}%{}"), b"}{}{");
        assert_eq!(written("%%\\x00\\xfFé{}\\\\"), b"%\0\xff\xc3\xa9{}\\");
        assert_eq!(delimiter("\\t"), Ok("\t".into()));
        assert!(delimiter("").is_err());
        assert_eq!(Format::keyed("=>"), Format::parse("%k=>%v\\n").unwrap());
    }

    #[test]
    fn what_is_unknown_is_named() {
        let wrong = |format: &str| Format::parse(format).unwrap_err();
        assert!(wrong("%q").contains("%q is unknown"));
        assert!(wrong("%k{hax}").contains("{hax}"));
        assert!(wrong("%h{%t}").contains("header"));
        for format in ["%", "\\", "\\q", "\\x1", "\\x+1", "\\xé", "%k{hex", "%h{%k", "%d{x}"] {
            assert!(Format::parse(format).is_err(), "{format}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_format_is_too_strange(text in ".{0,20}", close in "[%h{}kvd\\\\x0fé]{0,20}") {
            let _ = Format::parse(&text);
            let _ = Format::parse(&close);
        }
    }
}
