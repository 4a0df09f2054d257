//! Generates messages and clients from the public contract.

#![allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts by environment")]

#[path = "../host/proto/files.rs"]
mod files;

use anyhow::Result;
use prost_build::Config;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=../host/proto");
    let mut compiler = protox::Compiler::new(["../host/proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files::FILES)?;
    let mut config = Config::new();
    config.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
