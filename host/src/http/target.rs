//! The target of a request: a route of the contract, a page about it, or nothing; and the
//! methods that a path has.

use http::Method;

use crate::error::Error;
use crate::http::answer::{self, Answer};
use crate::http::docs;
use crate::http::routes::{Action, PathRoutes, Route};
use crate::telemetry::Operation;

/// The target of a request.
pub enum Target<'a> {
    /// A route, what it counts, and its parameters.
    Route(&'a Route, &'a Operation, matchit::Params<'a, 'a>),
    /// The contract as OpenAPI.
    OpenApi,
    /// A part of the page that shows the contract.
    Docs(&'static docs::Asset),
    /// The methods of the path, and nothing more.
    Options(String),
    /// The path has other methods.
    OtherMethod(String),
    /// There is no such path.
    Nothing,
}

/// The methods of a page about the contract.
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

    /// A route of a path, for one of the methods that it has. `one_time` says of a context
    /// whether what is read of it may be gone then.
    pub fn of_path(
        method: &Method,
        routes: &'a PathRoutes,
        params: matchit::Params<'a, 'a>,
        one_time: impl Fn(&str) -> bool,
    ) -> Self {
        // Whether the head of an answer can be had without the rest: not of one that goes
        // on, and not where reading has an effect.
        let has_head = |route: &Route| {
            let safe = match route.action {
                Action::Stream { .. } => false,
                Action::GetFlat => !params.get("context").is_some_and(&one_time),
                _ => true,
            };
            route.http_method == Method::GET && safe
        };
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let found = routes.iter().find(|(route, _)| route.http_method == *wanted);
        match found {
            Some((route, operation)) if method != Method::HEAD || has_head(route) => {
                Self::Route(route, operation, params)
            }
            _ if method == Method::OPTIONS => Self::Options(allowed(routes, has_head)),
            _ => Self::OtherMethod(allowed(routes, has_head)),
        }
    }
}

/// The methods that a path has.
fn allowed(routes: &PathRoutes, has_head: impl Fn(&Route) -> bool) -> String {
    let mut methods: Vec<_> = routes.iter().map(|(route, _)| route.http_method.as_str()).collect();
    if routes.iter().any(|(route, _)| has_head(route)) {
        methods.push(Method::HEAD.as_str());
    }
    methods.push(Method::OPTIONS.as_str());
    methods.join(", ")
}

/// Why a request has no reply.
pub enum Refusal {
    /// An error.
    Error(Error),
    /// The path has only these methods.
    Method(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Refusal {
    /// The answer for the caller.
    pub fn answer(self) -> Answer {
        match self {
            Self::Error(error) => answer::error(&error),
            Self::Method(allowed) => answer::method_not_allowed(&allowed),
        }
    }
}
