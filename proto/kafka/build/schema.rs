//! The grammar of `schema/*.txt`: one line a field, two spaces a level.
//!
//! ```text
//! api KEY NAME                       the two messages of an API follow
//! request VERSIONS [flexible FROM+]
//! response VERSIONS [flexible FROM+]
//! message NAME VERSIONS [flexible FROM+]
//!   struct NAME                      fields of a type that the message uses more than once
//!   FIELD TYPE [VERSIONS] [tag N] [default VALUE] [inflexible]
//! ```
//!
//! VERSIONS: `3`, `3-5` or `3+`; a field without them is in all versions of what it stands in.
//! TYPE: `bool i8 i16 u16 i32 u32 i64 f64 string bytes records uuid`, `[]TYPE`, or the name of a
//! struct, whose fields follow one level deeper where it is used the first time. A `?` behind it:
//! may be null, in the versions behind the `?`, or in all. A null is the default then, or with
//! `default empty` something empty. Defaults of all others are zero, empty or false. `inflexible`:
//! as in old versions in all versions.
//!
//! Source: the protocol of Apache Kafka 4.3 (KIP-482 for flexible versions and tags).

use std::ops::RangeInclusive;

pub(crate) type Versions = RangeInclusive<i16>;

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    /// Of an API: its key, and whether this is the request.
    pub(crate) api: Option<(i16, bool)>,
    pub(crate) versions: Versions,
    /// First flexible version.
    pub(crate) flexible: Option<i16>,
    pub(crate) structs: Vec<Struct>,
}

impl Message {
    /// The place of a struct, made where it is new.
    fn struct_at(&mut self, name: &str, versions: &Versions) -> usize {
        let known = self.structs.iter().position(|s| s.name == name);
        known.unwrap_or_else(|| {
            let (name, versions) = (name.to_owned(), versions.clone());
            self.structs.push(Struct { name, versions, fields: Vec::new() });
            self.structs.len() - 1
        })
    }
}

#[derive(Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    /// In which it can occur.
    pub(crate) versions: Versions,
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) versions: Versions,
    pub(crate) nullable: Option<Versions>,
    pub(crate) tag: Option<u32>,
    pub(crate) default: Option<String>,
    pub(crate) inflexible: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Name of the Rust type, which is that of the reader's and writer's function too.
    Number(&'static str),
    Bool,
    Uuid,
    Text,
    Bytes,
    Records,
    List(Box<Kind>),
    Struct(String),
}

const NUMBERS: [&str; 7] = ["i8", "i16", "u16", "i32", "u32", "i64", "f64"];

pub(crate) fn parse(text: &str) -> Result<Vec<Message>, String> {
    let mut messages: Vec<Message> = Vec::new();
    let mut api = None;
    // Structs that are open, outermost first: their place in the message.
    let mut open: Vec<usize> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let failed = |why: &str| format!("line {}: {why}: {line}", number + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let depth = (line.len() - line.trim_start().len()) / 2;
        let words: Vec<&str> = line.split_whitespace().collect();
        if depth == 0 {
            open.clear();
            match words[..] {
                ["api", key, name] => {
                    let key = key.parse().map_err(|_| failed("no number"))?;
                    api = Some((key, name.to_owned()));
                }
                ["message", name, ref rest @ ..] => {
                    messages.push(message(name.to_owned(), None, rest).map_err(|e| failed(&e))?);
                }
                [word @ ("request" | "response"), ref rest @ ..] => {
                    let (key, name) = api.clone().ok_or_else(|| failed("no api before it"))?;
                    let is_request = word == "request";
                    let name = format!("{name}{}", if is_request { "Request" } else { "Response" });
                    let made = message(name, Some((key, is_request)), rest);
                    messages.push(made.map_err(|e| failed(&e))?);
                }
                _ => return Err(failed("not an api, request, response or message")),
            }
            continue;
        }
        let into = messages.last_mut().ok_or_else(|| failed("no message before it"))?;
        open.truncate(depth - 1);
        if let ["struct", name] = words[..] {
            let versions = into.versions.clone();
            let at = into.struct_at(name, &versions);
            into.structs[at].versions = versions;
            open = vec![at];
            continue;
        }
        let parent = match depth {
            1 => 0,
            _ => *open.last().ok_or_else(|| failed("too deep"))?,
        };
        let versions = into.structs[parent].versions.clone();
        let field = field(&words, versions).map_err(|e| failed(&e))?;
        if let Some(name) = struct_of(&field.kind) {
            open.push(into.struct_at(name, &field.versions));
        } else {
            open.push(usize::MAX);
        }
        into.structs[parent].fields.push(field);
    }
    Ok(messages)
}

fn message(name: String, api: Option<(i16, bool)>, words: &[&str]) -> Result<Message, String> {
    let [range, rest @ ..] = words else { return Err("no versions".into()) };
    let versions = versions(range, &(0..=i16::MAX))?;
    let flexible = match rest {
        [] => None,
        ["flexible", from] => Some(*self::versions(from, &versions)?.start()),
        _ => return Err("unknown words behind the versions".into()),
    };
    let top = Struct { name: name.clone(), versions: versions.clone(), fields: Vec::new() };
    Ok(Message { name, api, versions, flexible, structs: vec![top] })
}

fn field(words: &[&str], within: Versions) -> Result<Field, String> {
    let [name, kind, rest @ ..] = words else { return Err("no type".into()) };
    let (kind, null) = match kind.split_once('?') {
        Some((kind, null)) => (kind, Some(null)),
        None => (*kind, None),
    };
    let mut field = Field {
        name: (*name).to_owned(),
        kind: self::kind(kind),
        versions: within.clone(),
        nullable: None,
        tag: None,
        default: None,
        inflexible: false,
    };
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match *word {
            "tag" => field.tag = rest.next().and_then(|n| n.parse().ok()),
            "default" => field.default = rest.next().map(|v| (*v).to_owned()),
            "inflexible" => field.inflexible = true,
            range => field.versions = versions(range, &within)?,
        }
    }
    field.nullable = match null {
        None => None,
        Some("") => Some(field.versions.clone()),
        Some(range) => Some(versions(range, &field.versions)?),
    };
    Ok(field)
}

fn kind(text: &str) -> Kind {
    if let Some(inner) = text.strip_prefix("[]") {
        return Kind::List(Box::new(kind(inner)));
    }
    if let Some(number) = NUMBERS.iter().find(|n| **n == text) {
        return Kind::Number(number);
    }
    match text {
        "bool" => Kind::Bool,
        "uuid" => Kind::Uuid,
        "string" => Kind::Text,
        "bytes" => Kind::Bytes,
        "records" => Kind::Records,
        name => Kind::Struct(name.to_owned()),
    }
}

fn struct_of(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::Struct(name) => Some(name),
        Kind::List(inner) => struct_of(inner),
        _ => None,
    }
}

fn versions(text: &str, within: &Versions) -> Result<Versions, String> {
    let number = |text: &str| text.parse::<i16>().map_err(|_| format!("{text:?} is no version"));
    let (from, to) = match (text.strip_suffix('+'), text.split_once('-')) {
        (Some(from), _) => (number(from)?, *within.end()),
        (None, Some((from, to))) => (number(from)?, number(to)?),
        (None, None) => (number(text)?, number(text)?),
    };
    match from <= to && within.contains(&from) && within.contains(&to) {
        true => Ok(from..=to),
        false => Err(format!("versions {text} are not within {within:?}")),
    }
}
