//! Going on with a broken download, without gluing two versions of a file together.
//!
//! While a download runs, a note beside the file (`.<name>.dmsg-part`) says which URL and which version
//! it is of. To resume, the note's validator goes into `If-Range`: the server sends the rest (206) only
//! if it still has that version, else the whole (200). The note goes when the file is complete.
//!
//! Without a note (another tool's file) the rest is asked for on trust, and a warning says so.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::super::exit::{Exit, Failure};
use crate::{http::ResponseBody, url::DmsgUrl};

/// Bytes of a note that are read: a URL and a validator.
const NOTE_MAX_BYTES: u64 = 64 * 1024;

/// What `--continue-at` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    AtEnd,
    At(u64),
}

impl Resume {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "-" => Ok(Self::AtEnd),
            _ => text
                .parse()
                .map(Self::At)
                .map_err(|_| "a number of bytes or - is wanted".to_owned()),
        }
    }

    /// Where to begin, given what is there.
    pub(super) fn start(self, file: &Path, url: &DmsgUrl) -> Result<Start, Failure> {
        let len = match fs::metadata(file) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(unwritable(file, &error)),
        };
        let offset = match self {
            Self::AtEnd => len,
            Self::At(offset) if offset <= len => offset,
            Self::At(offset) => {
                let message = format!("{} has {len} bytes, not {offset}", file.display());
                return Err(Failure::new(Exit::Range, message));
            }
        };
        let validator = (offset > 0).then(|| read_note(file, url)).flatten();
        Ok(Start { is_resumed: true, offset, validator })
    }
}

/// Where a download begins.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// Whether `--continue-at` was given, be it on a file that is not there yet.
    is_resumed: bool,
    pub(super) offset: u64,
    validator: Option<HeaderValue>,
}

impl Start {
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        if self.offset == 0 {
            return;
        }
        if let Ok(range) = HeaderValue::try_from(format!("bytes={}-", self.offset)) {
            headers.insert(header::RANGE, range);
        }
        if let Some(validator) = &self.validator {
            headers.insert(header::IF_RANGE, validator.clone());
        }
    }

    /// Where the response's body goes in the file; `None` when the file is complete already.
    pub(super) fn check(
        &self,
        file: &Path,
        response: &Response<ResponseBody>,
    ) -> Result<Option<Begun>, Failure> {
        let fail =
            |why: String| Err(Failure::new(Exit::Range, format!("{}: {why}", file.display())));
        if self.offset == 0 {
            // The text of an error is no beginning of the file, and would have the rest of it glued on by the next call.
            if self.is_resumed && response.status().as_u16() >= 400 {
                return fail(format!(
                    "nothing to begin with: the server answered {}",
                    response.status()
                ));
            }
            return Ok(Some(Begun::default()));
        }
        match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((first, total)) if first == Some(self.offset) => {
                    if self.validator.is_none() {
                        tracing::warn!("the rest may be of another version than what was here");
                    }
                    Ok(Some(Begun { offset: self.offset, total }))
                }
                _ => fail(format!("the response is not the part from byte {}", self.offset)),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => match content_range(response.headers()) {
                Some((_, Some(total))) if total == self.offset => {
                    remove_note(file);
                    Ok(None)
                }
                Some((_, Some(total))) => fail(format!(
                    "it has {} bytes, but the server's file has {total}; it has changed",
                    self.offset
                )),
                _ => fail(format!("the server has nothing from byte {} on", self.offset)),
            },
            status if status.is_success() => {
                tracing::warn!("the server sends the whole file: it has changed, or cannot resume");
                Ok(Some(Begun::default()))
            }
            status => fail(format!("cannot resume: the server answered {status}")),
        }
    }
}

/// Where in the file the body goes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) offset: u64,
    /// Of the whole file, if the part says: a server may send less than the rest (RFC 9110 §15.3.7).
    pub(super) total: Option<u64>,
}

/// `bytes FIRST-LAST/TOTAL`: first byte and total, as far as they are stated.
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.trim().parse().ok());
    Some((first, total.trim().parse().ok()))
}

fn note_path(file: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    name.push(".dmsg-part");
    file.with_file_name(name)
}

fn read_note(file: &Path, url: &DmsgUrl) -> Option<HeaderValue> {
    let path = note_path(file);
    if fs::metadata(&path).ok()?.len() > NOTE_MAX_BYTES {
        return None;
    }
    let text = fs::read_to_string(&path).ok()?;
    let (of, validator) = text.split_once('\n')?;
    (of == url.to_string()).then(|| validator.trim_end().parse().ok()).flatten()
}

/// Notes which version is being downloaded, if the response says. A weak ETag will not do.
pub(super) fn write_note(file: &Path, url: &DmsgUrl, headers: &HeaderMap) {
    let strong = |value: &&HeaderValue| !value.as_bytes().starts_with(b"W/");
    let validator = headers
        .get(header::ETAG)
        .filter(strong)
        .or_else(|| headers.get(header::LAST_MODIFIED))
        .and_then(|value| value.to_str().ok());
    let path = note_path(file);
    let written = match validator {
        Some(validator) => fs::File::create(&path)
            .and_then(|mut note| note.write_all(format!("{url}\n{validator}\n").as_bytes())),
        None => Err(io::ErrorKind::Unsupported.into()),
    };
    if written.is_err() {
        // A note of an older version must not vouch for this one.
        let _ = fs::remove_file(&path);
    }
}

pub(super) fn remove_note(file: &Path) {
    let _ = fs::remove_file(note_path(file));
}

pub(super) fn unwritable(file: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Write, format!("{}: {error}", file.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, HeaderValue::from_static(text));
            content_range(&headers)
        };
        assert_eq!(of("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(of("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(of("bytes */10"), Some((None, Some(10))));
        assert_eq!(of("lines 1-2/3"), None);
    }

    #[test]
    fn a_note_vouches_for_its_own_url_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        let key = dmsg_engine::identity::SecretKey::from_seed(b"note").public_key();
        let url: DmsgUrl = format!("dmsg://{key}/f").parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, HeaderValue::from_static("\"v1\""));
        write_note(&file, &url, &headers);
        assert_eq!(read_note(&file, &url).unwrap(), "\"v1\"");
        assert_eq!(read_note(&file, &url.with_target("/other").unwrap()), None);
        headers.insert(header::ETAG, HeaderValue::from_static("W/\"v2\""));
        write_note(&file, &url, &headers);
        assert_eq!(read_note(&file, &url), None, "a weak validator removes the note");
    }
}
