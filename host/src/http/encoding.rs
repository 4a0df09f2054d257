//! Compresses large answers for clients that accept gzip. Answers with a secret are never
//! compressed: their length would reveal it to an attacker who adds text to them (BREACH).

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderValue};

use crate::http::answer::{Answer, Body};

/// Answers with fewer bytes stay as they are.
const BYTES_MIN: usize = 1 << 10;
/// How many bytes are compressed before other tasks have their turn.
const PART_BYTES: usize = 64 << 10;

/// Compresses an answer when that saves bytes and its client accepts gzip.
pub async fn compress(asked: &HeaderMap, mut answer: Answer) -> Answer {
    let whole = match answer.body() {
        Body::Whole(bytes) if bytes.len() > BYTES_MIN => bytes.clone(),
        _ => return answer,
    };
    if answer.headers().contains_key(CONTENT_ENCODING) {
        return answer;
    }
    answer.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    if !accepts_gzip(asked) {
        return answer;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(whole.len() / 4), Compression::fast());
    for part in whole.chunks(PART_BYTES) {
        encoder.write_all(part).expect("writing to memory does not fail");
        if part.len() == PART_BYTES {
            tokio::task::yield_now().await;
        }
    }
    let compressed = encoder.finish().expect("writing to memory does not fail");
    answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    *answer.body_mut() = Body::Whole(compressed.into());
    answer
}

/// Whether a client accepts gzip: it names it, or anything, and not with a weight of 0.
fn accepts_gzip(asked: &HeaderMap) -> bool {
    let values = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = false;
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let wanted =
            weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        any |= name == "*" && wanted;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_gzip_when_it_says_so() {
        for (value, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("*;q=0.1", true),
            ("gzip;q=0, *", false),
            ("br", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
