//! Makes the message types from `schema/*.txt` (their grammar: `build/schema.rs`).

#![allow(clippy::disallowed_methods)]

#[path = "build/schema.rs"]
mod schema;
#[path = "build/code.rs"]
mod code;

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=schema");
    println!("cargo:rerun-if-changed=build");
    let mut messages = Vec::new();
    let mut paths: Vec<_> = fs::read_dir("schema")
        .expect("the folder schema is beside this file")
        .map(|entry| entry.expect("the folder can be listed").path())
        .collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a schema is a text file");
        match schema::parse(&text) {
            Ok(more) => messages.extend(more),
            Err(why) => panic!("{}: {why}", path.display()),
        }
    }
    let out = env::var("OUT_DIR").expect("cargo says where to");
    fs::write(Path::new(&out).join("messages.rs"), code::generate(&messages))
        .expect("the output folder can be written");
}
