//! Generates the gRPC code without a protoc binary.

#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["log", "admin", "groups", "transactions"]
        .map(|name| format!("proto/levee/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .bytes(".levee.v1")
        .codec_path("crate::grpc::bounded::BoundedCodec")
        .file_descriptor_set_path(out.join("levee.bin"))
        .compile_fds(descriptors.clone())?;
    std::fs::write(out.join("levee.bin"), prost_bytes(&descriptors))?;
    Ok(())
}

fn prost_bytes(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
