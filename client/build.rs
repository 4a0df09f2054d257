//! Compiles the public contract to messages and clients, and lists its unary calls.

#![allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts by environment")]

#[path = "../host/proto/files.rs"]
mod files;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_build::Config;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};

/// The types that have the calls of a service; others have the service's own name.
const TYPES: [(&str, &str); 4] = [
    ("SessionManager", "Client"),
    ("UserSessions", "Users"),
    ("SM", "Viewing"),
    ("Device", "Devices"),
];

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=../host/proto");
    let mut compiler = protox::Compiler::new(["../host/proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files::FILES)?;
    let descriptors = compiler.file_descriptor_set();
    let mut calls = String::new();
    for file in &descriptors.file {
        for (index, service) in (0..).zip(&file.service) {
            calls += &of_service(file, index, service)?;
        }
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("calls.rs"), calls)?;
    let mut config = Config::new();
    config.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// A call of the macro `calls!` for a service.
fn of_service(
    file: &FileDescriptorProto,
    index: i32,
    service: &ServiceDescriptorProto,
) -> Result<String> {
    let name = service.name();
    let known = TYPES.iter().find(|(known, _)| *known == name);
    let type_ = known.map_or(name, |(_, type_)| type_);
    let module = module(file.package())?;
    let (client, camel) = (name.to_snake_case(), name.to_upper_camel_case());
    let mut call =
        format!("calls!({type_}, {module}::{client}_client::{camel}Client<Channel> {{\n");
    let methods = (0..).zip(&service.method).filter(|(_, method)| !method.server_streaming());
    for (at, method) in methods {
        for line in comment(file, &[6, index, 2, at]).lines() {
            writeln!(call, "    #[doc = {line:?}]")?;
        }
        writeln!(call, "    {}", row(method)?)?;
    }
    Ok(call + "});\n")
}

fn row(method: &MethodDescriptorProto) -> Result<String> {
    let level = method.options.as_ref().map(|options| options.idempotency_level());
    let repeatable = level.is_some_and(|level| level != IdempotencyLevel::IdempotencyUnknown);
    let repeat = if repeatable { "again" } else { "once" };
    let name = method.name().to_snake_case();
    let (request, reply) = (path(method.input_type())?, path(method.output_type())?);
    Ok(format!("{repeat} {name}({request}) -> {reply};"))
}

fn comment<'a>(file: &'a FileDescriptorProto, path: &[i32]) -> &'a str {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let location = locations.into_iter().find(|location| location.path == path);
    location.map_or("", |location| location.leading_comments())
}

/// The Rust path of a message by its full name.
fn path(full: &str) -> Result<String> {
    if full == ".google.protobuf.Empty" {
        return Ok("()".into());
    }
    let (package, name) = full.rsplit_once('.').context("a message has a package")?;
    Ok(format!("{}::{}", module(package)?, name.to_upper_camel_case()))
}

/// The module of a package: its last name that is not a version.
fn module(package: &str) -> Result<&str> {
    let mut names = package.rsplit('.').filter(|name| *name != "v1");
    names.next().filter(|name| !name.is_empty()).context("a file has a package")
}
