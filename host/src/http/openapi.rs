//! `GET /openapi.json`: OpenAPI 3.1, from the same annotations as the routes and
//! from the contexts of the running component. Each context gets its own paths,
//! so that its fields are described.

mod comments;
mod examples;
mod failures;
mod operations;
mod schemas;
mod tags;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use prost_reflect::DescriptorPool;
use serde_json::{Map, Value, json};

use crate::http::routes::{self, Route};
use crate::logic::{Context, Generation};
use examples::Made;
use schemas::Schemas;

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
        let document = render(&self.routes, generation);
        let bytes = Bytes::from(document.to_string());
        self.rendered.store(Some(std::sync::Arc::new((generation.number, bytes.clone()))));
        bytes
    }
}

fn render(routes: &[Route], generation: &Generation) -> Value {
    let mut document = Document::default();
    let contexts = &generation.description().contexts;
    let is_served = |route: &&Route| route.kind.is_none_or(|kind| generation.serves(kind));
    for route in routes.iter().filter(is_served) {
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
    schemas: Schemas,
    ids: BTreeSet<String>,
    /// The headings of the operations.
    tags: BTreeSet<&'static str>,
    /// The values that operations take from the answers of others, by the id of the operation
    /// that takes one.
    made: Vec<(String, Made)>,
}

impl Document {
    fn add(&mut self, route: &Route, context: Option<&Context>) {
        let path = match context {
            Some(context) => route.template.replace("{context}", &context.name),
            None => route.template.clone(),
        };
        self.tags.insert(tags::of(route.method.parent_service().full_name()));
        let id = self.free_id(operations::id(route, context), &path);
        let operation = operations::operation(&mut self.schemas, route, context, &id);
        let made = examples::all_made(route, context).into_iter();
        self.made.extend(made.map(|made| (id.clone(), made)));
        let verb = route.http_method.as_str().to_ascii_lowercase();
        let alias = routes::has_users_alias(&path);
        let item = self.paths.entry(path).or_default();
        item.insert(verb, operation);
        if alias {
            let below = routes::USERS_ALIAS.trim_start_matches('/');
            item.insert("servers".into(), json!([{ "url": HERE }, { "url": below }]));
        }
    }

    /// The id, or with the last of the path behind it when another binding has it.
    fn free_id(&mut self, mut id: String, path: &str) -> String {
        if self.ids.contains(&id) {
            id = format!("{id}_{}", path.rsplit('/').next().unwrap_or_default());
        }
        self.ids.insert(id.clone());
        id
    }

    /// Adds to each operation that makes a value the links to the operations that take it.
    fn link(&mut self) {
        let operations = self.paths.values_mut().flat_map(|item| item.values_mut());
        for operation in operations {
            let Some(id) = operation["operationId"].as_str().map(str::to_owned) else { continue };
            let takers = self.made.iter().filter(|(_, made)| made.by == id);
            let links: Map<String, Value> = takers.map(|(taker, made)| link(taker, made)).collect();
            if !links.is_empty() {
                operation["responses"]["200"]["links"] = links.into();
            }
        }
    }

    fn finish(mut self) -> Value {
        self.link();
        self.schemas.named("Error".into(), failures::schema());
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Session Manager",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "Sessions as a service. The same operations are served over gRPC.",
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "servers": [{ "url": HERE }],
            "tags": tags::all(&self.tags),
            "paths": self.paths,
            "components": {
                "schemas": self.schemas.into_inner(),
                "responses": failures::responses(),
            },
        })
    }
}

/// The address that the document came from: a proxy may serve it below a path of its own.
const HERE: &str = ".";

/// How an operation takes what another one makes.
fn link(taker: &str, made: &Made) -> (String, Value) {
    let value = format!("$response.body#{}", made.pointer);
    let mut members = Map::new();
    members.insert(made.taken_by.clone(), value.into());
    let member = if made.in_body { "requestBody" } else { "parameters" };
    (taker.to_owned(), json!({ "operationId": taker, member: members }))
}
