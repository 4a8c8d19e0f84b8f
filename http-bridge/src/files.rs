//! A folder as a web service (`dmsg serve --dir`; `dmsg-http.md §8.2`).
//!
//! GET and HEAD with ranges, validators (ETag, Last-Modified) and conditions, `index.html`, and a
//! listing where there is none. Nothing outside of the folder can be reached, whatever links and
//! names the folder or a request contains: the kernel resolves each path beneath the folder (`files/root.rs`).
//! Memory is bounded by one chunk per response and one bounded listing.
//!
//! Who may call is decided before a request gets here.

mod body;
mod condition;
mod listing;
mod root;

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use axum::{body::Body, response::IntoResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use self::{
    body::FileBody,
    condition::{Range, Validators, Verdict},
    root::{Opened, Root},
};

/// How a folder is served.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct FileOptions {
    /// Whether folders without `index.html` show what is in them. Default true.
    pub listing: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { listing: true }
    }
}

/// Serves one folder. Clones share it.
#[derive(Clone)]
pub struct FileService {
    root: Arc<Root>,
    options: FileOptions,
}

impl FileService {
    /// Opens the folder; it is found again by its descriptor, even if it is renamed.
    pub fn open(folder: &Path, options: FileOptions) -> io::Result<Self> {
        Ok(Self { root: Arc::new(Root::open(folder)?), options })
    }

    /// Answers a request.
    pub async fn respond(&self, request: Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match self.answer(&request.map(drop)).await {
            Ok(response) => response,
            Err(error) => of_error(&error),
        }
    }

    async fn answer(&self, request: &Request<()>) -> io::Result<Response<Body>> {
        let url_path = request.uri().path();
        let path = decode(url_path)?;
        let root = Arc::clone(&self.root);
        let (opened, path) =
            blocking(move || root.open_beneath(&path).map(|opened| (opened, path))).await?;
        match opened {
            // `/a.txt/` would be a folder.
            Opened::File(_) if url_path.ends_with('/') => Err(io::ErrorKind::NotFound.into()),
            Opened::File(file) => {
                let name = url_path.rsplit('/').next().unwrap_or_default();
                Ok(self.file(request, file, name))
            }
            Opened::Folder(folder) if url_path.ends_with('/') => {
                let root = Arc::clone(&self.root);
                let index = blocking(move || match root.open_index(&path) {
                    Ok(file) => Ok(Ok(file)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(folder)),
                    Err(error) => Err(error),
                });
                match index.await? {
                    Ok(file) => Ok(self.file(request, file, "index.html")),
                    Err(folder) if self.options.listing => {
                        let title = url_path.to_owned();
                        Ok(html(blocking(move || listing::page(&folder, &title)).await?))
                    }
                    Err(_) => Err(io::ErrorKind::PermissionDenied.into()),
                }
            }
            Opened::Folder(_) => Ok(add_slash(request)),
        }
    }

    fn file(&self, request: &Request<()>, file: root::File, name: &str) -> Response<Body> {
        let validators = Validators::of(&file);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::ETAG, validators.etag());
        headers.insert(header::LAST_MODIFIED, validators.last_modified());
        let asks_part = request.method() == Method::GET;
        let verdict = condition::judge(request.headers(), asks_part, &validators, file.len);
        let (status, range) = match verdict {
            Verdict::NotModified => return empty(StatusCode::NOT_MODIFIED, headers),
            Verdict::Failed => return empty(StatusCode::PRECONDITION_FAILED, headers),
            Verdict::Unsatisfiable => {
                headers.insert(header::CONTENT_RANGE, ascii(format!("bytes */{}", file.len)));
                return empty(StatusCode::RANGE_NOT_SATISFIABLE, headers);
            }
            Verdict::Part(range) => {
                let value = format!("bytes {}-{}/{}", range.first, range.last(), file.len);
                headers.insert(header::CONTENT_RANGE, ascii(value));
                (StatusCode::PARTIAL_CONTENT, range)
            }
            Verdict::Whole => (StatusCode::OK, Range { first: 0, len: file.len }),
        };
        headers.insert(header::CONTENT_TYPE, content_type(name));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_LENGTH, range.len.into());
        let body = if request.method() == Method::HEAD {
            Body::empty()
        } else {
            Body::new(FileBody::new(file.file, range))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Runs file system calls where they may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The path beneath the folder that a URL path names; relative, without `.` and `..`.
fn decode(url_path: &str) -> io::Result<std::path::PathBuf> {
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(url_path).collect();
    let mut path = std::path::PathBuf::from(".");
    for part in bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        if matches!(part, b"." | b"..") || part.contains(&0) {
            return Err(io::ErrorKind::NotFound.into());
        }
        path.push(OsStr::from_bytes(part));
    }
    Ok(path)
}

fn content_type(name: &str) -> HeaderValue {
    let mime = mime_guess::from_path(name).first_or_octet_stream();
    let is_text = mime.type_() == mime_guess::mime::TEXT
        || matches!(mime.subtype().as_str(), "javascript" | "json");
    ascii(if is_text { format!("{mime}; charset=utf-8") } else { mime.to_string() })
}

fn of_error(error: &io::Error) -> Response<Body> {
    use io::ErrorKind::{NotFound, PermissionDenied};
    match error.kind() {
        NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            plain(StatusCode::NOT_FOUND, "not found\n")
        }
        PermissionDenied => plain(StatusCode::FORBIDDEN, "forbidden\n"),
        // A link that leads out of the folder, or round in circles, is as good as absent.
        // So is what cannot be opened as a file: a socket, a device that is not there.
        _ if matches!(
            error.raw_os_error(),
            Some(libc::EXDEV | libc::ELOOP | libc::ENXIO | libc::ENODEV)
        ) =>
        {
            plain(StatusCode::NOT_FOUND, "not found\n")
        }
        _ => {
            tracing::warn!(%error, "a file could not be served");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the file could not be read\n")
        }
    }
}

fn add_slash(request: &Request<()>) -> Response<Body> {
    // One slash at most in front: two would name another host.
    let path = format!("/{}/", request.uri().path().trim_matches('/'));
    let location = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, ascii(location));
    empty(StatusCode::MOVED_PERMANENTLY, headers)
}

fn html(page: String) -> Response<Body> {
    let mut response = Response::new(Body::from(page));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
    );
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    (status, text).into_response()
}

fn empty(status: StatusCode, headers: HeaderMap) -> Response<Body> {
    (status, headers).into_response()
}

/// A header value of text that we composed or that came out of a parsed URI.
fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
