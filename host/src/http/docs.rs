//! The contract as a page to browse and to try: Swagger UI over `/openapi.json`, all of it
//! in the binary. Its two large files are kept compressed, as browsers take them.

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY};

use crate::http::answer::{self, Answer};

/// The page.
pub const PATH: &str = "/docs";

/// The page asks this server and no other for anything.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
/// It changes with the binary.
const FOR_AN_HOUR: HeaderValue = HeaderValue::from_static("max-age=3600");

/// A part of the page.
pub struct Asset {
    path: &'static str,
    content_type: HeaderValue,
    compressed: bool,
    body: &'static [u8],
}

static ASSETS: [Asset; 4] = [
    Asset {
        path: PATH,
        content_type: HeaderValue::from_static("text/html; charset=utf-8"),
        compressed: false,
        body: include_bytes!("docs/index.html"),
    },
    Asset {
        path: "/docs/start.js",
        content_type: HeaderValue::from_static("text/javascript; charset=utf-8"),
        compressed: false,
        body: include_bytes!("docs/start.js"),
    },
    Asset {
        path: "/docs/swagger-ui-bundle.js",
        content_type: HeaderValue::from_static("text/javascript; charset=utf-8"),
        compressed: true,
        body: include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz")),
    },
    Asset {
        path: "/docs/swagger-ui.css",
        content_type: HeaderValue::from_static("text/css; charset=utf-8"),
        compressed: true,
        body: include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz")),
    },
];

/// The part of the page at a path.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    /// The part as an answer.
    pub fn answer(&self) -> Answer {
        let mut answer = answer::of_type(self.content_type.clone(), Bytes::from_static(self.body));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(CACHE_CONTROL, FOR_AN_HOUR);
        if self.compressed {
            headers.insert(CONTENT_ENCODING, GZIP);
        }
        answer
    }
}
