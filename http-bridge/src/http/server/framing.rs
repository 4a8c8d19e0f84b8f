//! Finds requests that state their length twice (RFC 9112 §6.3).
//!
//! ```text
//!              ┌──────────── Content-Length: n ──▶ Body n ────┐
//!   Head ──────┤ no length                                    ├──▶ Head
//!              └ chunked ─▶ Size ⇄ Data ─▶ (0) ─▶ Trailers ───┘
//! ```
//!
//! A request with both Transfer-Encoding and Content-Length is how requests are smuggled past a proxy. hyper goes by the
//! first and drops the second without a word, so it is looked for here, in the bytes on their way to hyper. Whatever
//! hyper itself refuses ends the watch: the connection ends with it.

/// Bytes of a line that are kept: the longest name that matters, and twenty digits.
const LINE_KEPT_BYTES: usize = 64;

enum State {
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    Trailers,
    /// Nothing more to find out.
    Done,
}

/// Follows the requests of one connection.
pub(super) struct FramingWatch {
    state: State,
    /// The beginning of the current line.
    line: Vec<u8>,
    is_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
}

impl FramingWatch {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head,
            line: Vec::with_capacity(LINE_KEPT_BYTES),
            is_request_line: true,
            length: None,
            is_chunked: false,
        }
    }

    /// Takes the next bytes; whether they complete a head with two lengths.
    pub(super) fn is_ambiguous(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(&byte) = bytes.first() {
            match &mut self.state {
                State::Done => return false,
                State::Body(left) | State::ChunkData(left) => {
                    let taken = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    bytes = &bytes[taken..];
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = match self.state {
                            State::Body(_) => State::Head,
                            _ => State::ChunkSize,
                        };
                    }
                    continue;
                }
                State::Head | State::ChunkSize | State::Trailers => {}
            }
            bytes = &bytes[1..];
            if byte != b'\n' {
                if self.line.len() < LINE_KEPT_BYTES {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if self.end_line(line.strip_suffix(b"\r").unwrap_or(&line)) {
                return true;
            }
        }
        false
    }

    fn end_line(&mut self, line: &[u8]) -> bool {
        match self.state {
            // Empty lines before a request are allowed.
            State::Head if self.is_request_line => self.is_request_line = line.is_empty(),
            State::Head if line.is_empty() => return self.end_head(),
            State::Head => self.header(line),
            // The size of the data and of the line end behind it.
            State::ChunkSize => {
                self.state = match chunk_size(line) {
                    Some(0) => State::Trailers,
                    Some(size) => State::ChunkData(size.saturating_add(2)),
                    None => State::Done,
                }
            }
            State::Trailers if line.is_empty() => self.state = State::Head,
            _ => {}
        }
        false
    }

    fn header(&mut self, line: &[u8]) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            match std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok()) {
                Some(length) => self.length = Some(length),
                None => self.state = State::Done,
            }
        }
    }

    fn end_head(&mut self) -> bool {
        self.is_request_line = true;
        let (length, is_chunked) = (self.length.take(), std::mem::take(&mut self.is_chunked));
        self.state = match length {
            Some(_) if is_chunked => State::Done,
            None if is_chunked => State::ChunkSize,
            None | Some(0) => State::Head,
            Some(length) => State::Body(length),
        };
        length.is_some() && is_chunked
    }
}

/// The hex digits before an extension.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ntransfer-ENCODING: chunked\r\n\r\n";

    /// In one piece and byte by byte.
    fn is_found(text: &str) -> bool {
        let whole = FramingWatch::new().is_ambiguous(text.as_bytes());
        let mut watch = FramingWatch::new();
        let in_pieces = text.as_bytes().chunks(1).any(|byte| watch.is_ambiguous(byte));
        assert_eq!(whole, in_pieces, "{text:?}");
        whole
    }

    #[test]
    fn two_lengths_are_found_behind_every_kind_of_request() {
        for before in [
            "",
            "\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\nGET /\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
        ] {
            assert!(!is_found(before), "{before:?}");
            assert!(is_found(&format!("{before}{BOTH}")), "{before:?}");
        }
    }

    #[test]
    fn bodies_are_no_heads() {
        let body = BOTH.len();
        for head in [
            format!("POST / HTTP/1.1\r\nContent-Length: {body}\r\n\r\n{BOTH}"),
            format!(
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body:x}\r\n{BOTH}\r\n0\r\n\r\n"
            ),
        ] {
            assert!(!is_found(&head), "{head:?}");
        }
    }

    #[test]
    fn nonsense_ends_the_watch() {
        for head in
            ["Content-Length: x", "Content-Length: -1", "Content-Length: 99999999999999999999"]
        {
            assert!(!is_found(&format!("POST / HTTP/1.1\r\n{head}\r\n\r\n{BOTH}")));
        }
        assert!(!is_found(&format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{BOTH}"
        )));
        assert!(!is_found(&format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{BOTH}"
        )));
    }
}
