//! Refuses HTTP/1 heads that a proxy and our parser may read differently, so that both take the
//! same bytes for different requests (request smuggling): bare line feeds, which the parser
//! accepts as line ends for the sake of old programs, transfer encodings other than one
//! `chunked`, and lengths that are not seen whole.

/// Finds bare line feeds in the request heads of one connection.
///
/// It follows bodies to find where the next head begins. After a head that it does not
/// understand, which the parser refuses, it resumes once the connection is idle.
#[derive(Default)]
pub struct Heads {
    state: State,
    /// Whether the last byte was a carriage return.
    ends_with_cr: bool,
    /// The buffered start of the current line.
    line: Vec<u8>,
    /// The body length that the current head announces.
    length: Option<u64>,
    /// The body framing that the current head announces.
    framing: Framing,
}

/// How a body is framed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Framing {
    /// By its length, or there is none.
    #[default]
    Length,
    /// In chunks with a length each.
    Chunked,
    /// By a length that is not a number.
    Unknown,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    /// This many bytes of a body follow.
    Body(u64),
    /// The length of the next chunk follows.
    Size,
    /// This many bytes of a chunk follow, with the end of its line.
    Part(u64),
    /// Trailers follow, up to an empty line.
    Trailers,
    /// Where the next head begins is not known.
    Unknown,
    /// The connection speaks HTTP/2, which has no lines.
    Never,
}

const LENGTH: &[u8] = b"content-length:";
const ENCODING: &[u8] = b"transfer-encoding:";
const PREFACE: &[u8] = b"pri * http/2.0";
/// The most bytes that are buffered of a line that arrives in parts.
const LINE_BYTES_MAX: usize = 64;

impl Heads {
    /// No request is in flight, so the next bytes belong to a head.
    pub fn next(&mut self) {
        if matches!(self.state, State::Unknown) {
            *self = Self::default();
        }
    }

    /// Whether every announced byte has arrived, as far as that is known.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head) && self.line.is_empty() && !self.ends_with_cr
    }

    /// Checks received bytes. Overwrites the first bare line feed of a head, or the end of the
    /// first ambiguous line, so that the parser refuses the head. Returns the end of what the
    /// parser may receive; no byte after it may reach the parser.
    pub fn check(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let mut at = 0;
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
                    let is_trusted = match end {
                        // Most lines arrive whole, and are checked in place.
                        Some(_) if self.line.is_empty() && !self.ends_with_cr => {
                            part.strip_suffix(b"\r").is_some_and(|line| self.end_line(line, false))
                        }
                        Some(_) => {
                            self.buffer(part);
                            let is_cut = self.line.len() > LINE_BYTES_MAX;
                            let line = std::mem::take(&mut self.line);
                            let is_ended = std::mem::take(&mut self.ends_with_cr);
                            is_ended && self.end_line(&line, is_cut)
                        }
                        None => {
                            self.buffer(part);
                            true
                        }
                    };
                    at = end.map_or(bytes.len(), |end| end + 1);
                    if !is_trusted {
                        bytes[at - 1] = 0;
                        return Some(at);
                    }
                }
            }
        }
        None
    }

    /// Buffers a part of a line: as much as matters, and one byte more if the line is longer.
    fn buffer(&mut self, part: &[u8]) {
        let Some((last, before)) = part.split_last() else { return };
        if std::mem::replace(&mut self.ends_with_cr, *last == b'\r') {
            self.push(b"\r");
        }
        self.push(if self.ends_with_cr { before } else { part });
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = (LINE_BYTES_MAX + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    /// Takes a line, whose end may be missing; returns whether it is unambiguous.
    fn end_line(&mut self, line: &[u8], is_cut: bool) -> bool {
        match self.state {
            State::Size if is_cut => return false,
            State::Size => self.end_size(line),
            State::Trailers if line.is_empty() => self.state = State::Head,
            State::Trailers => {}
            _ if line.is_empty() => {
                let (length, framing) = (self.length.take(), std::mem::take(&mut self.framing));
                self.state = match (framing, length) {
                    (Framing::Unknown, _) => State::Unknown,
                    (Framing::Chunked, _) => State::Size,
                    (Framing::Length, None | Some(0)) => State::Head,
                    (Framing::Length, Some(length)) => State::Body(length),
                };
            }
            _ => return self.end_field(line, is_cut),
        }
        true
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

    fn end_field(&mut self, line: &[u8], is_cut: bool) -> bool {
        let value_of = |name: &[u8]| {
            let begin = line.get(..name.len())?;
            begin.eq_ignore_ascii_case(name).then(|| line[name.len()..].trim_ascii())
        };
        if line.eq_ignore_ascii_case(PREFACE) {
            self.state = State::Never;
        } else if let Some(encoding) = value_of(ENCODING) {
            // The parser also accepts other encodings and looks only at the last one.
            let is_known =
                encoding.eq_ignore_ascii_case(b"chunked") && self.framing == Framing::Length;
            self.framing = Framing::Chunked;
            return is_known && !is_cut;
        } else if let Some(value) = value_of(LENGTH) {
            let value = str::from_utf8(value).ok();
            let digits = |value: &&str| value.bytes().all(|byte| byte.is_ascii_digit());
            match value.filter(digits).and_then(|value| value.parse().ok()) {
                Some(length) => self.length = Some(length),
                None => self.framing = Framing::Unknown,
            }
            return !is_cut;
        }
        true
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
            let end = heads.check(&mut bytes);
            checked.extend(&bytes[..end.unwrap_or(bytes.len())]);
            if end.is_some() {
                break;
            }
        }
        String::from_utf8(checked).expect("text")
    }

    #[test]
    fn a_bare_line_feed_is_overwritten_in_heads_and_nowhere_else() {
        let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let in_parts =
            |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<String>>();
        // The text up to which bytes pass; its last byte is overwritten.
        for (parts, overwritten) in [
            (in_parts(&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"]), None),
            (in_parts(&["GET / HTTP/1.1", "\nhost: a\r\n\r\n"]), Some("1.1\n")),
            (in_parts(&["GET / HTTP/1.1\r\nhost: a\r\n\n"]), Some("a\r\n\n")),
            (in_parts(&["GET / HTTP/1.1\r", "\nhost: a\r\n", "\r", "\n"]), None),
            (in_parts(&["GET / HTTP/1.1\r", "\rhost: a\n", "\r\n"]), Some("a\n")),
            (in_parts(&["PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "a\nb"]), None),
            (
                in_parts(&["PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\na\nbGET / HTTP/1.1\nx"]),
                Some("bGET / HTTP/1.1\n"),
            ),
            (in_parts(&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "a\nb"]), None),
            (vec![format!("{chunked}1\r\n\n\r\n0\r\n\r\n")], None),
            (
                vec![
                    format!("{chunked}2;x\r"),
                    "\n\n\n\r\na\r\n\n2345678\n\n\r\n0\r\nx: y\r\n".into(),
                ],
                None,
            ),
            (
                vec![format!("{chunked}1\r\n\n\r\n0\r\n\r\nGET / HTTP/1.1\nx")],
                Some("GET / HTTP/1.1\n"),
            ),
            (vec![format!("{chunked}1;x\ny\r\n\n\r\n0\r\n\r\n")], Some("1;x\n")),
            (vec![format!("{chunked}0\r\nx: y\n\r\n")], Some("x: y\n")),
            (vec![format!("{chunked}0\r\n\n")], Some("0\r\n\n")),
            // Proxies read other or repeated encodings differently.
            (
                in_parts(&["PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"]),
                Some("gzip, chunked\r\n"),
            ),
            (
                in_parts(&["PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\
                         transfer-encoding: chunked\r\n\r\n"]),
                Some("chunked\r\ntransfer-encoding: chunked\r\n"),
            ),
            // A length that is not seen whole is ambiguous.
            (
                vec![
                    format!("PUT / HTTP/1.1\r\nContent-Length:{}", " ".repeat(60)),
                    "3\r\n".into(),
                ],
                Some("3\r\n"),
            ),
            (vec![format!("{chunked}{}", "0".repeat(70)), "2\r\n".into()], Some("002\r\n")),
            (in_parts(&["GET / HTTP/1.1\r\nx: ", &"y".repeat(90), "\r\n\r\n"]), None),
        ] {
            let whole = parts.concat();
            let mut expected = whole.clone().into_bytes();
            if let Some(text) = overwritten {
                let at = whole.find(text).expect("it is there") + text.len() - 1;
                expected[at] = 0;
                expected.truncate(at + 1);
            }
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            assert_eq!(checked(&parts), String::from_utf8(expected).expect("text"), "{whole:?}");
        }
    }
}
