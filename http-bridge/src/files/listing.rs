//! The page that shows what is in a folder. Every name is escaped twice: as a link and as text.

use std::{fmt::Write as _, io, os::unix::ffi::OsStrExt};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::root::Folder;
use crate::escape::Escaped;

/// What may stand in a relative link besides letters and digits.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The page of a folder. `url_path` ends with a slash.
pub(super) fn page(folder: &Folder, url_path: &str) -> io::Result<String> {
    let (entries, more) = folder.entries()?;
    let title = percent_decode_str(url_path).decode_utf8_lossy();
    let title = Escaped(&title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>body{{font:16px/1.6 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}}\
         td:last-child{{text-align:right;padding-left:2rem;color:#777}}</style>\n\
         <h1>{title}</h1>\n<table>\n"
    );
    if !url_path.trim_matches('/').is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a><td>\n");
    }
    for entry in entries {
        // The leading ./ keeps a name with a colon from being read as a scheme.
        let link = percent_encode(entry.name.as_bytes(), LINK);
        let name = entry.name.to_string_lossy();
        let name = Escaped(&name);
        if entry.is_folder {
            let _ = writeln!(page, "<tr><td><a href=\"./{link}/\">{name}/</a><td>");
        } else {
            let size = indicatif::BinaryBytes(entry.len);
            let _ = writeln!(page, "<tr><td><a href=\"./{link}\">{name}</a><td>{size}");
        }
    }
    if more > 0 {
        let _ = writeln!(page, "<tr><td>and {more} more<td>");
    }
    page.push_str("</table>\n");
    Ok(page)
}
