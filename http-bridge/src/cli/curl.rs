//! `dmsg curl`: requests to `dmsg://` URLs, with curl's names for what curl has (`dmsg-http.md §8.1`).
//!
//! One client serves all URLs of a call. The first failure ends it.

mod output;
mod resume;
mod upload;

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use dmsg_engine::client::Client;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use self::{
    output::Output,
    resume::{Resume, Start},
};
use super::{
    exit::{Exit, Failure},
    flags::{ClientFlags, Visibility, seconds},
    stop_signal,
};
use crate::{
    http::{HttpClient, HttpConfig, Request, RequestBody, ResponseBody},
    url::DmsgUrl,
};

/// Bytes of `--data` from a file or from stdin; what is larger goes with `--upload-file`, which streams.
const DATA_MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct CurlArgs {
    /// dmsg://<public key>[:port]/path; several are fetched one after the other.
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,

    #[command(flatten)]
    client: ClientFlags,

    /// Method; GET, or POST with --data, PUT with --upload-file, HEAD with --head.
    #[arg(short = 'X', long, value_name = "METHOD")]
    request: Option<String>,

    /// A header, "Name: value"; may be repeated. "Name:" without value removes
    /// one that --data or --user-agent set.
    #[arg(short = 'H', long, value_name = "HEADER")]
    header: Vec<String>,

    /// Body to send; @FILE reads a file, @- stdin, once for all URLs. Makes the request a POST.
    #[arg(short = 'd', long, value_name = "DATA", conflicts_with = "upload_file")]
    data: Option<String>,

    /// File to send as it is read; - for stdin. Makes the request a PUT.
    #[arg(short = 'T', long, value_name = "FILE")]
    upload_file: Option<PathBuf>,

    /// Ask for the head of the response only, and print it.
    #[arg(short = 'I', long)]
    head: bool,

    /// Print the head of the response before its body.
    #[arg(short = 'i', long)]
    include: bool,

    /// Fail (exit code 22, no output) on HTTP status 400 and above.
    #[arg(short = 'f', long)]
    fail: bool,

    /// Follow redirects, at most five, to the same key only.
    #[arg(short = 'L', long)]
    location: bool,

    /// Write the body to a file.
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write the body to a file in this folder, named as the last part of the URL's path.
    #[arg(short = 'O', long, conflicts_with = "output")]
    remote_name: bool,

    /// Ask for a part only: FIRST-LAST, FIRST- or -LENGTH, in bytes.
    #[arg(
        short = 'r', long, value_name = "RANGE", conflicts_with = "continue_at",
        allow_hyphen_values = true, value_parser = check_range
    )]
    range: Option<String>,

    /// Go on with a download at this byte; - means where the file ends.
    #[arg(short = 'C', long, value_name = "OFFSET", allow_hyphen_values = true, value_parser = Resume::parse)]
    continue_at: Option<Resume>,

    /// Seconds the whole call may take; 0 means no limit.
    #[arg(long, value_name = "SECONDS")]
    max_time: Option<f64>,

    /// Seconds to wait for a session with a server, and for a stream to the peer.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    connect_timeout: f64,

    /// Largest body that is taken, in bytes.
    #[arg(long, value_name = "BYTES")]
    max_filesize: Option<u64>,

    /// What to call ourselves.
    #[arg(short = 'A', long, value_name = "NAME")]
    user_agent: Option<String>,

    /// Show requests and responses on stderr, and log at info; the same as -v.
    #[arg(long)]
    pub(super) verbose: bool,
}

pub(super) async fn run(args: CurlArgs) -> Result<(), Failure> {
    let urls: Vec<DmsgUrl> =
        args.urls.iter().map(|url| Ok(url.parse()?)).collect::<Result<_, Failure>>()?;
    if urls.len() > 1 && args.output.is_some() {
        return Err(Failure::usage("--output takes one URL; use --remote-name for several"));
    }
    if urls.len() > 1 && args.upload_file.as_ref().is_some_and(|file| file.as_os_str() == "-") {
        return Err(Failure::usage(
            "--upload-file - can be sent once; use --data @- for several URLs",
        ));
    }
    let connect_timeout = seconds("--connect-timeout", args.connect_timeout)?;
    if connect_timeout.is_zero() {
        return Err(Failure::usage("--connect-timeout 0: nothing connects in no time"));
    }
    let max_time = args.max_time.map(|max| seconds("--max-time", max)).transpose()?;
    let max_time = max_time.filter(|max| !max.is_zero());
    check_request(&args, &urls[0])?;
    let key = args.client.identity.given_or_fresh()?;
    let limit = Limit::starting_now(max_time);
    let data = limit.keep(data(args.data.clone())).await?;
    let (engine, _) = args.client.start(key, Visibility::Hidden)?;
    let all = async {
        ready(&engine, connect_timeout).await?;
        let config = http_config(connect_timeout, max_time);
        let client = HttpClient::with_config(engine.clone(), config);
        for url in urls {
            fetch(&args, data.as_ref(), &client, url).await?;
        }
        Ok(())
    };
    let result = limit.keep(all).await;
    engine.close().await;
    result
}

/// When the whole call must be over; a signal ends it too.
#[derive(Clone, Copy)]
struct Limit(Option<(Instant, Duration)>);

impl Limit {
    fn starting_now(max: Option<Duration>) -> Self {
        // What is too far away to be a time is no limit.
        Self(max.and_then(|max| Some((Instant::now().checked_add(max)?, max))))
    }

    async fn keep<T>(self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let within = async {
            let Some((at, max)) = self.0 else { return work.await };
            timeout_at(at, work).await.unwrap_or_else(|_| {
                let seconds = max.as_secs_f64();
                let message = format!("not done within {seconds} s (--max-time)");
                Err(Failure::new(Exit::Timeout, message))
            })
        };
        tokio::select! {
            result = within => result,
            () = stop_signal() => Err(Failure::new(Exit::Interrupted, "interrupted")),
        }
    }
}

/// Whoever allows the whole call more time than usual means a slow service.
fn http_config(connect_timeout: Duration, max_time: Option<Duration>) -> HttpConfig {
    let usual = HttpConfig::default();
    let longer = |timeout: Duration| max_time.map_or(timeout, |max| max.max(timeout));
    HttpConfig {
        connect_timeout,
        head_timeout: longer(usual.head_timeout),
        body_timeout: longer(usual.body_timeout),
        ..usual
    }
}

async fn ready(engine: &Client, limit: Duration) -> Result<(), Failure> {
    match timeout(limit, engine.ready()).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::new(
            Exit::Connect,
            format!("no session with any server within {limit:?}: check --server and --discovery"),
        )),
    }
}

/// Bad arguments are found before anything is dialled.
fn check_request(args: &CurlArgs, url: &DmsgUrl) -> Result<(), Failure> {
    head(args, url.clone())?;
    if args.continue_at.is_some() && args.output.is_none() && !args.remote_name {
        return Err(Failure::usage("--continue-at needs a file: give --output or --remote-name"));
    }
    if args.continue_at.is_some() && (args.head || args.include) {
        return Err(Failure::usage(
            "--continue-at goes on with a body: leave --head and --include out",
        ));
    }
    Ok(())
}

/// `FIRST-LAST`, `FIRST-` or `-LENGTH`; several with commas between. What is no range would be ignored by
/// servers, and the whole sent.
fn check_range(text: &str) -> Result<String, String> {
    let number = |part: &str| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u64>().ok()).flatten()
    };
    let is_range = |part: &str| match part.trim().split_once('-') {
        Some(("", length)) => number(length).is_some(),
        Some((first, "")) => number(first).is_some(),
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) => first <= last,
            _ => false,
        },
        None => false,
    };
    if text.split(',').all(is_range) {
        Ok(text.to_owned())
    } else {
        Err("FIRST-LAST, FIRST- or -LENGTH is wanted, in bytes, FIRST at most LAST".to_owned())
    }
}

/// The request without its body.
fn head(args: &CurlArgs, url: DmsgUrl) -> Result<Request, Failure> {
    let method = match &args.request {
        Some(name) => Method::from_bytes(name.as_bytes())
            .map_err(|_| Failure::usage(format!("{name:?} is no HTTP method")))?,
        None if args.head => Method::HEAD,
        None if args.data.is_some() => Method::POST,
        None if args.upload_file.is_some() => Method::PUT,
        None => Method::GET,
    };
    let mut request = Request::new(method, url);
    if args.data.is_some() {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(header::CONTENT_TYPE, form);
    }
    if let Some(agent) = &args.user_agent {
        let agent = HeaderValue::from_str(agent)
            .map_err(|_| Failure::usage("--user-agent holds a control character"))?;
        request.headers.insert(header::USER_AGENT, agent);
    }
    if let Some(range) = &args.range {
        let value = HeaderValue::try_from(format!("bytes={range}"))
            .map_err(|_| Failure::usage("--range holds a control character"))?;
        request.headers.insert(header::RANGE, value);
    }
    set_headers(&mut request.headers, &args.header)?;
    Ok(request)
}

/// A header given once or more replaces a default one; a name without value removes it.
fn set_headers(headers: &mut HeaderMap, lines: &[String]) -> Result<(), Failure> {
    let mut given = HeaderMap::new();
    for line in lines {
        let bad = || Failure::usage(format!("--header {line:?} is not \"Name: value\""));
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
        match value.trim() {
            "" => drop(headers.remove(&name)),
            value => drop(given.append(name, value.parse().map_err(|_| bad())?)),
        }
    }
    headers.extend(given);
    Ok(())
}

/// The body of `--data`. Stdin or a pipe may take its time, and signals and limits must be noticed meanwhile.
async fn data(given: Option<String>) -> Result<Option<Bytes>, Failure> {
    let Some(given) = given else { return Ok(None) };
    let Some(source) = given.strip_prefix('@').map(str::to_owned) else {
        return Ok(Some(given.into()));
    };
    let read = spawn_blocking(move || read_data(&source)).await;
    read.map_err(|error| Failure::new(Exit::Read, error.to_string()))?.map(Some)
}

async fn body(args: &CurlArgs, data: Option<&Bytes>) -> Result<RequestBody, Failure> {
    if let Some(data) = data {
        return Ok(RequestBody::Full(data.clone()));
    }
    let Some(path) = &args.upload_file else { return Ok(RequestBody::Empty) };
    if path.as_os_str() == "-" {
        return Ok(upload::body(tokio::io::stdin(), None));
    }
    let file = tokio::fs::File::open(path).await.map_err(|error| unreadable(path, &error))?;
    let meta = file.metadata().await.map_err(|error| unreadable(path, &error))?;
    if meta.is_dir() {
        return Err(unreadable(path, &io::ErrorKind::IsADirectory.into()));
    }
    // A pipe or a device does not know how much will come.
    let length = meta.is_file().then_some(meta.len());
    Ok(upload::body(file, length))
}

fn read_data(source: &str) -> Result<Bytes, Failure> {
    let fail = |error: io::Error| unreadable(source.as_ref(), &error);
    let mut data = Vec::new();
    let reader: Box<dyn Read> = match source {
        "-" => Box::new(io::stdin()),
        path => Box::new(std::fs::File::open(path).map_err(fail)?),
    };
    reader.take(DATA_MAX_BYTES + 1).read_to_end(&mut data).map_err(fail)?;
    if data.len() as u64 > DATA_MAX_BYTES {
        return Err(Failure::usage(format!(
            "--data @{source} has more than {DATA_MAX_BYTES} bytes; send it with --upload-file"
        )));
    }
    Ok(data.into())
}

fn unreadable(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Read, format!("{}: {error}", path.display()))
}

async fn fetch(
    args: &CurlArgs,
    data: Option<&Bytes>,
    client: &HttpClient<Client>,
    url: DmsgUrl,
) -> Result<(), Failure> {
    let file = output::file_name(args.output.as_deref(), args.remote_name, &url)?;
    let mut request = head(args, url.clone())?;
    request.body = body(args, data).await?;
    let is_part = request.headers.contains_key(header::RANGE);
    let start = match (&file, args.continue_at) {
        (Some(path), Some(resume)) => resume.start(path, &url)?,
        _ => Start::default(),
    };
    start.ask(&mut request.headers);
    if args.verbose {
        show_request(&request);
    }
    let response = if args.location {
        client.send_following(request).await?.1
    } else {
        client.send(request).await?
    };
    if args.verbose {
        show_head("< ", &response, &mut io::stderr());
    }
    let status = response.status();
    if args.fail && status.as_u16() >= 400 && !(start.offset > 0 && status.as_u16() == 416) {
        return Err(Failure::new(Exit::HttpStatus, format!("{url} answered {status}")));
    }
    let mut head = Vec::new();
    if args.include || args.head {
        show_head("", &response, &mut head);
        head.extend_from_slice(b"\r\n");
    }
    let output = match file {
        None => Output::stdout(args.max_filesize),
        Some(path) => {
            let Some(begun) = start.check(&path, &response)? else {
                tracing::info!(file = %path.display(), "the file is complete already");
                return Ok(());
            };
            let output = Output::file(path, &begun, &response, args.max_filesize)?;
            if is_part || !head.is_empty() { output.stands_alone() } else { output }
        }
    };
    output.receive(&url, &head, response).await
}

fn show_request(request: &Request) {
    eprintln!("> {} {} HTTP/1.1", request.method, request.url.target());
    eprintln!("> Host: {}", request.url.host());
    for (name, value) in &request.headers {
        eprintln!("> {name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    eprintln!(">");
}

fn show_head(mark: &str, response: &Response<ResponseBody>, to: &mut impl Write) {
    let _ = write!(to, "{mark}{:?} {}\r\n", response.version(), response.status());
    for (name, value) in response.headers() {
        let _ = write!(to, "{mark}{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn given_headers_replace_default_ones_and_keep_each_other() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("default"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("default"));
        let lines = ["A: 1", "content-type: own", "a: 2", "User-Agent:"].map(str::to_owned);
        set_headers(&mut headers, &lines).unwrap();
        assert_eq!(headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers.get_all("content-type").iter().collect::<Vec<_>>(), ["own"]);
        assert!(!headers.contains_key("user-agent"));
        assert!(set_headers(&mut headers, &["A: b\nc".to_owned()]).is_err());
    }
}
