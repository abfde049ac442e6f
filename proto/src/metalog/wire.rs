//! How a field of a MetaLog record becomes bytes: little-endian, counts before contents.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::codec::{FormatError, Reader};
use crate::ids::{LaneId, Nonce, PartitionId, SessionId, TopicId, Writer};

/// A value with one fixed encoding.
pub trait Wire: Sized {
    /// Fewest bytes a value can take; bounds what a count may claim. At least 1.
    const BYTES_MIN: usize;
    fn put(&self, out: &mut BytesMut);
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError>;
}

macro_rules! wire_int {
    ($($ty:ty: $bytes:literal, $put:ident, $get:ident;)*) => {$(
        impl Wire for $ty {
            const BYTES_MIN: usize = $bytes;
            fn put(&self, out: &mut BytesMut) {
                out.$put(*self);
            }
            fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
                r.$get()
            }
        }
    )*};
}

wire_int! {
    u8: 1, put_u8, u8;
    u16: 2, put_u16_le, u16;
    u32: 4, put_u32_le, u32;
    u64: 8, put_u64_le, u64;
    i64: 8, put_i64_le, i64;
    u128: 16, put_u128_le, u128;
}

macro_rules! wire_newtype {
    ($($ty:ident($inner:ty);)*) => {$(
        impl Wire for $ty {
            const BYTES_MIN: usize = <$inner as Wire>::BYTES_MIN;
            fn put(&self, out: &mut BytesMut) {
                self.0.put(out);
            }
            fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
                Wire::get(r).map(Self)
            }
        }
    )*};
}

wire_newtype! {
    TopicId(u128);
    Nonce(u128);
    Writer(u64);
}

impl Wire for bool {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        match r.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(r.error(format!("boolean {other}"))),
        }
    }
}

impl Wire for String {
    const BYTES_MIN: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.len() as u32);
        out.put_slice(self.as_bytes());
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let len = r.count(1)?;
        let bytes = r.take(len)?.to_vec();
        Self::from_utf8(bytes).map_err(|_| r.error("text is not UTF-8"))
    }
}

impl<T: Wire> Wire for Vec<T> {
    const BYTES_MIN: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.len() as u32);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let count = r.count(T::BYTES_MIN)?;
        (0..count).map(|_| T::get(r)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut BytesMut) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        bool::get(r)?.then(|| T::get(r)).transpose()
    }
}

impl Wire for BTreeMap<String, String> {
    const BYTES_MIN: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.len() as u32);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let count = r.count(8)?;
        (0..count).map(|_| Ok((String::get(r)?, String::get(r)?))).collect()
    }
}

impl Wire for SessionId {
    const BYTES_MIN: usize = 8;
    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.to_u64());
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self::from_u64(r.u64()?))
    }
}

impl Wire for LaneId {
    const BYTES_MIN: usize = 10;
    fn put(&self, out: &mut BytesMut) {
        self.session.put(out);
        out.put_u16_le(self.lane);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { session: SessionId::get(r)?, lane: r.u16()? })
    }
}

impl Wire for PartitionId {
    const BYTES_MIN: usize = 20;
    fn put(&self, out: &mut BytesMut) {
        self.topic.put(out);
        out.put_u32_le(self.partition);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { topic: TopicId::get(r)?, partition: r.u32()? })
    }
}

/// Defines structs whose encoding is their fields in order.
macro_rules! wire_struct {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }

        impl $crate::metalog::wire::Wire for $name {
            const BYTES_MIN: usize = 0 $(+ <$ty as $crate::metalog::wire::Wire>::BYTES_MIN)*;
            fn put(&self, out: &mut bytes::BytesMut) {
                $($crate::metalog::wire::Wire::put(&self.$field, out);)*
            }
            fn get(r: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::FormatError> {
                Ok(Self { $($field: $crate::metalog::wire::Wire::get(r)?,)* })
            }
        }
    )*};
}
pub(crate) use wire_struct;

/// Defines enums of plain values with stable numbers.
macro_rules! wire_enum {
    ($($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $crate::metalog::wire::Wire for $name {
            const BYTES_MIN: usize = 1;
            fn put(&self, out: &mut bytes::BytesMut) {
                bytes::BufMut::put_u8(out, *self as u8);
            }
            fn get(r: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::FormatError> {
                match r.u8()? {
                    $($value => Ok(Self::$variant),)*
                    other => Err(r.error(format!("{} {other}", stringify!($name)))),
                }
            }
        }
    )*};
}
pub(crate) use wire_enum;
