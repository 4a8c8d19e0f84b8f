//! Where a response's body goes: stdout or a file, with limits, progress, and honest ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    pin::pin,
};

use http::{HeaderMap, Response};
use http_body::Body;
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncWriteExt;

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

/// What is written to. A reader of stdout may stand still, and must not keep time limits and signals from being noticed.
enum Sink {
    Stdout(tokio::io::Stdout),
    File(File, PathBuf),
}

impl Sink {
    fn stdout() -> Self {
        Self::Stdout(tokio::io::stdout())
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(stdout) => {
                let written = async {
                    stdout.write_all(data).await?;
                    stdout.flush().await
                };
                written.await.map_err(|error| Failure::stdout(&error))
            }
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
    /// Where in the file the body begins, as long as nothing of it came.
    begins_at: Option<u64>,
    received: u64,
    /// Of the whole file, where a part of it comes.
    total: Option<u64>,
    /// Whether what is in the file is a beginning that `--continue-at -` can go on from.
    is_beginning: bool,
    /// Which version of what begins.
    version: Option<(DmsgUrl, HeaderMap)>,
    is_complete: bool,
}

impl Output {
    pub(super) fn stdout(bytes_max: Option<u64>) -> Self {
        Self {
            sink: Sink::stdout(),
            bytes_max,
            bar: bar(!io::stdout().is_terminal(), 0),
            begins_at: None,
            received: 0,
            total: None,
            is_beginning: false,
            version: None,
            is_complete: false,
        }
    }

    /// Opens the file. What is in it stays until something of the body comes; if that is known to be too large, always.
    pub(super) fn file(
        path: PathBuf,
        begun: &Begun,
        response: &Response<ResponseBody>,
        bytes_max: Option<u64>,
    ) -> Result<Self, Failure> {
        if let Some(rest) = response.body().size_hint().exact() {
            check_size(begun.offset.saturating_add(rest), bytes_max)?;
        }
        let fail = |error: io::Error| unwritable(&path, &error);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        // A pipe or a device has no length to cut.
        let is_file = file.metadata().map_err(fail)?.is_file();
        Ok(Self {
            sink: Sink::File(file, path),
            bytes_max,
            bar: bar(true, begun.offset),
            begins_at: is_file.then_some(begun.offset),
            received: begun.offset,
            total: begun.total,
            is_beginning: is_file && response.status().is_success(),
            version: None,
            is_complete: false,
        })
    }

    /// What comes is a part by itself, or not the file alone: nobody can go on from its end.
    pub(super) fn stands_alone(mut self) -> Self {
        self.is_beginning = false;
        self
    }

    /// Receives the body to its end, behind `head` if that is wanted too. What came before a failure stays in the file.
    pub(super) async fn receive(
        mut self,
        url: &DmsgUrl,
        head: &[u8],
        response: Response<ResponseBody>,
    ) -> Result<(), Failure> {
        if let Some(rest) = response.body().size_hint().exact() {
            let whole = self.received.saturating_add(rest);
            self.bar.set_length(whole);
            check_size(whole, self.bytes_max)?;
        }
        self.version = self.is_beginning.then(|| (url.clone(), response.headers().clone()));
        if !head.is_empty() {
            self.write(head).await?;
        }
        self.copy(response.into_body()).await?;
        self.cut()?;
        if let Some(total) = self.total.filter(|total| *total != self.received) {
            let why =
                format!("the server sent a part that ends at byte {} of {total}", self.received);
            return Err(Failure::new(Exit::Partial, why));
        }
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
            check_size(self.received + data.len() as u64, self.bytes_max)?;
            self.write(&data).await?;
            self.received += data.len() as u64;
            self.bar.set_position(self.received);
        }
        Ok(())
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.cut()?;
        self.sink.write(data).await
    }

    /// Cuts the file to where the body begins, once, and notes which version that is. While one is gone on with, its note
    /// stays as it is.
    fn cut(&mut self) -> Result<(), Failure> {
        let (Some(offset), Sink::File(file, path)) = (self.begins_at.take(), &mut self.sink) else {
            return Ok(());
        };
        file.set_len(offset)
            .and_then(|()| file.seek(SeekFrom::Start(offset)).map(drop))
            .map_err(|error| unwritable(path, &error))?;
        match &self.version {
            _ if offset > 0 => {}
            Some((url, headers)) => write_note(path, url, headers),
            None => remove_note(path),
        }
        Ok(())
    }
}

fn check_size(size: u64, max: Option<u64>) -> Result<(), Failure> {
    match max {
        Some(max) if size > max => Err(HttpError::BodyTooLarge { max }.into()),
        _ => Ok(()),
    }
}

/// However it ends, by failure, signal or time limit: a partial file does not stay unmentioned.
impl Drop for Output {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let (false, Sink::File(file, path)) = (self.is_complete, &self.sink)
            && self.received > 0
            && let Ok(meta) = file.metadata()
            && meta.is_file()
        {
            let path = path.display();
            if self.is_beginning {
                let received = self.received;
                eprintln!(
                    "dmsg: {path} holds the first {received} bytes; --continue-at - goes on from there"
                );
            } else {
                eprintln!("dmsg: {path} is incomplete; it has {} bytes", meta.len());
            }
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
