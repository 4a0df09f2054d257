//! Requests and replies over REST.

use serde_json::{Map, Value as Json};

use super::Refusal;
use crate::secrets;

/// Sends a request and reads its reply or refusal.
///
/// # Errors
/// The service's refusal. It has no reason when there was no complete reply.
///
/// # Panics
/// When the reply is not JSON.
pub async fn rest(request: reqwest::RequestBuilder) -> Result<Json, Refusal> {
    let unanswered = |error: reqwest::Error| Refusal {
        message: format!("no answer: {error}"),
        ..Refusal::default()
    };
    let response = request.send().await.map_err(unanswered)?;
    let status = response.status();
    let text = response.text().await.map_err(unanswered)?;
    let body: Json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    secrets::remember(&body);
    if status.is_success() { Ok(body) } else { Err(refusal(status.as_u16(), &body)) }
}

/// The refusal that the body of an error carries.
pub(super) fn refusal(http: u16, body: &Json) -> Refusal {
    let detail = |name: &str| {
        let details = body["details"].as_array().into_iter().flatten();
        let wanted = format!("type.googleapis.com/google.rpc.{name}");
        details.into_iter().find(|detail| detail["@type"] == wanted).cloned().unwrap_or_default()
    };
    let info = detail("ErrorInfo");
    assert_eq!(info["domain"], "session-manager", "{body}");
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let metadata = info["metadata"].as_object().into_iter().flatten();
    let bad = detail("BadRequest");
    let violations = bad["fieldViolations"].as_array().into_iter().flatten();
    Refusal {
        reason: text(&info["reason"]),
        code: body["code"].as_i64().and_then(|code| code.try_into().ok()).unwrap_or_default(),
        http,
        message: text(&body["message"]),
        metadata: metadata.map(|(name, value)| (name.clone(), text(value))).collect(),
        violations: violations.map(|violation| text(&violation["field"])).collect(),
        retry: detail("RetryInfo")["retryDelay"].is_string(),
    }
}

/// The members of a request.
pub(super) fn object(request: Json) -> Map<String, Json> {
    secrets::remember(&request);
    let Json::Object(request) = request else { panic!("a request is an object") };
    request
}

/// Builds a request. Members that the path does not name are sent in the body of a POST or a
/// PATCH, and in the query of any other request.
pub(super) fn request_of(
    http: &reqwest::Client,
    verb: &str,
    base: &str,
    path: &str,
    mut request: Map<String, Json>,
) -> reqwest::RequestBuilder {
    let mut url = reqwest::Url::parse(base).expect("an address");
    let segments = path.split('/').skip(1).map(|segment| {
        match segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}')) {
            Some(name) => {
                request.remove(name).unwrap_or_default().as_str().unwrap_or_default().into()
            }
            None => segment.to_owned(),
        }
    });
    url.path_segments_mut().expect("a URL with a path").extend(segments);
    let verb: reqwest::Method = verb.parse().expect("a verb");
    if matches!(verb, reqwest::Method::POST | reqwest::Method::PATCH) {
        return http.request(verb, url).json(&request);
    }
    for (name, value) in request.iter().filter(|(_, value)| !value.is_null()) {
        let items = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for item in items {
            let text = item.as_str().map_or_else(|| item.to_string(), Into::into);
            url.query_pairs_mut().append_pair(name, &text);
        }
    }
    http.request(verb, url)
}
