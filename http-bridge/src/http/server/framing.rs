//! Finds requests whose end two parsers could see in two places (RFC 9112 §2.2, §6.3).
//!
//! ```text
//!              ┌──────────── Content-Length: n ──▶ Body n ────┐
//!   Head ──────┤ no length                                    ├──▶ Head
//!              └ chunked ─▶ Size ⇄ Data ─▶ (0) ─▶ Trailers ───┘
//! ```
//!
//! Such requests are how others are smuggled past a proxy. hyper resolves these by itself, without a word:
//!
//! - both Transfer-Encoding and Content-Length: goes by the first;
//! - Content-Length twice with the same value: takes one;
//! - a Transfer-Encoding of several codings, or several of them: takes chunked if it is the last;
//! - lines of the head that end with LF alone: takes them.
//!
//! They are looked for here, in the bytes on their way to hyper. A length or a chunk's size that cannot be read here, or is
//! longer than what is kept of a line, is a problem too, whatever hyper makes of it: from then on the watch would be out of
//! step. What else hyper refuses (a fold, a space before a colon, Transfer-Encoding in HTTP/1.0) ends the connection.

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
    /// The beginning of the current line; of a header, without the blanks behind its colon.
    line: Vec<u8>,
    /// Whether the line is longer than that.
    is_cut: bool,
    last: u8,
    problem: Option<&'static str>,
    is_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
}

impl FramingWatch {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head,
            line: Vec::with_capacity(LINE_KEPT_BYTES),
            is_cut: false,
            last: 0,
            problem: None,
            is_request_line: true,
            length: None,
            is_chunked: false,
        }
    }

    /// Takes the next bytes; which rule is broken by a head that they complete.
    pub(super) fn problem(&mut self, mut bytes: &[u8]) -> Option<&'static str> {
        while let Some(&byte) = bytes.first() {
            match &mut self.state {
                State::Done => return self.problem,
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
            let before = std::mem::replace(&mut self.last, byte);
            if byte != b'\n' {
                self.keep(byte);
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            if before != b'\r' && matches!(self.state, State::Head) {
                self.problem.get_or_insert("a line of the head ends without CR\n");
            }
            self.end_line(line.strip_suffix(b"\r").unwrap_or(&line));
            // The next line has the same room.
            line.clear();
            (self.line, self.is_cut) = (line, false);
        }
        self.problem.filter(|_| matches!(self.state, State::Done))
    }

    fn keep(&mut self, byte: u8) {
        let is_head = matches!(self.state, State::Head) && !self.is_request_line;
        let is_behind_colon =
            self.line.last() == Some(&b':') && !self.line[..self.line.len() - 1].contains(&b':');
        if is_head && is_behind_colon && matches!(byte, b' ' | b'\t') {
            return;
        }
        // The CR of the line's end is not part of it.
        if self.line.len() < LINE_KEPT_BYTES {
            self.line.push(byte);
        } else if byte != b'\r' {
            self.is_cut = true;
        }
    }

    fn end_line(&mut self, line: &[u8]) {
        match self.state {
            // Empty lines before a request are allowed.
            State::Head if self.is_request_line => self.is_request_line = line.is_empty(),
            State::Head if line.is_empty() => self.end_head(),
            State::Head => self.header(line),
            // The size of the data and of the line end behind it.
            State::ChunkSize => {
                self.state = match chunk_size(line, self.is_cut) {
                    Some(0) => State::Trailers,
                    Some(size) => State::ChunkData(size.saturating_add(2)),
                    None => {
                        self.problem = Some("a chunk's size that cannot be read\n");
                        State::Done
                    }
                }
            }
            State::Trailers if line.is_empty() => self.state = State::Head,
            _ => {}
        }
    }

    fn header(&mut self, line: &[u8]) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_plain = !self.is_cut && value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if self.is_chunked || !is_plain {
                self.problem.get_or_insert("a Transfer-Encoding other than chunked, once\n");
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            match std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok()) {
                Some(length) if !self.is_cut => {
                    if self.length.replace(length).is_some() {
                        self.problem.get_or_insert("more than one Content-Length\n");
                    }
                }
                _ => drop(self.problem.get_or_insert("a Content-Length that cannot be read\n")),
            }
        }
    }

    fn end_head(&mut self) {
        self.is_request_line = true;
        let (length, is_chunked) = (self.length.take(), std::mem::take(&mut self.is_chunked));
        if length.is_some() && is_chunked {
            self.problem = Some("both Transfer-Encoding and Content-Length\n");
        }
        self.state = match length {
            _ if self.problem.is_some() => State::Done,
            None if is_chunked => State::ChunkSize,
            None | Some(0) => State::Head,
            Some(length) => State::Body(length),
        };
    }
}

/// The hex digits before an extension, if all of them are there.
fn chunk_size(line: &[u8], is_cut: bool) -> Option<u64> {
    let is_end = |byte: &u8| matches!(byte, b';' | b' ' | b'\t');
    if is_cut && !line.iter().any(is_end) {
        return None;
    }
    let digits = line.split(is_end).next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ntransfer-ENCODING: chunked\r\n\r\n";

    /// In one piece and byte by byte.
    fn is_found(text: &str) -> bool {
        let whole = FramingWatch::new().problem(text.as_bytes()).is_some();
        let mut watch = FramingWatch::new();
        let in_pieces = text.as_bytes().chunks(1).any(|byte| watch.problem(byte).is_some());
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
    fn what_hyper_would_resolve_by_itself_is_found() {
        for header in [
            "Content-Length: 5\r\nContent-Length: 5",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding:",
            "A: b\nC: d",
        ] {
            assert!(is_found(&format!("POST / HTTP/1.1\r\n{header}\r\n\r\n")), "{header}");
        }
        let long = "x".repeat(200);
        assert!(!is_found(&format!("GET /{long} HTTP/1.1\r\nA: {long}\r\n\r\n")));
        assert!(is_found(&format!("GET / HTTP/1.1\r\nA: {long}\n\r\n")));
        assert!(is_found("GET / HTTP/1.1\n\n"));
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

    /// hyper takes the blanks and the zeros.
    #[test]
    fn nothing_blinds_the_watch() {
        let (blanks, zeros) = (" ".repeat(200), "0".repeat(200));
        for before in [
            format!("POST / HTTP/1.1\r\nContent-Length:{blanks}0\r\n\r\n"),
            format!("POST / HTTP/1.1\r\nContent-Length:\t{blanks}5\r\n\r\n12345"),
            format!("POST / HTTP/1.1\r\nTransfer-Encoding:{blanks}chunked\r\n\r\n0\r\n\r\n"),
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0;x={zeros}\r\n\r\n"),
            format!("POST / HTTP/1.1\r\nX:{blanks}{zeros}\r\n\r\n"),
        ] {
            assert!(!is_found(&before), "{before:?}");
            assert!(is_found(&format!("{before}{BOTH}")), "{before:?}");
        }
        for head in [
            "Content-Length: x",
            "Content-Length: -1",
            "Content-Length: 99999999999999999999",
            &format!("Content-Length: 5{blanks}"),
            &format!("Content-Length: {zeros}5"),
            &format!("Transfer-Encoding: chunked{blanks}"),
            &format!("Transfer-Encoding: chunked\r\n\r\n{zeros}5"),
            "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff",
        ] {
            assert!(is_found(&format!("POST / HTTP/1.1\r\n{head}\r\n\r\n")), "{head:?}");
        }
        assert!(!is_found(&format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{BOTH}"
        )));
    }
}
