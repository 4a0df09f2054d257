//! Line ends in the heads of requests over HTTP/1. The parser behind takes a line feed
//! alone for the end of a line, as old programs did; a proxy that does not may take the
//! same bytes for another request, so such a head is not let through.

/// Looks for line feeds alone in the heads of the requests of one connection.
///
/// It follows the bodies that announce their length. What comes behind one that does not
/// is looked at again once the connection is idle.
#[derive(Default)]
pub struct Heads {
    state: State,
    /// The last byte was a carriage return.
    returned: bool,
    /// The present line, as far as it matters.
    line: Vec<u8>,
    /// What the present head says of the length of the body.
    length: Option<u64>,
    /// What it says is not followed: the body ends where it says itself, or nobody knows.
    lost: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
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
                State::Body(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    *left -= passed as u64;
                    at += passed;
                    if *left == 0 {
                        self.state = State::Head;
                        self.lost = false;
                    }
                }
                State::Head => {
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
        let begins = |name: &[u8]| {
            line.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name))
        };
        if line.is_empty() {
            self.state = match self.length.take() {
                _ if self.lost => State::Unknown,
                None | Some(0) => State::Head,
                Some(length) => State::Body(length),
            };
        } else if line.eq_ignore_ascii_case(PREFACE) {
            self.state = State::Never;
        } else if begins(ENCODING) {
            self.lost = true;
        } else if begins(LENGTH) {
            let value = str::from_utf8(&line[LENGTH.len()..]).ok().map(str::trim);
            let digits = |value: &&str| value.bytes().all(|byte| byte.is_ascii_digit());
            let value = value.filter(digits).and_then(|value| value.parse().ok());
            match value {
                Some(length) => self.length = Some(length),
                None => self.lost = true,
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
