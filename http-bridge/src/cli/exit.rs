//! Exit codes. Where curl has a code for a cause, it is that one.

use std::{io, process::ExitCode};

use dmsg_engine::client::DialError;

use crate::{
    http::HttpError,
    url::{RedirectError, UrlError},
};

/// Shown at the end of `dmsg --help` and in `docs/cli.md`.
pub(super) const TABLE: &str = "\
Exit codes:
   0  done (also when the reader of stdout went away)
   1  another failure
   2  bad arguments or configuration
   3  bad URL
   6  peer not found in discovery
   7  cannot connect: no server, or the peer refused
  18  the body broke off; what came is kept
  22  HTTP status 400 or above, with --fail
  23  cannot write the output
  26  cannot read the input
  28  timed out
  33  the range cannot be had, or the file has changed since
  47  redirected too often, or out of reach
  56  broken or malformed response
  63  larger than --max-filesize
 130  interrupted";

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Ok = 0,
    Other = 1,
    Usage = 2,
    Url = 3,
    NotFound = 6,
    Connect = 7,
    Partial = 18,
    HttpStatus = 22,
    Write = 23,
    Read = 26,
    Timeout = 28,
    Range = 33,
    Redirect = 47,
    Receive = 56,
    TooLarge = 63,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A line on stderr. Its reader may have gone away, which is no reason to stop half-way, as `eprintln!` does.
pub(super) fn tell(line: impl std::fmt::Display) {
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{line}\n"));
}

/// A line of what the program is there to say, on stdout. Nobody who reads it is no failure.
pub(super) fn say(line: impl std::fmt::Display) -> Result<(), Failure> {
    let written = io::Write::write_fmt(&mut io::stdout(), format_args!("{line}\n"));
    match written.map_err(|error| Failure::stdout(&error)) {
        Err(failure) if failure.exit != Exit::Ok => Err(failure),
        _ => Ok(()),
    }
}

/// Why a subcommand ends, for the user and for the caller's script.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// Empty when there is nothing to say.
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Writing to stdout failed. A reader that has seen enough is no failure.
    pub(super) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Exit::Ok, "")
        } else {
            Self::new(Exit::Write, format!("cannot write to stdout: {error}"))
        }
    }
}

impl From<UrlError> for Failure {
    fn from(error: UrlError) -> Self {
        Self::new(Exit::Url, error.to_string())
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        let exit = match &error {
            HttpError::Connect { source, .. } => {
                source.downcast_ref().map_or(Exit::Connect, of_dial)
            }
            HttpError::StreamsExhausted { .. } => Exit::Connect,
            HttpError::Redirect(RedirectError::Url(_)) | HttpError::Url(_) => Exit::Url,
            HttpError::Status { .. } => Exit::HttpStatus,
            HttpError::Redirect(_)
            | HttpError::RedirectedBody(_)
            | HttpError::TooManyRedirects(_) => Exit::Redirect,
            HttpError::BodyTooLarge { .. } => Exit::TooLarge,
            HttpError::RequestBody(_) => Exit::Read,
            HttpError::Request(_) | HttpError::RequestTooLarge { .. } => Exit::Usage,
            error if error.is_timeout() => Exit::Timeout,
            _ => Exit::Receive,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        Self::new(of_dial(&error), error.to_string())
    }
}

fn of_dial(error: &DialError) -> Exit {
    match error {
        DialError::NotFound(_) => Exit::NotFound,
        DialError::TimedOut { .. } => Exit::Timeout,
        _ => Exit::Connect,
    }
}
