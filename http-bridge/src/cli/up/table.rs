//! The status on a terminal: one table, drawn again in its place.

use std::fmt::Write;

use super::spell;
use crate::{
    access::{Path, Readiness},
    visor::{ServiceView, VisorStatus},
};

const BOLD: &str = "\x1b[1m";
const SOFT: &str = "\x1b[2m";
const GOOD: &str = "\x1b[32m";
const BAD: &str = "\x1b[31m";
const WAIT: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// Columns of the table before the last one, which takes the rest.
const WIDTHS: [usize; 5] = [20, 5, 10, 11, 11];

/// Columns of a terminal that does not say.
const COLUMNS: usize = 100;

pub(super) struct Table {
    page: String,
    /// Lines that stand on the terminal.
    drawn: usize,
}

/// Columns and rows of the terminal on stdout.
pub(super) fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((COLUMNS, usize::MAX), |size| (size.ws_col.into(), size.ws_row.into()))
}

impl Table {
    pub(super) fn new(page: &str) -> Self {
        Self { page: page.to_owned(), drawn: 0 }
    }

    /// What puts the status where the last one stood. A line is never longer than the terminal is wide, and there are
    /// never more than it has rows: else the cursor could not find back.
    pub(super) fn draw(&mut self, status: &VisorStatus, (columns, rows): (usize, usize)) -> String {
        let mut lines = self.head(status);
        lines.extend(status.services.iter().map(line));
        lines.truncate(rows.saturating_sub(1));
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A", self.drawn);
        }
        text.push_str("\r\x1b[J");
        for line in &lines {
            for (colour, part) in fitted(line, columns) {
                let _ = write!(text, "{colour}{part}{PLAIN}");
            }
            text.push('\n');
        }
        self.drawn = lines.len();
        text
    }

    fn head(&self, status: &VisorStatus) -> Vec<Line> {
        let (answering, present) = status.answering();
        let colour = match &status.readiness {
            Readiness::Ready { .. } => GOOD,
            Readiness::Failed { .. } => BAD,
            _ => WAIT,
        };
        let all = if answering == present { GOOD } else { WAIT };
        let first = |path| status.first_answer(path).map_or_else(|| "none yet".to_owned(), spell);
        let (dmsg, http) = (first(Path::Dmsg), first(Path::Http));
        let mut heads = Line::new();
        for (name, width) in
            ["service", "path", "latency", "first DMSG", "first HTTP"].iter().zip(WIDTHS)
        {
            heads.push((SOFT, format!("{name:width$} ")));
        }
        heads.push((SOFT, "last answer or error".to_owned()));
        vec![
            vec![
                (BOLD, format!("visor {} ", status.public_key)),
                (SOFT, format!("up {}", spell(status.uptime))),
            ],
            vec![("", "DMSG ".to_owned()), (colour, status.readiness.to_string())],
            vec![
                (all, format!("{answering} of {present} services answer")),
                (SOFT, format!("   first answer over DMSG: {dmsg}, over HTTP: {http}")),
            ],
            vec![(SOFT, format!("status page {}", self.page))],
            Line::new(),
            heads,
        ]
    }
}

/// Pieces with their colours.
type Line = Vec<(&'static str, String)>;

fn line(service: &ServiceView) -> Line {
    let name = service.access.service.name();
    let [w0, w1, w2, w3, w4] = WIDTHS;
    if !service.is_present() {
        return vec![(SOFT, format!("{name:w0$} not in this deployment"))];
    }
    let used = service.access.in_use;
    let latency = used.and_then(|path| service.path(path)?.latency);
    let first = |path| {
        let first = service.path(path).map(|path| path.first_answer);
        first.map_or_else(|| "-".to_owned(), |first| first.map_or_else(String::new, spell))
    };
    let (colour, last) = match &service.last_call {
        None => (SOFT, "calling …".to_owned()),
        Some(call) => match &call.outcome {
            Ok(answer) => ("", answer.clone()),
            Err(error) => (BAD, error.clone()),
        },
    };
    vec![
        (BOLD, format!("{name:w0$} ")),
        (
            if used == Some(Path::Dmsg) { GOOD } else { WAIT },
            format!("{:w1$} ", used.map(|p| p.to_string()).unwrap_or_default()),
        ),
        ("", format!("{:w2$} ", latency.map(spell).unwrap_or_default())),
        (SOFT, format!("{:w3$} {:w4$} ", first(Path::Dmsg), first(Path::Http))),
        (colour, last),
    ]
}

/// As much of a line as fits. Text of the network may hold control characters; they are left out.
fn fitted(line: &Line, columns: usize) -> Line {
    let mut left = columns;
    let mut fitted = Line::new();
    for (colour, part) in line {
        let part: String = part.chars().filter(|c| !c.is_control()).take(left).collect();
        left -= part.chars().count();
        fitted.push((colour, part));
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_the_terminal_and_no_text_moves_the_cursor() {
        let line = vec![(BOLD, "abc\x1b[2J\r\ndef".to_owned()), ("", "ghi".to_owned())];
        let texts =
            |columns| -> String { fitted(&line, columns).into_iter().map(|(_, t)| t).collect() };
        assert_eq!(texts(100), "abc[2Jdefghi");
        assert_eq!(texts(5), "abc[2");
        assert_eq!(texts(0), "");
    }
}
