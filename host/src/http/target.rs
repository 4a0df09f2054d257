//! What a request is for: a route of the contract, a page about it, or nothing; and the
//! methods that a path has.

use http::{HeaderName, HeaderValue, Method};

use crate::error::{Error, Reason};
use crate::http::answer::{self, Answer};
use crate::http::docs;
use crate::http::routes::{Action, PathRoutes, Route};
use crate::telemetry::Operation;

/// What a request is for.
pub enum Target<'a> {
    /// A route, what it counts, and its parameters.
    Route(&'a Route, &'a Operation, matchit::Params<'a, 'a>),
    /// The contract as OpenAPI.
    OpenApi,
    /// A part of the page that shows the contract.
    Docs(&'static docs::Asset),
    /// Nothing but what the path takes.
    Options(String),
    /// The path has other methods.
    OtherMethod(String),
    /// There is no such path.
    Nothing,
}

/// What a page about the contract takes.
pub const PAGE_METHODS: &str = "GET, HEAD, OPTIONS";

impl<'a> Target<'a> {
    /// A page, for one of the methods that pages have.
    pub fn page(method: &Method, page: Self) -> Self {
        match *method {
            Method::GET | Method::HEAD => page,
            Method::OPTIONS => Self::Options(PAGE_METHODS.into()),
            _ => Self::OtherMethod(PAGE_METHODS.into()),
        }
    }

    /// A route of a path, for one of the methods that it has.
    pub fn of_path(
        method: &Method,
        routes: &'a PathRoutes,
        params: matchit::Params<'a, 'a>,
    ) -> Self {
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let found = routes.iter().find(|(route, _)| route.http_method == *wanted);
        match found {
            Some((route, operation)) if method != Method::HEAD || may_be_peeked(route) => {
                Self::Route(route, operation, params)
            }
            _ if method == Method::OPTIONS => Self::Options(allowed(routes)),
            _ => Self::OtherMethod(allowed(routes)),
        }
    }
}

/// Whether the head of an answer can be had without the rest: not of one that goes on.
fn may_be_peeked(route: &Route) -> bool {
    route.http_method == Method::GET && !matches!(route.action, Action::Stream { .. })
}

/// The methods that a path has.
fn allowed(routes: &PathRoutes) -> String {
    let mut methods: Vec<_> = routes.iter().map(|(route, _)| route.http_method.as_str()).collect();
    if routes.iter().any(|(route, _)| may_be_peeked(route)) {
        methods.push(Method::HEAD.as_str());
    }
    methods.push(Method::OPTIONS.as_str());
    methods.join(", ")
}

/// Why a request has no reply.
pub struct Refusal {
    error: Error,
    /// A fact for clients beside the error.
    header: Option<(HeaderName, String)>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, header: None }
    }
}

impl Refusal {
    /// The path has only these methods.
    pub fn method(allowed: String) -> Self {
        let message = format!("The path takes {allowed} only.");
        let error = Error::new(Reason::MethodNotAllowed, message);
        Self { error, header: Some((http::header::ALLOW, allowed)) }
    }

    /// The answer that tells it.
    pub fn answer(self) -> Answer {
        let mut answer = answer::error(&self.error);
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::try_from(value)
        {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}
