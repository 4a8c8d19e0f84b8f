//! Validators, conditions and ranges of a file (RFC 9110 §8.8, §13, §14).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, header};

use super::{ascii, root::File};

/// What tells one version of a file from another.
pub(super) struct Validators {
    etag: String,
    /// Whole seconds, as the header carries it.
    modified: SystemTime,
}

impl Validators {
    /// Length, time of change in nanoseconds and inode: no two versions share them unless the clock
    /// of the file system stood still between two writes of equal length.
    pub(super) fn of(file: &File) -> Self {
        let since = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            etag: format!("\"{:x}-{:x}-{:x}\"", since.as_nanos(), file.len, file.inode),
            modified: UNIX_EPOCH + Duration::from_secs(since.as_secs()),
        }
    }

    pub(super) fn etag(&self) -> HeaderValue {
        ascii(self.etag.clone())
    }

    pub(super) fn last_modified(&self) -> HeaderValue {
        ascii(httpdate::fmt_http_date(self.modified))
    }

    /// Whether a list of entity tags names this version. `weak` ones count where the header allows it.
    fn is_listed(&self, list: &str, weak: bool) -> bool {
        list.trim() == "*"
            || list
                .split(',')
                .map(str::trim)
                .any(|tag| tag == self.etag || (weak && tag.strip_prefix("W/") == Some(&self.etag)))
    }
}

/// A part of a file, not empty unless the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) len: u64,
}

impl Range {
    pub(super) fn last(self) -> u64 {
        self.first + self.len.saturating_sub(1)
    }
}

/// How a request for a file is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    Part(Range),
    NotModified,
    Failed,
    Unsatisfiable,
}

/// Applies the conditions in the order of RFC 9110 §13.2.2. Only a GET can ask for a part (§14.2).
pub(super) fn judge(headers: &HeaderMap, asks_part: bool, of: &Validators, len: u64) -> Verdict {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let date = |name| text(name).and_then(|value| httpdate::parse_http_date(value).ok());
    match (text(header::IF_MATCH), date(header::IF_UNMODIFIED_SINCE)) {
        (Some(list), _) if !of.is_listed(list, false) => return Verdict::Failed,
        (None, Some(date)) if of.modified > date => return Verdict::Failed,
        _ => {}
    }
    match (text(header::IF_NONE_MATCH), date(header::IF_MODIFIED_SINCE)) {
        (Some(list), _) if of.is_listed(list, true) => return Verdict::NotModified,
        (None, Some(date)) if of.modified <= date => return Verdict::NotModified,
        _ => {}
    }
    let is_same = match text(header::IF_RANGE) {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == of.etag,
        Some(date) => httpdate::parse_http_date(date).is_ok_and(|date| date == of.modified),
    };
    match text(header::RANGE) {
        Some(range) if asks_part && is_same => parse_range(range, len),
        _ => Verdict::Whole,
    }
}

/// A single range. Several at once, other units and nonsense are answered with the whole, as RFC 9110 §14.2 allows.
fn parse_range(text: &str, len: u64) -> Verdict {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .map(str::trim)
        .and_then(|range| range.split_once('-'))
        .filter(|(_, last)| !last.contains([',', '-']))
    else {
        return Verdict::Whole;
    };
    let number = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", "") => return Verdict::Whole,
        ("", suffix) => number(suffix).map(|suffix| (len.saturating_sub(suffix), len)),
        (first, "") => number(first).map(|first| (first, len)),
        (first, last) => number(first)
            .zip(number(last))
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| (first, last.saturating_add(1).min(len))),
    };
    match range {
        None => Verdict::Whole,
        Some((first, end)) if first < end => Verdict::Part(Range { first, len: end - first }),
        Some(_) => Verdict::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let part = |first, len| Verdict::Part(Range { first, len });
        for (text, verdict) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=4-99", part(4, 6)),
            ("bytes=0-18446744073709551615", part(0, 10)),
            ("bytes=0-99999999999999999999999", part(0, 10)),
            ("bytes=10-", Verdict::Unsatisfiable),
            ("bytes=99999999999999999999999-", Verdict::Unsatisfiable),
            ("bytes=-0", Verdict::Unsatisfiable),
            ("bytes=3-2", Verdict::Whole),
            ("bytes=-", Verdict::Whole),
            ("bytes=a-b", Verdict::Whole),
            ("bytes=+1-2", Verdict::Whole),
            ("bytes=0-1,3-4", Verdict::Whole),
            ("bytes=-1-2", Verdict::Whole),
            ("lines=0-1", Verdict::Whole),
        ] {
            assert_eq!(parse_range(text, 10), verdict, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Verdict::Unsatisfiable);
    }
}
