//! Line ends in the heads of requests over HTTP/1. The parser behind takes a line feed
//! alone for the end of a line, as old programs did; a proxy that does not may take the
//! same bytes for another request, so such a head is not let through.

/// Looks for line feeds alone in the heads of the requests of one connection.
///
/// It follows bodies to where the next head begins. Behind one that it does not understand,
/// which the parser refuses, it looks again once the connection is idle.
#[derive(Default)]
pub struct Heads {
    state: State,
    /// The last byte was a carriage return.
    returned: bool,
    /// The present line, as far as it matters.
    line: Vec<u8>,
    /// What the present head says of the length of the body.
    length: Option<u64>,
    /// What it says of how the body is sent.
    sent: Sent,
}

/// How a body is sent.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sent {
    /// With its length, or there is none.
    #[default]
    Whole,
    /// In parts that each have their length.
    Chunked,
    /// In a way that nobody understands.
    Otherwise,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    /// The length of the next part.
    Size,
    /// So many bytes of a part are to come, and the end of its line.
    Part(u64),
    /// What stands behind the last part, up to an empty line.
    Trailers,
    /// Where the next head begins is not known.
    Unknown,
    /// It is HTTP/2, which has no lines.
    Never,
}

const LENGTH: &[u8] = b"content-length:";
const ENCODING: &[u8] = b"transfer-encoding:";
const PREFACE: &[u8] = b"pri * http/2.0";
/// The longest line that matters.
const LINE_BYTES_MAX: usize = 64;

impl Heads {
    /// Nothing is in flight: what comes next is a head, or goes on with one.
    pub fn next(&mut self) {
        if matches!(self.state, State::Unknown) {
            *self = Self::default();
        }
    }

    /// Whether all that was announced has come, as far as that is known.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head) && self.line.is_empty() && !self.returned
    }

    /// Spoils each line feed in `bytes` that stands alone in a head, so that the parser
    /// refuses it, and returns whether there was one.
    pub fn check(&mut self, bytes: &mut [u8]) -> bool {
        let (mut at, mut is_spoilt) = (0, false);
        while at < bytes.len() {
            match &mut self.state {
                State::Unknown | State::Never => break,
                State::Body(left) | State::Part(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    *left -= passed as u64;
                    at += passed;
                    match self.state {
                        State::Body(0) => self.state = State::Head,
                        State::Part(0) => self.state = State::Size,
                        _ => {}
                    }
                }
                State::Head | State::Size | State::Trailers => {
                    let end = memchr::memchr(b'\n', &bytes[at..]).map(|length| at + length);
                    let part = &bytes[at..end.unwrap_or(bytes.len())];
                    // Most lines come whole, and are looked at where they are.
                    if let Some(end) = end
                        && let Some(line) = part.strip_suffix(b"\r")
                        && self.line.is_empty()
                    {
                        self.end_line(line);
                        self.returned = false;
                        at = end + 1;
                        continue;
                    }
                    let returned = part.last().map_or(self.returned, |byte| *byte == b'\r');
                    let matters = LINE_BYTES_MAX.saturating_sub(self.line.len()).min(part.len());
                    let text = part[..matters].iter().filter(|byte| **byte != b'\r');
                    self.line.extend(text);
                    self.returned = returned && end.is_none();
                    at += part.len();
                    if let Some(end) = end {
                        if returned {
                            let mut line = std::mem::take(&mut self.line);
                            self.end_line(&line);
                            line.clear();
                            self.line = line;
                        } else {
                            bytes[end] = 0;
                            is_spoilt = true;
                        }
                        at += 1;
                    }
                }
            }
        }
        is_spoilt
    }

    fn end_line(&mut self, line: &[u8]) {
        match self.state {
            State::Size => self.end_size(line),
            State::Trailers if line.is_empty() => self.state = State::Head,
            State::Trailers => {}
            _ if line.is_empty() => {
                let (length, sent) = (self.length.take(), std::mem::take(&mut self.sent));
                self.state = match (sent, length) {
                    (Sent::Otherwise, _) => State::Unknown,
                    (Sent::Chunked, _) => State::Size,
                    (Sent::Whole, None | Some(0)) => State::Head,
                    (Sent::Whole, Some(length)) => State::Body(length),
                };
            }
            _ => self.end_field(line),
        }
    }

    fn end_size(&mut self, line: &[u8]) {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = str::from_utf8(&line[..digits]).ok();
        let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
        self.state = match size {
            Some(0) => State::Trailers,
            Some(size) => State::Part(size.saturating_add(2)),
            None => State::Unknown,
        };
    }

    fn end_field(&mut self, line: &[u8]) {
        let value_of = |name: &[u8]| {
            let begin = line.get(..name.len())?;
            begin.eq_ignore_ascii_case(name).then(|| line[name.len()..].trim_ascii())
        };
        if line.eq_ignore_ascii_case(PREFACE) {
            self.state = State::Never;
        } else if let Some(encoding) = value_of(ENCODING) {
            let is_known = encoding.eq_ignore_ascii_case(b"chunked") && self.sent == Sent::Whole;
            self.sent = if is_known { Sent::Chunked } else { Sent::Otherwise };
        } else if let Some(value) = value_of(LENGTH) {
            let value = str::from_utf8(value).ok();
            let digits = |value: &&str| value.bytes().all(|byte| byte.is_ascii_digit());
            match value.filter(digits).and_then(|value| value.parse().ok()) {
                Some(length) => self.length = Some(length),
                None => self.sent = Sent::Otherwise,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(parts: &[&str]) -> String {
        let mut heads = Heads::default();
        let mut checked = Vec::new();
        for part in parts {
            let mut bytes = part.as_bytes().to_vec();
            let is_spoilt = heads.check(&mut bytes);
            assert_eq!(is_spoilt, bytes != part.as_bytes());
            checked.extend(bytes);
        }
        String::from_utf8(checked).expect("text")
    }

    #[test]
    fn a_line_feed_alone_is_spoilt_in_heads_and_nowhere_else() {
        for (parts, expected) in [
            (&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"][..], None),
            (&["GET / HTTP/1.1\nhost: a\r\n\r\n"], Some("GET / HTTP/1.1\0host: a\r\n\r\n")),
            (&["GET / HTTP/1.1\r\nhost: a\r\n\n"], Some("GET / HTTP/1.1\r\nhost: a\r\n\0")),
            (&["GET / HTTP/1.1\r", "\nhost: a\r\n", "\r\n"], None),
            (&["PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "a\nb"], None),
            (
                &["PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\nx: y\r\n"],
                Some("PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\0x: y\r\n"),
            ),
            (&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "a\nb"], None),
            (&["PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\n"], None),
            (
                &[
                    "PUT / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n1;x\r",
                    "\n\n\r\na\r\n\n\n345678\n\n\r\n0\r\nx: y\r\n\r\n",
                    "GET / HTTP/1.1\nx: y\r\n",
                ],
                Some(
                    "PUT / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n1;x\r\n\n\r\na\r\n\n\n345678\n\n\r\n0\r\nx: y\r\n\r\n\
                     GET / HTTP/1.1\0x: y\r\n",
                ),
            ),
            (
                &["PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: y\n\r\nGET /"],
                Some("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: y\0\r\nGET /"),
            ),
            (&["PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n\n\n"], None),
            (
                &["PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nx: y\nz: w\r\n\r\n"],
                Some("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nx: y\0z: w\r\n\r\n"),
            ),
            (
                &["PUT / HTTP/1.1\r\nContent-Length: +3\r\nx: y\nz: w\r\n\r\n"],
                Some("PUT / HTTP/1.1\r\nContent-Length: +3\r\nx: y\0z: w\r\n\r\n"),
            ),
        ] {
            assert_eq!(checked(parts), expected.map_or_else(|| parts.concat(), String::from));
        }
    }
}
