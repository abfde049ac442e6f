//! Rust from schemas: a module a message, a type a struct, `decode` and `encode` by version.

use std::fmt::Write as _;

use crate::schema::{Field, Kind, Message, Struct, Versions};

pub(crate) fn generate(messages: &[Message]) -> String {
    let mut out = String::new();
    messages.iter().for_each(|message| module(&mut out, message));
    table(&mut out, messages);
    let mut all = String::new();
    for message in messages {
        let (module, name) = (snake(&message.name), &message.name);
        let _ = writeln!(all, "        $each!($crate::messages::{module}::{name});");
    }
    let _ = write!(
        out,
        "/// Calls a macro with the type of every message.\n#[macro_export]\n\
         macro_rules! for_each_message {{\n    ($each:ident) => {{\n{all}    }};\n}}\n"
    );
    out
}

fn module(out: &mut String, message: &Message) {
    let _ = write!(out, "pub mod {} {{\nuse super::prelude::*;\n", snake(&message.name));
    for made in &message.structs {
        declare(out, made);
        defaults(out, made);
        let (decode, encode) = (decoder(message, made), encoder(message, made));
        let name = &made.name;
        let (lo, hi) = (message.versions.start(), message.versions.end());
        let (head, visible) = if *name == message.name {
            let flexible = message.flexible.map_or("None".into(), |from| format!("Some({from})"));
            let head = format!(
                "impl Message for {name} {{\nconst NAME: &'static str = {name:?};\n\
                 const VERSIONS: RangeInclusive<i16> = {lo}..={hi};\n\
                 const FLEXIBLE_FROM: Option<i16> = {flexible};\n"
            );
            (head, "")
        } else {
            (format!("impl {name} {{\n"), "pub ")
        };
        let _ = writeln!(out, "{head}{visible}{decode}{visible}{encode}}}");
    }
    if let Some((key, true)) = message.api {
        let answer = message.name.replace("Request", "Response");
        let _ = write!(
            out,
            "impl Request for {} {{\nconst KEY: i16 = {key};\n\
             type Response = super::{}::{answer};\n}}\n",
            message.name,
            snake(&answer)
        );
    }
    out.push_str("}\n");
}

fn declare(out: &mut String, made: &Struct) {
    let natural = made.fields.iter().all(|f| f.default.is_none());
    let default = if natural { ", Default" } else { "" };
    let _ =
        write!(out, "#[derive(Debug, Clone, PartialEq{default})]\npub struct {} {{\n", made.name);
    for field in &made.fields {
        let _ = writeln!(out, "    pub {}: {},", field.name, type_of(field));
    }
    out.push_str("}\n");
}

fn defaults(out: &mut String, made: &Struct) {
    if made.fields.iter().all(|f| f.default.is_none()) {
        return;
    }
    let _ = write!(out, "impl Default for {} {{\nfn default() -> Self {{\nSelf {{\n", made.name);
    for field in &made.fields {
        let _ = writeln!(out, "{}: {},", field.name, default_of(field));
    }
    out.push_str("}\n}\n}\n");
}

fn default_of(field: &Field) -> String {
    match (&field.default, &field.kind) {
        (None, _) => "Default::default()".into(),
        (Some(value), Kind::Number(_) | Kind::Bool) => value.clone(),
        (Some(value), Kind::Struct(_) | Kind::List(_))
            if value == "empty" && field.nullable.is_some() =>
        {
            "Some(Default::default())".into()
        }
        (Some(value), _) => panic!("{}: no default {value} for this type", field.name),
    }
}

fn type_of(field: &Field) -> String {
    let plain = rust_type(&field.kind);
    if field.nullable.is_some() { format!("Option<{plain}>") } else { plain }
}

fn rust_type(kind: &Kind) -> String {
    match kind {
        Kind::Number(name) => (*name).into(),
        Kind::Bool => "bool".into(),
        Kind::Uuid => "Uuid".into(),
        Kind::Text => "String".into(),
        Kind::Bytes => "Bytes".into(),
        Kind::Records => "Records".into(),
        Kind::List(inner) => format!("Vec<{}>", rust_type(inner)),
        Kind::Struct(name) => name.clone(),
    }
}

/// A condition on `version`, inside of what is certain already; empty: always.
fn within(range: &Versions, certain: &Versions) -> String {
    let (from, to) = (range.start(), range.end());
    match (from <= certain.start(), to >= certain.end()) {
        (true, true) => String::new(),
        (true, false) => format!("version <= {to}"),
        (false, true) => format!("version >= {from}"),
        (false, false) => format!("({from}..={to}).contains(&version)"),
    }
}

fn or_true(condition: String) -> String {
    if condition.is_empty() { "true".into() } else { condition }
}

/// First line of both functions.
fn flex(message: &Message) -> String {
    let flex = match message.flexible {
        None => "false".into(),
        Some(from) => or_true(within(&(from..=i16::MAX), &message.versions)),
    };
    format!("let flex = {flex};\n")
}

fn decoder(message: &Message, made: &Struct) -> String {
    let mut out =
        String::from("fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {\n");
    out.push_str(&flex(message));
    out.push_str("let mut m = Self::default();\n");
    for field in made.fields.iter().filter(|f| f.tag.is_none()) {
        let place = format!("{}.{}", made.name, field.name);
        let read = format!("r.at({place:?});\nm.{} = {};\n", field.name, read_field(field));
        match within(&field.versions, &made.versions) {
            always if always.is_empty() => out.push_str(&read),
            when => out.push_str(&format!("if {when} {{\n{read}}}\n")),
        }
    }
    out.push_str("if flex {\nr.tags(|r, tag| {\nmatch tag {\n");
    for field in made.fields.iter().filter(|f| f.tag.is_some()) {
        let (tag, name) = (field.tag.unwrap_or_default(), &field.name);
        let when = match within(&field.versions, &made.versions) {
            always if always.is_empty() => always,
            when => format!(" if {when}"),
        };
        let place = format!("{}.{name}", made.name);
        let read = read_field(field);
        let _ = write!(out, "{tag}{when} => {{\nr.at({place:?});\nm.{name} = {read};\n}}\n");
    }
    out.push_str(
        "_ => return Ok(false),\n}\n#[allow(unreachable_code)]\nOk(true)\n})?;\n}\nOk(m)\n}\n",
    );
    out
}

fn read_field(field: &Field) -> String {
    let flex = if field.inflexible { "false" } else { "flex" };
    let Some(nullable) = &field.nullable else { return read(&field.kind, flex) };
    let null = or_true(within(nullable, &field.versions));
    match &field.kind {
        Kind::Text => format!("r.nullable_string({flex}, {null})?"),
        Kind::Bytes => format!("r.nullable_bytes({flex}, {null})?"),
        Kind::Records => format!("r.nullable_bytes({flex}, {null})?.map(Records::from)"),
        Kind::List(inner) => {
            format!("r.nullable_list({flex}, {null}, |r| Ok({}))?", read(inner, flex))
        }
        Kind::Struct(name) if field.tag.is_some() => {
            format!("r.tagged_struct(|r| {name}::decode(r, version))?")
        }
        Kind::Struct(name) => format!("r.nullable_struct({null}, |r| {name}::decode(r, version))?"),
        other => panic!("{}: {other:?} cannot be null", field.name),
    }
}

fn read(kind: &Kind, flex: &str) -> String {
    match kind {
        Kind::Number(name) => format!("r.{name}()?"),
        Kind::Bool => "r.bool()?".into(),
        Kind::Uuid => "r.uuid()?".into(),
        Kind::Text => format!("r.string({flex})?"),
        Kind::Bytes => format!("r.bytes({flex})?"),
        Kind::Records => format!("Records::from(r.bytes({flex})?)"),
        Kind::List(inner) => format!("r.list({flex}, |r| Ok({}))?", read(inner, flex)),
        Kind::Struct(name) => format!("{name}::decode(r, version)?"),
    }
}

fn encoder(message: &Message, made: &Struct) -> String {
    let mut out = String::from("fn encode(&self, w: &mut Writer, version: i16) {\n");
    out.push_str(&flex(message));
    for field in made.fields.iter().filter(|f| f.tag.is_none()) {
        let write = write_field(field);
        match within(&field.versions, &made.versions) {
            always if always.is_empty() => out.push_str(&write),
            when => out.push_str(&format!("if {when} {{\n{write}}}\n")),
        }
    }
    out.push_str("if flex {\nlet mut tags = Tags::default();\n");
    let mut tagged: Vec<&Field> = made.fields.iter().filter(|f| f.tag.is_some()).collect();
    tagged.sort_by_key(|field| field.tag);
    for field in tagged {
        let (tag, name) = (field.tag.unwrap_or_default(), &field.name);
        let when = match within(&field.versions, &made.versions) {
            always if always.is_empty() => always,
            when => format!("{when} && "),
        };
        let default = default_of(field);
        let (kind, write) = (type_of(field), write_field(field));
        let _ = write!(
            out,
            "let unset: {kind} = {default};\n\
             if {when}self.{name} != unset {{\ntags.add({tag}, |w| {{\n{write}}});\n}}\n"
        );
    }
    out.push_str("w.tags(tags);\n}\n}\n");
    out
}

fn write_field(field: &Field) -> String {
    let flex = if field.inflexible { "false" } else { "flex" };
    let name = format!("self.{}", field.name);
    let Some(nullable) = &field.nullable else {
        return match &field.kind {
            Kind::Number(_) | Kind::Bool => write(&field.kind, flex, &name),
            _ => write(&field.kind, flex, &format!("&{name}")),
        } + ";\n";
    };
    let null = or_true(within(nullable, &field.versions));
    match &field.kind {
        Kind::Text => format!("w.nullable_string({flex}, {null}, {name}.as_deref());\n"),
        Kind::Bytes => format!("w.nullable_bytes({flex}, {null}, {name}.as_ref());\n"),
        Kind::Records => format!("w.nullable_records({flex}, {null}, {name}.as_ref());\n"),
        Kind::List(inner) => {
            let each = write(inner, flex, element(inner));
            format!("w.nullable_list({flex}, {null}, {name}.as_deref(), |w, x| {each});\n")
        }
        Kind::Struct(_) => {
            let how = if field.tag.is_some() { "tagged" } else { "nullable" };
            format!("w.{how}_struct({name}.as_ref(), |w, x| x.encode(w, version));\n")
        }
        other => panic!("{}: {other:?} cannot be null", field.name),
    }
}

/// An element of a list is given by reference.
fn element(kind: &Kind) -> &'static str {
    match kind {
        Kind::Number(_) | Kind::Bool => "*x",
        _ => "x",
    }
}

fn write(kind: &Kind, flex: &str, value: &str) -> String {
    match kind {
        Kind::Number(name) => format!("w.{name}({value})"),
        Kind::Bool => format!("w.bool({value})"),
        Kind::Uuid => format!("w.uuid({value})"),
        Kind::Text => format!("w.string({flex}, {value})"),
        Kind::Bytes => format!("w.bytes({flex}, {value})"),
        Kind::Records => format!("w.records({flex}, {value})"),
        Kind::List(inner) => {
            format!("w.list({flex}, {value}, |w, x| {})", write(inner, flex, element(inner)))
        }
        Kind::Struct(_) => match value.strip_prefix('&') {
            Some(place) => format!("{place}.encode(w, version)"),
            None => format!("{value}.encode(w, version)"),
        },
    }
}

/// Every API that has a schema.
fn table(out: &mut String, messages: &[Message]) {
    let (mut keys, mut rows) = (String::new(), String::new());
    let mut requests: Vec<&Message> =
        messages.iter().filter(|m| matches!(m.api, Some((_, true)))).collect();
    requests.sort_by_key(|m| m.api);
    for request in requests {
        let Some((key, _)) = request.api else { continue };
        let name = request.name.trim_end_matches("Request");
        let (lo, hi) = (request.versions.start(), request.versions.end());
        let flexible = request.flexible.map_or("None".into(), |from| format!("Some({from})"));
        let _ = writeln!(keys, "    {name} = {key},");
        let _ = writeln!(
            rows,
            "    Api {{ key: ApiKey::{name}, name: {name:?}, versions: ({lo}, {hi}), \
             flexible_from: {flexible} }},"
        );
    }
    let _ = write!(
        out,
        "/// Number of an API.\n#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]\n\
         #[repr(i16)]\npub enum ApiKey {{\n{keys}}}\n\n\
         /// Every API that has a schema, by key.\npub const APIS: &[Api] = &[\n{rows}];\n"
    );
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
