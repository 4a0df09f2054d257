//! Builds what the host embeds: the session component, compiled from the source of the workspace,
//! the code of the public gRPC contract, and the files of the API page.

#![allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts by environment")]

#[path = "proto/files.rs"]
mod files;
#[path = "build/operations.rs"]
mod operations;
#[allow(dead_code, reason = "the host uses the rest")]
#[path = "src/services.rs"]
mod services;

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost_build::Config;
use prost_reflect::DescriptorPool;

const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "component";

fn main() -> Result<()> {
    protos()?;
    swagger_ui()?;
    let component = component()?;
    println!("cargo::rustc-env=SESSION_COMPONENT={}", component.display());
    Ok(())
}

/// The file of the component, built if its sources have changed.
fn component() -> Result<PathBuf> {
    for source in [
        "guest/src",
        "guest/Cargo.toml",
        "store/src",
        "store/Cargo.toml",
        "wit",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed=../{source}");
    }
    add_target()?;
    // A directory of its own, as the outer build holds the lock of the usual
    // one; shared by all profiles of the host, as they embed the same component.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let target = out.ancestors().nth(4).context("OUT_DIR lies in a target directory")?;
    let target = target.join("component");
    let mut cargo = clean(&std::env::var("CARGO")?);
    let status = cargo
        .args(["build", "--package", "session-guest", "--lib"])
        .args(["--target", TARGET, "--profile", PROFILE, "--target-dir"])
        .arg(&target)
        .current_dir(workspace()?)
        .status()
        .context("cannot run cargo for the component")?;
    ensure!(status.success(), "the component (guest/) does not build; see above");
    let file = target.join(TARGET).join(PROFILE).join("session_guest.wasm");
    ensure!(file.exists(), "the build made no {}", file.display());
    Ok(file)
}

/// Makes sure that the compiler can build components.
fn add_target() -> Result<()> {
    let rustc = std::env::var("RUSTC")?;
    let installed = || -> Result<bool> {
        let arguments = ["--print", "target-libdir", "--target", TARGET];
        let output = clean(&rustc).args(arguments).output().context("cannot run rustc")?;
        let directory = String::from_utf8(output.stdout)?;
        Ok(output.status.success() && Path::new(directory.trim()).is_dir())
    };
    if installed()? {
        return Ok(());
    }
    let added =
        Command::new("rustup").args(["target", "add", TARGET]).current_dir(workspace()?).status();
    if added.is_ok_and(|status| status.success()) && installed()? {
        return Ok(());
    }
    bail!(
        "the Rust target {TARGET} is missing and could not be added; run: rustup target add {TARGET}"
    )
}

/// A command without the settings of the outer build, which are meant for the host.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        let outer =
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
        if outer.contains(&name.as_str()) || name.starts_with("CARGO_PROFILE_") {
            command.env_remove(name);
        }
    }
    command
}

fn workspace() -> Result<PathBuf> {
    let host = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    Ok(host.parent().context("the host lies in the workspace")?.to_owned())
}

/// The large files of Swagger UI, compressed as they are served.
fn swagger_ui() -> Result<()> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let release = Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED);
    let mut release = zip::ZipArchive::new(release)?;
    for name in ["swagger-ui-bundle.js", "swagger-ui.css"] {
        let path = format!("/dist/{name}");
        let mut names = release.file_names();
        let found = names.position(|name| name.is_ok_and(|name| name.ends_with(&path)));
        drop(names);
        let found = found.with_context(|| format!("Swagger UI has no {name}"))?;
        let file = File::create(out.join(format!("{name}.gz")))?;
        let mut compressed = GzEncoder::new(file, Compression::best());
        std::io::copy(&mut release.by_index(found)?, &mut compressed)?;
        compressed.finish()?;
    }
    Ok(())
}

/// Rust code, the tables of operations and replies, and the descriptors for reflection, REST
/// and OpenAPI.
fn protos() -> Result<()> {
    for source in ["proto", "build", "src/services.rs"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files::FILES)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(&descriptors[..])?;
    std::fs::write(out.join("operations.rs"), operations::table(&pool)?)?;
    std::fs::write(out.join("replies.rs"), operations::replies(&pool)?)?;
    std::fs::write(out.join("descriptors.bin"), descriptors)?;
    let mut config = Config::new();
    config.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::grpc::codec::Codec")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
