//! The tables that the wires are made from: all operations of the contract, and the members of
//! their replies in JSON. Each is a macro or a list of its calls; what a row becomes stands in
//! the wire that uses it.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_reflect::{
    DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

use crate::services::{self, Service};

/// `operations!`, which hands the table of all operations to another macro: for each service
/// those that REST has too, those that only gRPC has, and those that stream replies.
pub fn table(pool: &DescriptorPool) -> Result<String> {
    let mut rows = String::new();
    let http = http(pool)?;
    for service in pool.services() {
        rows += &of_service(&service, &http)?;
    }
    Ok(format!(
        "macro_rules! operations {{\n    ($then:ident) => {{\n        $then! {{\n{rows}        }}\n    }};\n}}\n"
    ))
}

/// The annotation by which REST has an operation.
fn http(pool: &DescriptorPool) -> Result<ExtensionDescriptor> {
    let http = pool.get_extension_by_name("google.api.http");
    http.context("the descriptors hold google.api.http")
}

fn of_service(service: &ServiceDescriptor, http: &ExtensionDescriptor) -> Result<String> {
    let name = service.full_name();
    let known = Service::named(name);
    let module = known.with_context(|| format!("{name} is not in host/src/services.rs"))?.module;
    let (mut routed, mut unrouted, mut streams) = (String::new(), String::new(), String::new());
    for method in service.methods() {
        ensure!(!method.is_client_streaming(), "{} streams requests", method.full_name());
        if method.is_server_streaming() {
            let stream = format!(", {}Stream", method.name().to_upper_camel_case());
            streams += &row(&method, &stream);
        } else if method.options().has_extension(http) {
            routed += &row(&method, "");
        } else {
            unrouted += &row(&method, "");
        }
    }
    let package = package(service.package_name());
    let (server, server_trait) = (service.name().to_snake_case(), camel(service.name()));
    Ok(format!(
        "            {package}::{server}_server::{server_trait} => {module} {{\n\
         \x20               routed {{\n{routed}                }}\n\
         \x20               unrouted {{\n{unrouted}                }}\n\
         \x20               streams {{\n{streams}                }}\n            }}\n"
    ))
}

fn row(method: &MethodDescriptor, stream: &str) -> String {
    let operation = format!("{}/{}", method.parent_service().full_name(), method.name());
    let answer = if services::is_secret(&operation) { "secret" } else { "plain" };
    let function = method.name().to_snake_case();
    let (request, reply) = (path(&method.input()), path(&method.output()));
    format!(
        "                    {answer} \"{operation}\" {function}({request}) -> {reply}{stream};\n"
    )
}

/// Calls of `message!` for the replies that REST answers with, and for what is in them.
pub fn replies(pool: &DescriptorPool) -> Result<String> {
    let http = http(pool)?;
    let (mut wanted, mut calls) = (Vec::new(), String::new());
    for service in pool.services() {
        let camel_case = Service::named(service.full_name()).is_some_and(|known| known.camel_case);
        let served = service.methods().filter(|method| method.options().has_extension(&http));
        wanted.extend(served.map(|method| (method.output(), camel_case)));
    }
    let mut seen = BTreeSet::new();
    while let Some((message, camel_case)) = wanted.pop() {
        let well_known = message.package_name() == "google.protobuf";
        if well_known || !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        let inner = message.fields().filter_map(|field| match field.kind() {
            Kind::Message(inner) if !inner.is_map_entry() => Some(inner),
            Kind::Message(entry) => match entry.map_entry_value_field().kind() {
                Kind::Message(inner) => Some(inner),
                _ => None,
            },
            _ => None,
        });
        wanted.extend(inner.map(|inner| (inner, camel_case)));
        calls += &members(&message, camel_case)?;
    }
    Ok(calls)
}

fn members(message: &MessageDescriptor, camel_case: bool) -> Result<String> {
    let json = |field: &FieldDescriptor| {
        if camel_case { field.json_name().to_owned() } else { field.name().to_owned() }
    };
    let in_oneof = |field: &FieldDescriptor| {
        field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
    };
    let mut call = format!("message! {{ {} {{", path(message));
    for field in message.fields().filter(|field| !in_oneof(field)) {
        write!(call, " {:?} r#{}", json(&field), field.name().to_snake_case())?;
    }
    call += " }";
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let within = path(message).to_owned();
        let (package, name) = within.rsplit_once("::").context("a message has a package")?;
        let module = format!("{package}::{}", name.to_snake_case());
        write!(call, " r#{} {{", oneof.name().to_snake_case())?;
        for field in oneof.fields() {
            let (type_, variant) = (camel(oneof.name()), camel(field.name()));
            write!(call, " {:?} {module}::{type_}::{variant},", json(&field))?;
        }
        call += " }";
    }
    Ok(call + " }\n")
}

/// The Rust path of a message.
fn path(message: &MessageDescriptor) -> String {
    match message.full_name() {
        "google.protobuf.Empty" => "()".into(),
        _ => format!("{}::{}", package(message.package_name()), camel(message.name())),
    }
}

fn package(package: &str) -> String {
    format!("crate::proto::{}", package.replace('.', "::"))
}

fn camel(name: &str) -> String {
    name.to_upper_camel_case()
}
