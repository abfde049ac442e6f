//! Writing messages: small fields into one buffer, large bytes beside it without a copy.

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{Records, Uuid};

/// From here on bytes are shared: less is copied faster than it is written as a piece of its own.
const SHARED_FROM: usize = 1 << 10;

/// Longest text of a version that is not flexible.
const TEXT_MAX: usize = i16::MAX as usize;

/// What was written, in pieces.
#[derive(Debug, Default)]
pub struct Writer {
    pieces: Vec<Bytes>,
    open: BytesMut,
    /// In `pieces`.
    closed: usize,
    has_cut: bool,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.closed + self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Was a text cut? What is kept must be what was said.
    pub fn has_cut(&self) -> bool {
        self.has_cut
    }

    pub fn into_pieces(mut self) -> Vec<Bytes> {
        self.close();
        self.pieces
    }

    /// All in one piece.
    pub fn into_bytes(self) -> Bytes {
        Records(self.into_pieces()).into_bytes()
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed += self.open.len();
            self.pieces.push(self.open.split().freeze());
        }
    }

    fn put(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_FROM {
            self.open.put_slice(bytes);
            return;
        }
        self.close();
        self.closed += bytes.len();
        self.pieces.push(bytes.clone());
    }

    pub fn bool(&mut self, value: bool) {
        self.open.put_u8(u8::from(value));
    }

    pub fn i8(&mut self, value: i8) {
        self.open.put_i8(value);
    }

    pub fn i16(&mut self, value: i16) {
        self.open.put_i16(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.open.put_u16(value);
    }

    pub fn i32(&mut self, value: i32) {
        self.open.put_i32(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.open.put_u32(value);
    }

    pub fn i64(&mut self, value: i64) {
        self.open.put_i64(value);
    }

    pub fn f64(&mut self, value: f64) {
        self.open.put_f64(value);
    }

    pub fn uuid(&mut self, value: &Uuid) {
        self.open.put_slice(&value.0);
    }

    pub fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.open.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.open.put_u8(value as u8);
    }

    fn length(&mut self, flex: bool, short: bool, length: Option<usize>) {
        match (flex, short) {
            (true, _) => self.varint(length.map_or(0, |length| length as u32 + 1)),
            (false, true) => self.i16(length.map_or(-1, |length| length as i16)),
            (false, false) => self.i32(length.map_or(-1, |length| length as i32)),
        }
    }

    /// A null where the version has none is written as empty. What is longer than old versions can
    /// say is cut there: only texts for people are.
    pub fn nullable_string(&mut self, flex: bool, nullable: bool, text: Option<&str>) {
        let text = if nullable { text } else { Some(text.unwrap_or_default()) };
        let text = match text {
            Some(long) if !flex && long.len() > TEXT_MAX => {
                self.has_cut = true;
                Some(&long[..long.floor_char_boundary(TEXT_MAX)])
            }
            text => text,
        };
        self.length(flex, true, text.map(str::len));
        self.open.put_slice(text.unwrap_or_default().as_bytes());
    }

    pub fn string(&mut self, flex: bool, text: &str) {
        self.nullable_string(flex, false, Some(text));
    }

    pub fn nullable_bytes(&mut self, flex: bool, nullable: bool, bytes: Option<&Bytes>) {
        match bytes {
            Some(bytes) => self.bytes(flex, bytes),
            None => self.length(flex, false, (!nullable).then_some(0)),
        }
    }

    pub fn bytes(&mut self, flex: bool, bytes: &Bytes) {
        self.length(flex, false, Some(bytes.len()));
        self.put(bytes);
    }

    pub fn nullable_records(&mut self, flex: bool, nullable: bool, records: Option<&Records>) {
        match records {
            Some(records) => self.records(flex, records),
            None => self.length(flex, false, (!nullable).then_some(0)),
        }
    }

    pub fn records(&mut self, flex: bool, records: &Records) {
        let bytes = records.len();
        self.length(flex, false, Some(bytes));
        if bytes < SHARED_FROM {
            records.0.iter().for_each(|piece| self.put(piece));
            return;
        }
        self.close();
        self.closed += bytes;
        self.pieces.extend(records.0.iter().cloned());
    }

    pub fn nullable_list<T>(
        &mut self,
        flex: bool,
        nullable: bool,
        list: Option<&[T]>,
        each: impl FnMut(&mut Self, &T),
    ) {
        match list {
            Some(list) => self.list(flex, list, each),
            None => self.length(flex, false, (!nullable).then_some(0)),
        }
    }

    pub fn list<T>(&mut self, flex: bool, list: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.length(flex, false, Some(list.len()));
        list.iter().for_each(|item| each(self, item));
    }

    pub fn nullable_struct<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            None => self.i8(-1),
            Some(value) => {
                self.i8(1);
                write(self, value);
            }
        }
    }

    pub fn tagged_struct<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.varint(u32::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// The tagged fields that are set.
    pub fn tags(&mut self, tags: Tags) {
        self.varint(tags.0.len() as u32);
        for (tag, field) in tags.0 {
            self.varint(tag);
            self.varint(field.len() as u32);
            field.into_pieces().iter().for_each(|piece| self.put(piece));
        }
    }
}

/// Tagged fields of one struct; added in the order of their numbers.
#[derive(Debug, Default)]
pub struct Tags(Vec<(u32, Writer)>);

impl Tags {
    pub fn add(&mut self, tag: u32, write: impl FnOnce(&mut Writer)) {
        let mut field = Writer::new();
        write(&mut field);
        self.0.push((tag, field));
    }
}
