//! Requests that two parsers could read in two ways, for whatever stands between two of them.
#![allow(unreachable_pub, missing_docs)]

/// Name, then what stands between `POST /open HTTP/1.1` with its Host and the hidden request.
pub const REFUSED: &[(&str, &str)] = &[
    ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n"),
    ("CL.TE, zero", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("CL.TE, odd case", "content-length: 6\r\ntRANSFER-eNCODING: cHUNKED\r\n\r\n0\r\n\r\n"),
    ("CL twice, unlike", "Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345"),
    ("CL twice, alike", "Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345"),
    ("CL as a list", "Content-Length: 5, 5\r\n\r\n12345"),
    ("CL with a sign", "Content-Length: +5\r\n\r\n12345"),
    ("CL negative", "Content-Length: -5\r\n\r\n12345"),
    ("CL in hex", "Content-Length: 0x5\r\n\r\n12345"),
    ("CL with a blank inside", "Content-Length: 1 2\r\n\r\n12345"),
    ("CL beyond 64 bits", "Content-Length: 18446744073709551621\r\n\r\n12345"),
    ("CL empty", "Content-Length:\r\n\r\n"),
    ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        "TE twice, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    ("TE of two codings", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("TE chunked, identity", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("TE unknown", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("TE quoted", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("TE with a vertical tab", "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
    ("TE, blank before the colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("TE behind a fold", "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE folded", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("CL, blank before the colon", "Content-Length : 5\r\n\r\n12345"),
    ("line ends with LF", "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("line ends with CR", "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("NUL in a value", "X: a\0b\r\n\r\n"),
    ("NUL in a name", "X\0Y: a\r\n\r\n"),
    ("no colon", "Transfer-Encoding chunked\r\n\r\n"),
    ("no name", ": chunked\r\n\r\n"),
    ("second Host", "Host: other\r\n\r\n"),
];

/// Chunked bodies whose framing breaks after the head: the origin may see the beginning, never a complete request.
pub const BAD_CHUNKS: &[(&str, &str)] = &[
    ("size with a prefix", "0x5\r\n12345\r\n0\r\n\r\n"),
    ("size with a sign", "+5\r\n12345\r\n0\r\n\r\n"),
    ("size negative", "-1\r\n12345\r\n0\r\n\r\n"),
    ("size empty", "\r\n12345\r\n0\r\n\r\n"),
    ("size beyond 64 bits", "10000000000000005\r\n12345\r\n0\r\n\r\n"),
    ("size line ends with LF", "5\n12345\r\n0\r\n\r\n"),
    ("data longer than its size", "5\r\n123456\r\n0\r\n\r\n"),
    ("data without its end", "5\r\n123450\r\n\r\n"),
    ("extension with LF", "5;a\nb\r\n12345\r\n0\r\n\r\n"),
];

/// What must never be taken for a request.
pub const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
