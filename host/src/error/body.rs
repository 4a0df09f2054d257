//! An error as JSON, in the form of grpc-gateway.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Error;

/// The members, in the order in which people read them.
#[derive(Serialize)]
struct Body<'a> {
    code: i32,
    message: &'a str,
    /// Proto3 JSON of messages of `google.rpc`.
    details: Vec<Value>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Error {
    /// The body of the reply, with a final newline.
    pub fn to_json(&self) -> Vec<u8> {
        Body::of(self).to_bytes()
    }

    /// The body of the reply, with one more member.
    pub fn to_json_with(&self, name: &str, value: &str) -> Vec<u8> {
        let mut body = Body::of(self);
        body.more.insert(name.into(), value.into());
        body.to_bytes()
    }
}

impl<'a> Body<'a> {
    fn of(error: &'a Error) -> Self {
        let row = error.row();
        let metadata: Map<String, Value> =
            error.metadata.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut details = vec![json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": row.name,
            "domain": "session-manager",
            "metadata": metadata,
        })];
        if !error.violations.is_empty() {
            let violations = error.violations.iter();
            let violations =
                violations.map(|v| json!({ "field": v.field, "description": v.description }));
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": violations.collect::<Vec<_>>(),
            }));
        }
        if let Some(after) = error.retry() {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}s", after.as_secs_f64()),
            }));
        }
        Self { code: row.code as i32, message: &error.message, details, more: Map::new() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("writing to memory does not fail");
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Violation;

    #[test]
    fn an_error_has_the_form_of_grpc_gateway() {
        let mut error = Error::violations(vec![Violation {
            field: "fleet_id".into(),
            description: "must be text".into(),
        }]);
        error.metadata.push(("a".into(), "b".into()));
        assert_eq!(
            json!(Body::of(&error)),
            json!({
                "code": 3,
                "message": "fleet_id must be text",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "INVALID_REQUEST",
                        "domain": "session-manager",
                        "metadata": { "a": "b" },
                    },
                    {
                        "@type": "type.googleapis.com/google.rpc.BadRequest",
                        "fieldViolations": [
                            { "field": "fleet_id", "description": "must be text" },
                        ],
                    },
                ],
            })
        );
    }
}
