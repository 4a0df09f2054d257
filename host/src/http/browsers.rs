//! Checks of requests from web pages. A page may send none, unless it is our own or an
//! operator has named its origin. A browser sends `Origin` or `Sec-Fetch-Site` with a request.
//! Other programs send neither, so only the check of the host applies to them.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW,
    HOST, ORIGIN, VARY,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::error::{Error, Reason};
use crate::http::answer::Answer;

/// The header in which a browser says where a request comes from when it names no origin.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// Paths that probes ask for. Any host is accepted for them.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/health"];
/// Pages that a link of another site may lead to.
const PAGES: [&str; 1] = ["/docs"];
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, \
     x-session-id, traceparent",
);
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static("etag, retry-after, x-request-id");
const ALLOWED_FOR: HeaderValue = HeaderValue::from_static("600");

/// The rules of one wire.
#[derive(Debug)]
pub struct Browsers {
    /// Names that the service is reached by, in lower case.
    allowed_hosts: Vec<String>,
    /// Origins whose pages may ask.
    cors_origins: Vec<String>,
    /// The wire listens on a loopback address.
    on_loopback: bool,
    /// The host of the last request that was admitted without a header of a browser. Most
    /// requests name the same one, and need no other check. All workers read it for every
    /// request, so it is written only when the host is another.
    last: ArcSwapOption<HeaderValue>,
}

impl Clone for Browsers {
    fn clone(&self) -> Self {
        Self {
            allowed_hosts: self.allowed_hosts.clone(),
            cors_origins: self.cors_origins.clone(),
            on_loopback: self.on_loopback,
            last: ArcSwapOption::empty(),
        }
    }
}

/// A request that may be answered.
pub struct Admitted {
    /// The origin whose page may read the answer.
    origin: Option<HeaderValue>,
}

impl Browsers {
    /// The rules of a wire on an address.
    pub fn new(allowed_hosts: &[String], cors_origins: &[String], address: IpAddr) -> Self {
        Self {
            allowed_hosts: allowed_hosts.to_vec(),
            cors_origins: cors_origins.to_vec(),
            on_loopback: address.to_canonical().is_loopback(),
            last: ArcSwapOption::empty(),
        }
    }

    /// Whether a request may be answered.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when it names no host, or two; `MISDIRECTED`; `FOREIGN_ORIGIN`.
    pub fn admit(&self, head: &Parts) -> Result<Admitted, Error> {
        let plain = plain_host(head);
        if plain.is_some() && self.last.load().as_deref() == plain {
            return Ok(Admitted { origin: None });
        }
        let admitted = self.look_at(head)?;
        if let Some(host) = plain.filter(|_| !PROBES.contains(&head.uri.path())) {
            self.last.store(Some(Arc::new(host.clone())));
        }
        Ok(admitted)
    }

    fn look_at(&self, head: &Parts) -> Result<Admitted, Error> {
        let probe = PROBES.contains(&head.uri.path());
        let Some(host) = named_host(head, probe)? else { return Ok(Admitted { origin: None }) };
        let known = self.knows(host.host());
        if !known && !probe && (self.on_loopback || !self.allowed_hosts.is_empty()) {
            return Err(Error::new(
                Reason::Misdirected,
                "The service is not known by the host that the request names; an operator adds \
                 it to ALLOWED_HOSTS.",
            ));
        }
        let Some(origin) = head.headers.get(ORIGIN) else {
            return self.without_origin(head);
        };
        if head.headers.get_all(ORIGIN).iter().count() == 1
            && let Ok(text) = origin.to_str()
        {
            if self.cors_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(text)) {
                return Ok(Admitted { origin: Some(origin.clone()) });
            }
            if known && is_of(text, &host) {
                return Ok(Admitted { origin: None });
            }
        }
        Err(foreign())
    }

    fn without_origin(&self, head: &Parts) -> Result<Admitted, Error> {
        let is = |name: &HeaderName, values: &[&str]| {
            let value = head.headers.get(name).map(HeaderValue::as_bytes);
            value.is_some_and(|value| values.iter().any(|wanted| wanted.as_bytes() == value))
        };
        let page = head.method == Method::GET && PAGES.contains(&head.uri.path());
        if is(&SITE, &["cross-site", "same-site"]) && !(page && is(&MODE, &["navigate"])) {
            return Err(foreign());
        }
        Ok(Admitted { origin: None })
    }

    /// Whether a host is certainly a name of this service: no other site can make a name of its
    /// own lead to it.
    fn knows(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        literal.unwrap_or(&host).parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.allowed_hosts.contains(&host)
    }
}

/// The host of a request that names one in one way, and nothing that a browser adds.
fn plain_host(head: &Parts) -> Option<&HeaderValue> {
    if head.uri.authority().is_some() {
        return None;
    }
    // Once over all of them is quicker than to look for each of three.
    let mut host = None;
    for (name, value) in &head.headers {
        if name == HOST {
            if host.replace(value).is_some() {
                return None;
            }
        } else if name == ORIGIN || name == SITE {
            return None;
        }
    }
    host
}

fn foreign() -> Error {
    Error::new(
        Reason::ForeignOrigin,
        "Web pages of other origins may not ask; an operator adds the origin to CORS_ORIGINS.",
    )
}

/// The one host that a request names. A probe over HTTP/1.0 needs none.
///
/// # Errors
/// `INVALID_REQUEST` when it names none, or two.
pub fn named_host(head: &Parts, is_probe: bool) -> Result<Option<Authority>, Error> {
    match host(head)? {
        None if is_probe && head.version <= Version::HTTP_10 => Ok(None),
        None => Err(Error::invalid("host", "is missing; name the host once")),
        named => Ok(named),
    }
}

fn host(head: &Parts) -> Result<Option<Authority>, Error> {
    let mut named = head.headers.get_all(HOST).iter();
    let given = named.next();
    if named.next().is_some() {
        return Err(Error::invalid("host", "is given more than once"));
    }
    let wrong = || Error::invalid("host", "is not the name of a host, with a port or without");
    let given = match given {
        None => None,
        Some(given) => {
            let authority = Authority::try_from(given.as_bytes()).map_err(|_| wrong())?;
            if authority.as_str().contains('@') || authority.host().is_empty() {
                return Err(wrong());
            }
            Some(authority)
        }
    };
    // The request line, or the pseudo-header of HTTP/2, says it too; both must agree.
    match (given, head.uri.authority()) {
        (Some(given), Some(line)) if given != *line => {
            Err(Error::invalid("host", "differs from the host in the request's target"))
        }
        (given, line) => Ok(given.or_else(|| line.cloned())),
    }
}

/// Whether an origin is that of the host: the same name and port.
fn is_of(origin: &str, host: &Authority) -> bool {
    let (scheme, rest) = origin.split_once("://").unwrap_or_default();
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    rest.parse::<Authority>().is_ok_and(|origin| {
        let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
        origin.host().eq_ignore_ascii_case(host.host()) && port(&origin) == port(host)
    })
}

impl Admitted {
    /// Adds the headers that say to a browser which requests a page may send to the path.
    pub fn allow(&self, head: &Parts, answer: &mut Answer) {
        if self.origin.is_none() || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return;
        }
        let headers = answer.headers_mut();
        if let Some(methods) = headers.get(ALLOW).cloned() {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, ALLOWED_FOR);
    }

    /// Lets the page that asked see the answer.
    pub fn show(self, headers: &mut HeaderMap) {
        if let Some(origin) = self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn admit(on_loopback: bool, line: &str, headers: &[(&str, &str)]) -> String {
        let browsers = Browsers {
            last: ArcSwapOption::empty(),
            allowed_hosts: vec!["sessions.example".into()],
            cors_origins: vec!["https://app.example".into()],
            on_loopback,
        };
        let browsers = match on_loopback {
            true => Browsers { allowed_hosts: Vec::new(), ..browsers },
            false => browsers,
        };
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        match browsers.admit(&head) {
            Ok(Admitted { origin: None }) => "yes".into(),
            Ok(Admitted { origin: Some(_) }) => "shown".into(),
            Err(error) => error.row().name.into(),
        }
    }

    #[test]
    fn pages_of_other_origins_are_distinguished_from_programs_and_our_own_pages() {
        let post = "POST /home/h/sessions/create";
        for (line, headers, expected) in [
            (post, &[("host", "127.0.0.1:8027")][..], "yes"),
            (post, &[("host", "[::1]:8027")], "yes"),
            (post, &[("host", "localhost")], "yes"),
            (post, &[("host", "a.localhost:1")], "yes"),
            (post, &[("host", "rebound.test:8027")], "MISDIRECTED"),
            (post, &[("host", "localhost.rebound.test")], "MISDIRECTED"),
            ("GET /livez", &[("host", "probe.test")], "yes"),
            ("GET /health", &[("host", "probe.test")], "yes"),
            (post, &[], "INVALID_REQUEST"),
            (post, &[("host", "a"), ("host", "a")], "INVALID_REQUEST"),
            (post, &[("host", "a@localhost")], "INVALID_REQUEST"),
            (post, &[("host", "local host")], "INVALID_REQUEST"),
            (post, &[("host", "localhost:8027"), ("origin", "http://localhost:8027")], "yes"),
            (
                post,
                &[("host", "localhost:8027"), ("origin", "http://localhost:3000")],
                "FOREIGN_ORIGIN",
            ),
            (post, &[("host", "localhost:8027"), ("origin", "http://evil.test")], "FOREIGN_ORIGIN"),
            (post, &[("host", "localhost"), ("origin", "http://localhost:80")], "yes"),
            (post, &[("host", "localhost"), ("origin", "null")], "FOREIGN_ORIGIN"),
            (post, &[("host", "localhost"), ("origin", "https://app.example")], "shown"),
            (
                post,
                &[
                    ("host", "localhost"),
                    ("origin", "https://app.example"),
                    ("origin", "http://localhost"),
                ],
                "FOREIGN_ORIGIN",
            ),
            (
                "GET /v1/connect",
                &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
                "FOREIGN_ORIGIN",
            ),
            (
                "GET /v1/connect",
                &[("host", "localhost"), ("sec-fetch-site", "same-site")],
                "FOREIGN_ORIGIN",
            ),
            ("GET /v1/connect", &[("host", "localhost"), ("sec-fetch-site", "same-origin")], "yes"),
            ("GET /v1/connect", &[("host", "localhost"), ("sec-fetch-site", "none")], "yes"),
            (
                "GET /docs",
                &[
                    ("host", "localhost"),
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                ],
                "yes",
            ),
            (
                "GET /docs",
                &[
                    ("host", "localhost"),
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "no-cors"),
                ],
                "FOREIGN_ORIGIN",
            ),
        ] {
            assert_eq!(admit(true, line, headers), expected, "{line} {headers:?}");
        }
    }

    #[test]
    fn behind_a_name_of_its_own_the_service_knows_that_name() {
        let get = "GET /v1/contexts";
        for (headers, expected) in [
            (&[("host", "Sessions.Example:443")][..], "yes"),
            (&[("host", "10.0.0.1")], "yes"),
            (&[("host", "other.example")], "MISDIRECTED"),
            (&[("host", "sessions.example"), ("origin", "https://sessions.example")], "yes"),
            (
                &[("host", "sessions.example:80"), ("origin", "https://sessions.example")],
                "FOREIGN_ORIGIN",
            ),
        ] {
            assert_eq!(admit(false, get, headers), expected, "{headers:?}");
        }
    }

    /// Such as in a cluster, where a service has many names.
    #[test]
    fn on_an_address_that_others_reach_any_name_is_taken_until_some_are_allowed() {
        let address = "10.0.0.1".parse().expect("an address");
        let request = Request::get("/v1/contexts").header(HOST, "sessions.default.svc");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        assert!(Browsers::new(&[], &[], address).admit(&head).is_ok());
        let allowed = ["sessions.example".to_owned()];
        assert!(Browsers::new(&allowed, &[], address).admit(&head).is_err());
        let loopback = "::ffff:127.0.0.1".parse().expect("an address");
        assert!(Browsers::new(&[], &[], loopback).admit(&head).is_err());
        // A page under such a name is not our own, as any site may have such a name.
        let origin = HeaderValue::from_static("http://sessions.default.svc");
        let mut page = head;
        page.headers.insert(ORIGIN, origin);
        assert!(Browsers::new(&[], &[], address).admit(&page).is_err());
    }
}
