//! Checked values by name, each with where it came from, and their way into typed fields.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use levee_proto::metalog::DurabilityClass;

use super::advertised::Advertised;
use super::bucket_url::BucketUrl;
use super::choices::{CleanupPolicy, LagPolicy, LocalFlush, TimestampType};
use super::setting::{Setting, Value, ratio};

/// Where a value came from; later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(Arc<str>),
    Env(Arc<str>),
    Set,
    Flag(&'static str),
    /// Set on the topic itself.
    Topic,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Set => f.write_str("--set"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Topic => f.write_str("topic"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) setting: &'static Setting,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// By setting name; names are unique over both scopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Values {
    held: BTreeMap<&'static str, Held>,
}

impl Values {
    pub(super) fn put(&mut self, setting: &'static Setting, value: Value, origin: Origin) {
        self.held.insert(setting.name, Held { setting, value, origin });
    }

    pub(super) fn get(&self, name: &str) -> Option<&Held> {
        self.held.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// For a name of the table, once every setting has a value.
    pub(super) fn held(&self, name: &str) -> &Held {
        self.held.get(name).expect("loading gives every setting of the table a value")
    }

    pub(super) fn typed<T: FromValue>(&self, name: &str) -> T {
        T::from_value(&self.held(name).value).expect("type and kind of each row agree (tested)")
    }
}

/// `None`: the value is of another kind.
pub(super) trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $out:expr;)*) => {$(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $pattern => Some($out),
                    _ => None,
                }
            }
        }
    )*};
}

from_value! {
    u64: Value::Bytes(bytes) => *bytes;
    u32: Value::Int(number) => u32::try_from(*number).ok()?;
    f64: Value::Ratio(millionths) => ratio(*millionths);
    bool: Value::Bool(flag) => *flag;
    Duration: Value::Duration(duration) => *duration;
    String: Value::Text(text) => text.clone();
    PathBuf: Value::Text(text) => PathBuf::from(text);
    BucketUrl: Value::Url(url) => url.clone();
    SocketAddr: Value::Addr(addr) => *addr;
    Advertised: Value::Advertised(rules) => rules.clone();
    DurabilityClass: Value::Text(text) => match text.as_str() {
        "object" => Self::Object,
        "local" => Self::Local,
        _ => return None,
    };
    LocalFlush: Value::Text(text) => match text.as_str() {
        "always" => Self::Always,
        "interval" => Self::Interval,
        _ => return None,
    };
    TimestampType: Value::Text(text) => match text.as_str() {
        "CreateTime" => Self::CreateTime,
        "LogAppendTime" => Self::LogAppendTime,
        _ => return None,
    };
    LagPolicy: Value::Text(text) => match text.as_str() {
        "block" => Self::Block,
        "shed" => Self::Shed,
        _ => return None,
    };
    CleanupPolicy: Value::Text(text) => match text.as_str() {
        "delete" => Self::Delete,
        "compact" => Self::Compact,
        "compact,delete" | "delete,compact" => Self::CompactDelete,
        _ => return None,
    };
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Absent => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
