//! Where a response's body goes: stdout or a file, with limits, progress, and honest ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    pin::pin,
};

use http::Response;
use http_body::Body;
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    super::exit::{Exit, Failure},
    resume::{Begun, remove_note, unwritable, write_note},
};
use crate::{
    http::{HttpError, ResponseBody},
    url::DmsgUrl,
};

/// The file of `--output` or `--remote-name`; `None` for stdout.
pub(super) fn file_name(
    output: Option<&Path>,
    remote_name: bool,
    url: &DmsgUrl,
) -> Result<Option<PathBuf>, Failure> {
    if !remote_name {
        return Ok(output.filter(|path| path.as_os_str() != "-").map(Path::to_path_buf));
    }
    // Decoded, a name could hold a slash; as it stands in the URL, it cannot leave this folder.
    match url.path().rsplit('/').next() {
        Some(name) if !matches!(name, "" | "." | "..") => Ok(Some(PathBuf::from(name))),
        _ => Err(Failure::usage(format!("{url} names no file: use --output FILE"))),
    }
}

/// What is written to.
pub(super) enum Sink {
    Stdout(io::Stdout),
    File(File, PathBuf),
}

impl Sink {
    pub(super) fn stdout() -> Self {
        Self::Stdout(io::stdout())
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(stdout) => stdout
                .write_all(data)
                .and_then(|()| stdout.flush())
                .map_err(|error| Failure::stdout(&error)),
            Self::File(file, path) => {
                file.write_all(data).map_err(|error| unwritable(path, &error))
            }
        }
    }
}

/// A body being received.
pub(super) struct Output {
    sink: Sink,
    bytes_max: Option<u64>,
    bar: ProgressBar,
    received: u64,
    is_complete: bool,
}

impl Output {
    pub(super) fn stdout(bytes_max: Option<u64>) -> Self {
        let bar = bar(!io::stdout().is_terminal(), 0);
        Self { sink: Sink::stdout(), bytes_max, bar, received: 0, is_complete: false }
    }

    /// Opens the file, cuts it to where the body begins, and notes which version comes now.
    pub(super) fn file(
        path: PathBuf,
        url: &DmsgUrl,
        begun: &Begun,
        response: &Response<ResponseBody>,
        bytes_max: Option<u64>,
    ) -> Result<Self, Failure> {
        let fail = |error: io::Error| unwritable(&path, &error);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        // A pipe or a device has no length to cut.
        if file.metadata().map_err(fail)?.is_file() {
            file.set_len(begun.offset).map_err(fail)?;
            file.seek(SeekFrom::Start(begun.offset)).map_err(fail)?;
            if response.status().is_success() {
                write_note(&path, url, response.headers());
            }
        }
        Ok(Self {
            sink: Sink::File(file, path),
            bytes_max,
            bar: bar(true, begun.offset),
            received: begun.offset,
            is_complete: false,
        })
    }

    /// Receives the body to its end. What came before a failure stays in the file.
    pub(super) async fn receive(mut self, response: Response<ResponseBody>) -> Result<(), Failure> {
        let body = response.into_body();
        if let Some(rest) = body.size_hint().exact() {
            self.bar.set_length(self.received + rest);
            self.check_size(self.received + rest)?;
        }
        self.copy(body).await?;
        self.is_complete = true;
        if let Sink::File(_, path) = &self.sink {
            remove_note(path);
        }
        Ok(())
    }

    async fn copy(&mut self, body: ResponseBody) -> Result<(), Failure> {
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(broken_off)?.into_data() else { continue };
            self.check_size(self.received + data.len() as u64)?;
            self.sink.write(&data)?;
            self.received += data.len() as u64;
            self.bar.set_position(self.received);
        }
        Ok(())
    }

    fn check_size(&self, size: u64) -> Result<(), Failure> {
        match self.bytes_max {
            Some(max) if size > max => Err(HttpError::BodyTooLarge { max }.into()),
            _ => Ok(()),
        }
    }
}

/// However it ends, by failure, signal or time limit: a partial file does not stay unmentioned.
impl Drop for Output {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let (false, Sink::File(file, path)) = (self.is_complete, &self.sink)
            && self.received > 0
            && file.metadata().is_ok_and(|meta| meta.is_file())
        {
            eprintln!(
                "dmsg: {} holds the first {} bytes; --continue-at - goes on from there",
                path.display(),
                self.received
            );
        }
    }
}

fn broken_off(error: HttpError) -> Failure {
    let partial = matches!(
        error,
        HttpError::Incomplete { .. } | HttpError::Stream { .. } | HttpError::Reclaimed { .. }
    );
    if partial { Failure::new(Exit::Partial, error.to_string()) } else { error.into() }
}

/// A progress bar, for a person who would otherwise see nothing.
fn bar(wanted: bool, position: u64) -> ProgressBar {
    let is_shown = wanted && io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    let template = "{bytes:>11} / {total_bytes:<11} {wide_bar} {bytes_per_sec:>13} {eta:>5}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_position(position);
    bar
}
