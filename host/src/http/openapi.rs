//! `GET /openapi.json`: OpenAPI 3.1, from the same annotations as the routes and
//! from what the running component says of its contexts. Each context gets its
//! own paths, so that its fields are described.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::error::TABLE;
use crate::http::routes::{self, Action, BodyRule, Route};
use crate::logic::{Context, Generation, Kind as FieldKind};

/// Where the document is.
pub const PATH: &str = "/openapi.json";

/// Makes the document, and keeps the one of the present generation.
pub struct OpenApi {
    routes: Vec<Route>,
    rendered: ArcSwapOption<(u64, Bytes)>,
}

impl OpenApi {
    /// A document for the annotated operations of `pool`.
    ///
    /// # Errors
    /// When an annotation is not understood.
    pub fn new(pool: &DescriptorPool) -> Result<Self> {
        Ok(Self { routes: routes::all(pool)?, rendered: ArcSwapOption::empty() })
    }

    /// The document for the contexts of one generation.
    pub fn document(&self, generation: &Generation) -> Bytes {
        if let Some(rendered) = &*self.rendered.load()
            && rendered.0 == generation.number
        {
            return rendered.1.clone();
        }
        let document = render(&self.routes, &generation.description().contexts);
        let bytes = Bytes::from(document.to_string());
        self.rendered.store(Some(std::sync::Arc::new((generation.number, bytes.clone()))));
        bytes
    }
}

fn render(routes: &[Route], contexts: &[Context]) -> Value {
    let mut document = Document::default();
    for route in routes {
        if route.template.contains("{context}") {
            for context in contexts {
                document.add(route, Some(context));
            }
        } else {
            document.add(route, None);
        }
    }
    document.finish()
}

#[derive(Default)]
struct Document {
    paths: BTreeMap<String, Map<String, Value>>,
    schemas: BTreeMap<String, Value>,
    ids: BTreeSet<String>,
}

impl Document {
    fn add(&mut self, route: &Route, context: Option<&Context>) {
        let path = match context {
            Some(context) => route.template.replace("{context}", &context.name),
            None => route.template.clone(),
        };
        let operation = self.operation(route, context, &path);
        let verb = route.http_method.as_str().to_ascii_lowercase();
        let alias = routes::has_users_alias(&path);
        let item = self.paths.entry(path).or_default();
        item.insert(verb, operation);
        if alias {
            let servers = json!([{ "url": "/" }, { "url": routes::USERS_ALIAS }]);
            item.insert("servers".into(), servers);
        }
    }

    fn operation(&mut self, route: &Route, context: Option<&Context>, path: &str) -> Value {
        let mut parameters = Vec::new();
        let mut query = Vec::new();
        for field in route.method.input().fields() {
            if path.contains(&format!("{{{}}}", field.name())) {
                let schema = match field.name() {
                    "session_key" => session_key(),
                    "account_id" | "device_id" | "pod_id" | "user_id" => identifier(),
                    _ => scalar(&field),
                };
                parameters.push(json!({
                    "name": field.name(),
                    "in": "path",
                    "required": true,
                    "description": comment(&field),
                    "schema": schema,
                }));
            } else if matches!(route.body, BodyRule::Nothing)
                && !route.template.contains(&format!("{{{}}}", field.name()))
            {
                query.push(json!({
                    "name": field.name(),
                    "in": "query",
                    "required": route.required.contains(&field),
                    "description": comment(&field),
                    "schema": self.field(&field, route.camel_case),
                }));
            }
        }
        if matches!(route.action, Action::Stream { .. }) {
            query.push(json!({
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The id of the event that was seen last.",
                "schema": { "type": "string" },
            }));
        }
        parameters.extend(query);
        let reply = match (&route.action, context) {
            (Action::GetFlat, Some(context)) => self.session(context),
            _ => self.reply(route),
        };
        let content = match route.action {
            // Each event has the name of a member of this, and the member for data.
            Action::Stream { .. } => json!({ "text/event-stream": { "schema": reply } }),
            _ => json!({ "application/json": { "schema": reply } }),
        };
        let mut operation = json!({
            "operationId": self.free_id(operation_id(route, context), path),
            "tags": [route.method.parent_service().full_name()],
            "summary": method_comment(route),
            "parameters": parameters,
            "responses": {
                "200": {
                    "description": "Done.",
                    "headers": { "x-request-id": { "schema": { "type": "string" } } },
                    "content": content,
                },
                "default": { "$ref": "#/components/responses/Error" },
            },
        });
        let body = match (&route.body, &route.action, context) {
            (BodyRule::Nothing, ..) => None,
            (_, Action::SetFlat, Some(context)) => Some((self.write(context), true)),
            (BodyRule::Field(field), ..) => {
                Some((self.given(field, route.camel_case), route.required.contains(field)))
            }
            (BodyRule::Whole, ..) => Some(self.body(route)),
        };
        if let Some((schema, required)) = body {
            operation["requestBody"] = json!({
                "required": required,
                "content": { "application/json": { "schema": schema } },
            });
        }
        operation
    }

    /// The id, or with the last of the path behind it when another binding has it.
    fn free_id(&mut self, mut id: String, path: &str) -> String {
        if self.ids.contains(&id) {
            id = format!("{id}_{}", path.rsplit('/').next().unwrap_or_default());
        }
        self.ids.insert(id.clone());
        id
    }

    /// What a read of a context answers.
    fn session(&mut self, context: &Context) -> Value {
        let mut properties = fields(context);
        properties.insert("session_key".into(), session_key());
        properties.insert("version".into(), uint64("The number of writes."));
        properties.insert("expires_at".into(), date_time("When the session ends."));
        let schema = json!({
            "type": "object",
            "required": ["session_key", "version"],
            "properties": properties,
            "additionalProperties": false,
        });
        self.named(format!("{}.Session", context.name), schema)
    }

    /// What a write of a context takes.
    fn write(&mut self, context: &Context) -> Value {
        let mut properties = fields(context);
        let mut key = session_key();
        key["minLength"] = json!(0);
        key["pattern"] = json!(format!("^{KEY_CHARACTERS}*$"));
        properties.insert("session_key".into(), key);
        properties.insert(
            "if_version".into(),
            uint64("Write only at this version; 0 means the session must not exist."),
        );
        properties.insert(
            "lock_token".into(),
            json!({ "type": "string", "description": "The token of the lock that the caller holds." }),
        );
        for (name, description) in
            [("version", "Ignored; replies have it."), ("expires_at", "Ignored; replies have it.")]
        {
            properties.insert(name.into(), json!({ "readOnly": true, "description": description }));
        }
        properties.values_mut().for_each(may_be_null);
        let schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        self.named(format!("{}.Write", context.name), schema)
    }

    /// What an operation answers.
    fn reply(&mut self, route: &Route) -> Value {
        match &route.response_body {
            None => self.message(&route.method.output(), route.camel_case),
            Some(field) => self.field(field, route.camel_case),
        }
    }

    /// What the body of an operation takes, all that is not in the path, and whether
    /// there has to be one: an empty body is an empty object.
    fn body(&mut self, route: &Route) -> (Value, bool) {
        let request = route.method.input();
        let in_path =
            |field: &FieldDescriptor| route.template.contains(&format!("{{{}}}", field.name()));
        let fields = request.fields().filter(|field| !in_path(field));
        let (mut schema, required) = self.members(fields, &route.required, route.camel_case);
        let needed = !required.is_empty();
        schema["required"] = json!(required);
        (schema, needed)
    }

    /// The schema of an object that is given in a request, and the names of the members that
    /// have to be there; the others may be null.
    fn members(
        &mut self,
        fields: impl Iterator<Item = FieldDescriptor>,
        required: &[FieldDescriptor],
        camel_case: bool,
    ) -> (Value, Vec<String>) {
        let (mut properties, mut names) = (Map::new(), Vec::new());
        for field in fields {
            let name = name(&field, camel_case).to_owned();
            let mut schema = self.given(&field, camel_case);
            if required.contains(&field) {
                names.push(name.clone());
            } else {
                may_be_null(&mut schema);
            }
            properties.insert(name, schema);
        }
        let schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        (schema, names)
    }

    /// The schema of a field that is given in a request.
    fn given(&mut self, field: &FieldDescriptor, camel_case: bool) -> Value {
        let mut schema = match (field.name(), field.kind()) {
            ("account_id" | "pod_id", _) => identifier(),
            // Of a login it may be empty.
            ("device_id", _) if camel_case => identifier(),
            (_, Kind::Message(inner)) if is_ours(&inner) => {
                self.members(inner.fields(), &[], camel_case).0
            }
            _ => self.field(field, camel_case),
        };
        describe(&mut schema, field);
        schema
    }

    /// The schema of a field.
    fn field(&mut self, field: &FieldDescriptor, camel_case: bool) -> Value {
        let one = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = self.field(&entry.map_entry_value_field(), camel_case);
                return json!({ "type": "object", "additionalProperties": value });
            }
            Kind::Message(inner) => self.message(&inner, camel_case),
            _ => scalar(field),
        };
        if field.is_list() { json!({ "type": "array", "items": one }) } else { one }
    }

    /// The schema of a message in proto3 JSON.
    fn message(&mut self, message: &MessageDescriptor, camel_case: bool) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => return date_time(""),
            // The one there is has texts.
            "google.protobuf.ListValue" => {
                return json!({ "type": "array", "items": { "type": "string" } });
            }
            "google.protobuf.Duration" => {
                return json!({ "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$" });
            }
            _ => {}
        }
        if !self.schemas.contains_key(message.full_name()) {
            let mut properties = Map::new();
            for field in message.fields() {
                let mut schema = self.field(&field, camel_case);
                describe(&mut schema, &field);
                properties.insert(name(&field, camel_case).into(), schema);
            }
            let schema = json!({
                "type": "object",
                "properties": properties,
                "additionalProperties": false,
            });
            self.schemas.insert(message.full_name().into(), schema);
        }
        reference(message.full_name())
    }

    fn named(&mut self, name: String, schema: Value) -> Value {
        let reference = reference(&name);
        self.schemas.insert(name, schema);
        reference
    }

    fn finish(mut self) -> Value {
        let mut reasons: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        reasons.sort_unstable();
        self.schemas.insert("Error".into(), error_schema(&reasons));
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Session Manager",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Sessions as a service. The same operations are served over gRPC.",
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "paths": self.paths,
            "components": {
                "schemas": self.schemas,
                "responses": {
                    "Error": {
                        "description": "The request has no result; `details` say why.",
                        "content": { "application/json": { "schema": reference("Error") } },
                    },
                },
            },
        })
    }
}

/// What the id of an account, a user, a device or a pod may be: no control characters.
const IDENTIFIER: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";
/// The characters of a session key, as a class of a regular expression.
const KEY_CHARACTERS: &str = r#"[!"$-.0->@-z|~]"#;

/// Whether a message is one of the contract's own, and no well-known one.
fn is_ours(message: &MessageDescriptor) -> bool {
    !message.full_name().starts_with("google.protobuf.")
}

/// Adds what the contract says of a field.
fn describe(schema: &mut Value, field: &FieldDescriptor) {
    if schema.get("$ref").is_none() {
        schema["description"] = json!(comment(field));
    }
    let options = field.field_descriptor_proto().options.as_ref();
    if options.is_some_and(|options| options.deprecated()) {
        schema["deprecated"] = json!(true);
    }
}

/// A member that need not be given may be null instead, as proto3 JSON has it.
fn may_be_null(schema: &mut Value) {
    match &mut schema["type"] {
        // It may be anything.
        Value::Null => drop(schema.as_object_mut().map(|schema| schema.remove("type"))),
        Value::Array(types) => types.push(json!("null")),
        one => *one = json!([one.take(), "null"]),
    }
}

/// How a field is called in JSON.
fn name(field: &FieldDescriptor, camel_case: bool) -> &str {
    if camel_case { field.json_name() } else { field.name() }
}

/// The id of an account or a device.
fn identifier() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 256, "pattern": IDENTIFIER })
}

fn session_key() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "pattern": format!("^{KEY_CHARACTERS}+$"),
        "description": "1 to 256 visible ASCII characters, none of { } / ? #.",
    })
}

fn fields(context: &Context) -> Map<String, Value> {
    let schema = |kind| match kind {
        FieldKind::Document => json!({
            "description":
                "Any JSON value; bytes that are not JSON as {\"$bytes\": \"<base64>\"}.",
        }),
        FieldKind::Text => json!({ "type": "string" }),
        FieldKind::Boolean => json!({ "type": "boolean" }),
        FieldKind::Number => json!({ "type": "number" }),
    };
    context.fields.iter().map(|field| (field.name.clone(), schema(field.kind))).collect()
}

/// The schema of a field that is no message, in proto3 JSON.
fn scalar(field: &FieldDescriptor) -> Value {
    match field.kind() {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Double | Kind::Float => json!({ "type": "number" }),
        Kind::Uint64 | Kind::Fixed64 => uint64(""),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({
            "type": ["string", "integer"],
            "format": "int64",
            "pattern": "^-?[0-9]{1,19}$",
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({ "type": "integer", "format": "int32" })
        }
        Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0 }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        _ => json!({ "type": "string" }),
    }
}

/// A 64-bit number, which proto3 JSON writes as a string and reads as either.
fn uint64(description: &str) -> Value {
    json!({
        "type": ["string", "integer"],
        "format": "uint64",
        "pattern": "^[0-9]{1,20}$",
        "minimum": 0,
        "description": description,
    })
}

fn date_time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// `<Service>_<Method>`, and behind it what tells one binding of it from the others.
fn operation_id(route: &Route, context: Option<&Context>) -> String {
    let service = route.method.parent_service();
    let verb = match (&route.action, route.http_method.as_str()) {
        (Action::SetFlat, "POST") => "Create",
        _ => route.method.name(),
    };
    let id = format!("{}_{verb}", service.name());
    match (context, &route.response_body) {
        (Some(context), _) => format!("{id}_{}", context.name),
        (None, Some(only)) => format!("{id}_{}", only.name()),
        (None, None) => id,
    }
}

/// The comment of a method in the contract.
fn method_comment(route: &Route) -> String {
    let file = route.method.parent_file();
    comment_at(&file, route.method.path())
}

/// The comment of a field in the contract.
fn comment(field: &FieldDescriptor) -> String {
    comment_at(&field.parent_file(), field.path())
}

fn comment_at(file: &prost_reflect::FileDescriptor, path: &[i32]) -> String {
    let descriptor = file.file_descriptor_proto();
    let locations = descriptor.source_code_info.iter().flat_map(|info| &info.location);
    let location = locations.into_iter().find(|location| location.path == path);
    let text = location.map_or("", |location| location.leading_comments());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn error_schema(reasons: &[&str]) -> Value {
    json!({
        "type": "object",
        "required": ["code", "message", "details"],
        "properties": {
            "code": { "type": "integer", "description": "A code of google.rpc.Code." },
            "message": { "type": "string", "description": "One sentence for people." },
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["@type"],
                    "properties": {
                        "@type": { "type": "string" },
                        "reason": { "enum": reasons },
                        "domain": { "const": "session-manager" },
                        "metadata": {
                            "type": "object",
                            "additionalProperties": { "type": "string" },
                        },
                        "fieldViolations": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "field": { "type": "string" },
                                    "description": { "type": "string" },
                                },
                            },
                        },
                        "retryDelay": { "type": "string" },
                    },
                },
            },
        },
    })
}
