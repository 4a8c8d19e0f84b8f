//! curl by HTTP, SOCKS5 and through a tunnel, Python, Node and git, none of which knows of DMSG.

use std::{path::Path, process::Command, sync::atomic::Ordering};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Uri},
    routing::{get, post},
};

use crate::world::{World, host, run, words};

fn app() -> Router {
    Router::new()
        .route("/hello", get(async || "hello over dmsg"))
        .route("/echo", post(async |body: Bytes| body))
        .route(
            "/seen",
            get(async |uri: Uri, headers: HeaderMap| {
                let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
                names.sort();
                let host = headers["host"].to_str().unwrap_or_default().to_owned();
                format!("{uri} {host} {}", names.join(","))
            }),
        )
}

async fn prints(program: &'static str, arguments: Vec<String>, expected: &str) {
    let Some(output) = run(program, arguments).await else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}: {problem}", output.status);
    assert_eq!(text.trim_end(), expected, "{program}: {problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_in_every_way() {
    let world = World::web(app()).await;
    let (proxy, url) = (format!("http://{}", world.proxy), format!("http://{}/hello", host()));
    let hello = "hello over dmsg";
    prints("curl", words(&["-sS", "-x", &proxy, &url]), hello).await;
    prints("curl", words(&["-sS", "--proxytunnel", "-x", &proxy, &url]), hello).await;
    let socks = world.proxy.to_string();
    prints("curl", words(&["-sS", "--socks5-hostname", &socks, &url]), hello).await;
    let seen = format!("http://{}:8080/seen?a=%20b", host());
    let expected = format!("/seen?a=%20b {}:8080 accept,host,user-agent", host());
    let extra =
        ["-H", "Proxy-Authorization: Basic eDp5", "-H", "Connection: x-hop", "-H", "X-Hop: 1"];
    let mut arguments = words(&["-sS", "-x", &proxy]);
    arguments.extend(words(&extra));
    arguments.push(seen);
    prints("curl", arguments, &expected).await;
    // A body of unknown length, and one that curl announces with Expect: 100-continue.
    let echo = format!("http://{}/echo", host());
    let chunked =
        ["-sS", "-x", &proxy, "-H", "Transfer-Encoding: chunked", "-d", "some words", &echo];
    prints("curl", words(&chunked), "some words").await;
    let expects = ["-sS", "-x", &proxy, "-H", "Expect: 100-continue", "-d", "more words", &echo];
    prints("curl", words(&expects), "more words").await;
    // Several requests of one program share a stream.
    let before = world.dials.load(Ordering::SeqCst);
    let both = ["-sS", "-x", &proxy, &url, &url];
    prints("curl", words(&both), &format!("{hello}{hello}")).await;
    assert!(world.dials.load(Ordering::SeqCst) <= before + 1, "a stream for each request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_and_node() {
    let world = World::web(app()).await;
    let (proxy, url) = (format!("http://{}", world.proxy), format!("http://{}/hello", host()));
    let urllib = "import sys, urllib.request as u\n\
        opener = u.build_opener(u.ProxyHandler({'http': sys.argv[1]}))\n\
        print(opener.open(sys.argv[2]).read().decode())";
    prints("python3", words(&["-c", urllib, &proxy, &url]), "hello over dmsg").await;
    let tunnel = "import sys, http.client as h\n\
        host, port = sys.argv[1].rsplit(':', 1)\n\
        c = h.HTTPConnection(host, int(port)); c.set_tunnel(sys.argv[2], 80)\n\
        c.request('GET', '/hello'); print(c.getresponse().read().decode())";
    let address = world.proxy.to_string();
    prints("python3", words(&["-c", tunnel, &address, &host()]), "hello over dmsg").await;
    let node = "const [host, port] = process.argv[1].split(':');\n\
        require('http').get({host, port, path: process.argv[2]}, r => r.pipe(process.stdout));";
    prints("node", words(&["-e", node, &address, &url]), "hello over dmsg").await;
}

fn git(folder: &Path, arguments: &[&str]) -> bool {
    let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
    let quiet =
        |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    quiet(Command::new("git").current_dir(folder).args(identity).args(arguments))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_clones() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    if !git(&source, &["init", "-q"]) {
        println!("skipped: git is not installed");
        return;
    }
    std::fs::write(source.join("file"), "what is cloned\n").unwrap();
    assert!(git(&source, &["add", "."]) && git(&source, &["commit", "-q", "-m", "one"]));
    // The repository as plain files, as any web server offers them.
    assert!(git(folder.path(), &["clone", "-q", "--bare", "source", "bare.git"]));
    assert!(git(&folder.path().join("bare.git"), &["update-server-info"]));
    let options = dmsg_http::files::FileOptions::default();
    let files = dmsg_http::files::FileService::open(folder.path(), options).unwrap();
    let app = Router::new()
        .fallback(async move |request: axum::extract::Request| files.respond(request).await);
    let world = World::web(app).await;
    let copy = folder.path().join("copy");
    let (proxy, url) =
        (format!("http.proxy=http://{}", world.proxy), format!("http://{}/bare.git", host()));
    let clone = words(&["-c", &proxy, "clone", "-q", &url, copy.to_str().unwrap()]);
    let output = run("git", clone).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(copy.join("file")).unwrap(), "what is cloned\n");
}
