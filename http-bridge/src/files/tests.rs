#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::symlink};

use http_body_util::BodyExt;
use tempfile::TempDir;

use super::*;

const BIG_LEN: usize = 700_001;

fn big() -> Vec<u8> {
    (0..BIG_LEN).map(|i| (i / 7) as u8).collect()
}

/// A folder `site` beside a secret, with links of every kind.
fn site() -> (TempDir, FileService) {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site");
    fs::create_dir_all(site.join("sub/deep")).unwrap();
    fs::create_dir(site.join("with-index")).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    fs::write(site.join("a.html"), "<p>").unwrap();
    fs::write(site.join("sub/ü %.txt"), "umlaut").unwrap();
    fs::write(site.join("sub/<img src=x onerror=alert(1)>"), "x").unwrap();
    fs::write(site.join("with-index/index.html"), "index").unwrap();
    fs::write(site.join("empty"), "").unwrap();
    fs::write(site.join("big"), big()).unwrap();
    symlink("a.html", site.join("inside-link")).unwrap();
    symlink("../secret", site.join("outside-link")).unwrap();
    symlink(folder.path().join("secret"), site.join("absolute-link")).unwrap();
    symlink("..", site.join("folder-link")).unwrap();
    symlink("loop", site.join("loop")).unwrap();
    let service = FileService::open(&site, FileOptions::default()).unwrap();
    (folder, service)
}

fn request(method: Method, target: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn get(
    service: &FileService,
    target: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response = service.respond(request(Method::GET, target, headers)).await;
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn files_come_whole_and_with_their_type() {
    let (_folder, service) = site();
    let (status, headers, body) = get(&service, "/a.html", &[]).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"<p>"[..]));
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(headers["content-length"], "3");
    let (_, headers, body) = get(&service, "/big", &[]).await;
    assert_eq!(body, big());
    assert_eq!(headers["content-type"], "application/octet-stream");
    assert_eq!(get(&service, "/empty", &[]).await.2, b"");
    assert_eq!(get(&service, "/sub/%C3%BC%20%25.txt", &[]).await.2, b"umlaut");
    assert_eq!(get(&service, "/inside-link", &[]).await.2, b"<p>");
    assert_eq!(get(&service, "/with-index/", &[]).await.2, b"index");
}

#[tokio::test]
async fn nothing_outside_of_the_folder_is_reached() {
    let (_folder, service) = site();
    for target in [
        "/outside-link",
        "/absolute-link",
        "/folder-link/secret",
        "/folder-link/",
        "/loop",
        "/../secret",
        "/%2e%2e/secret",
        "/%2E%2E%2Fsecret",
        "/sub/..%2f..%2fsecret",
        "//../secret",
        "/sub/../../secret",
        "/secret%00",
        "/a.html/x",
        "/absent",
    ] {
        let (status, _, body) = get(&service, target, &[]).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{target}");
        assert!(!body.windows(6).any(|w| w == b"secret"), "{target}");
    }
}

#[tokio::test]
async fn pipes_and_other_oddities_do_not_block() {
    let (folder, service) = site();
    let path = folder.path().join("site/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(get(&service, "/pipe", &[]).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn parts_fit_together() {
    let (_folder, service) = site();
    let mut whole = Vec::new();
    for range in ["bytes=0-99", "bytes=100-300000", "bytes=300001-"] {
        let (status, headers, body) = get(&service, "/big", &[("range", range)]).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        let first = whole.len();
        let last = first + body.len() - 1;
        assert_eq!(headers["content-range"], format!("bytes {first}-{last}/{BIG_LEN}"));
        whole.extend(body);
    }
    assert_eq!(whole, big());
    let (status, headers, _) = get(&service, "/big", &[("range", "bytes=700001-")]).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(headers["content-range"], format!("bytes */{BIG_LEN}"));
}

#[tokio::test]
async fn a_changed_file_is_not_resumed() {
    let (folder, service) = site();
    let (_, before, _) = get(&service, "/big", &[]).await;
    let etag = before["etag"].to_str().unwrap();
    let range = ("range", "bytes=5-");
    assert_eq!(get(&service, "/big", &[range, ("if-range", etag)]).await.0, 206);
    let weak = format!("W/{etag}");
    assert_eq!(get(&service, "/big", &[range, ("if-range", &weak)]).await.0, 200);
    fs::write(folder.path().join("site/big"), "other").unwrap();
    let (status, after, body) = get(&service, "/big", &[range, ("if-range", etag)]).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"other"[..]));
    assert_ne!(before["etag"], after["etag"]);
}

#[tokio::test]
async fn conditions_save_the_body() {
    let (_folder, service) = site();
    let (_, headers, _) = get(&service, "/a.html", &[]).await;
    let etag = headers["etag"].to_str().unwrap();
    let date = headers["last-modified"].to_str().unwrap();
    let old = "Thu, 01 Jan 1970 00:00:00 GMT";
    for (header, status) in [
        (("if-none-match", etag), 304),
        (("if-none-match", "\"x\", *"), 200),
        (("if-none-match", "*"), 304),
        (("if-none-match", "\"x\""), 200),
        (("if-modified-since", date), 304),
        (("if-modified-since", old), 200),
        (("if-modified-since", "nonsense"), 200),
        (("if-match", "\"x\""), 412),
        (("if-match", etag), 200),
        (("if-unmodified-since", old), 412),
        (("if-unmodified-since", date), 200),
    ] {
        let (got, _, body) = get(&service, "/a.html", &[header]).await;
        assert_eq!(got.as_u16(), status, "{header:?}");
        assert_eq!(body.is_empty(), status != 200, "{header:?}");
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body_and_other_methods_are_refused() {
    let (_folder, service) = site();
    let response = service.respond(request(Method::HEAD, "/big", &[])).await;
    assert_eq!(response.headers()["content-length"], BIG_LEN.to_string());
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    let response = service.respond(request(Method::PUT, "/big", &[])).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "GET, HEAD");
}

#[tokio::test]
async fn listings_are_escaped_and_can_be_turned_off() {
    let (folder, service) = site();
    let (status, headers, body) = get(&service, "/sub/", &[]).await;
    let page = String::from_utf8(body).unwrap();
    assert_eq!(
        (status, headers["content-type"].as_bytes()),
        (StatusCode::OK, &b"text/html; charset=utf-8"[..])
    );
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"), "{page}");
    assert!(!page.contains("<img"), "{page}");
    assert!(page.contains("href=\"./%C3%BC%20%25.txt\""), "{page}");
    assert!(page.contains("href=\"./deep/\""), "{page}");

    let site = folder.path().join("site");
    let closed = FileService::open(&site, FileOptions { listing: false }).unwrap();
    assert_eq!(get(&closed, "/sub/", &[]).await.0, StatusCode::FORBIDDEN);
    assert_eq!(get(&closed, "/with-index/", &[]).await.2, b"index");
}

#[tokio::test]
async fn a_folder_without_slash_redirects_within_the_host() {
    let (_folder, service) = site();
    let (status, headers, _) = get(&service, "/sub?x=1", &[]).await;
    assert_eq!(status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(headers["location"], "/sub/?x=1");
    let (_, headers, _) = get(&service, "//sub", &[]).await;
    assert_eq!(headers["location"], "/sub/");
}

#[tokio::test]
async fn a_file_that_shrinks_under_the_response_is_an_error() {
    let (folder, service) = site();
    let response = service.respond(request(Method::GET, "/big", &[])).await;
    fs::File::options()
        .write(true)
        .open(folder.path().join("site/big"))
        .unwrap()
        .set_len(10)
        .unwrap();
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn an_index_may_be_a_link_within_the_whole_folder() {
    let (folder, service) = site();
    symlink("../a.html", folder.path().join("site/sub/index.html")).unwrap();
    symlink("../../../secret", folder.path().join("site/sub/deep/index.html")).unwrap();
    for target in ["/sub/index.html", "/sub/"] {
        let (status, headers, body) = get(&service, target, &[]).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"<p>"[..]), "{target}");
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    }
    assert_eq!(get(&service, "/sub/deep/", &[]).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_no_file_is_not_found() {
    let (folder, service) = site();
    let _socket =
        std::os::unix::net::UnixListener::bind(folder.path().join("site/socket")).unwrap();
    for target in ["/socket", "/a.html/", "/empty/"] {
        assert_eq!(get(&service, target, &[]).await.0, StatusCode::NOT_FOUND, "{target}");
    }
}

#[tokio::test]
async fn only_a_get_has_parts() {
    let (_folder, service) = site();
    let part = &[("range", "bytes=0-1")][..];
    assert_eq!(get(&service, "/big", part).await.0, StatusCode::PARTIAL_CONTENT);
    let head = service.respond(request(Method::HEAD, "/big", part)).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], BIG_LEN.to_string().as_str());
}
