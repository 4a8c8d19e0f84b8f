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

/// Columns of the table before the last one, which takes the rest: their names and widths.
const COLUMNS: [(&str, usize); 5] =
    [("service", 20), ("path", 5), ("latency", 10), ("first DMSG", 11), ("first HTTP", 11)];

/// Characters that the last column gets, if others can be left out for it: an error is worth more than when a path
/// answered first, and that more than nothing.
const LAST_WIDTH_MIN: usize = 36;

/// Width of a terminal that does not say.
const TERMINAL_WIDTH: usize = 100;

pub(super) struct Table {
    page: String,
    /// Lines that stand on the terminal.
    drawn: usize,
}

/// Columns and rows of the terminal on stdout.
pub(super) fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((TERMINAL_WIDTH, usize::MAX), |size| (size.ws_col.into(), size.ws_row.into()))
}

impl Table {
    pub(super) fn new(page: &str) -> Self {
        Self { page: page.to_owned(), drawn: 0 }
    }

    /// What puts the status where the last one stood. A line is never longer than the terminal is wide, and there are
    /// never more than it has rows: else the cursor could not find back.
    pub(super) fn draw(&mut self, status: &VisorStatus, (columns, rows): (usize, usize)) -> String {
        let shown = columns_shown(columns);
        let mut lines = self.head(status, shown);
        lines.extend(status.services.iter().map(|service| line(service, shown)));
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

    fn head(&self, status: &VisorStatus, shown: usize) -> Vec<Line> {
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
        for (name, width) in &COLUMNS[..shown] {
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

/// How many columns there are before the last one, on a terminal so wide.
fn columns_shown(terminal: usize) -> usize {
    let width = |shown: usize| COLUMNS[..shown].iter().map(|(_, width)| width + 1).sum::<usize>();
    (1..=COLUMNS.len()).rev().find(|shown| width(*shown) + LAST_WIDTH_MIN <= terminal).unwrap_or(1)
}

fn line(service: &ServiceView, shown: usize) -> Line {
    let name = service.access.service.name();
    if !service.is_present() {
        let width = COLUMNS[0].1;
        return vec![(SOFT, format!("{name:width$} not in this deployment"))];
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
            // Whose error it is stands at the beginning of the line.
            Err(error) => {
                let itself = format!("{name} did not answer: ");
                (BAD, error.strip_prefix(&itself).unwrap_or(error).to_owned())
            }
        },
    };
    let path_colour = if used == Some(Path::Dmsg) { GOOD } else { WAIT };
    let cells = [
        (BOLD, name.to_owned()),
        (path_colour, used.map(|path| path.to_string()).unwrap_or_default()),
        ("", latency.map(spell).unwrap_or_default()),
        (SOFT, first(Path::Dmsg)),
        (SOFT, first(Path::Http)),
    ];
    let cells = cells.into_iter().zip(COLUMNS).take(shown);
    let padded = cells.map(|((colour, text), (_, width))| (colour, format!("{text:width$} ")));
    padded.chain([(colour, last)]).collect()
}

/// As much of a line as fits, and a mark where it was cut. Text of the network may hold control characters; they are left
/// out.
fn fitted(line: &Line, columns: usize) -> Line {
    let shown = |part: &str| part.chars().filter(|c| !c.is_control()).count();
    let whole: usize = line.iter().map(|(_, part)| shown(part)).sum();
    let mut left = if whole > columns { columns.saturating_sub(1) } else { whole };
    let mut fitted = Line::new();
    for (colour, part) in line {
        let part: String = part.chars().filter(|c| !c.is_control()).take(left).collect();
        left -= part.chars().count();
        fitted.push((colour, part));
    }
    if whole > columns && columns > 0 {
        fitted.push((SOFT, "…".to_owned()));
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
        assert_eq!(texts(12), "abc[2Jdefghi");
        assert_eq!(texts(11), "abc[2Jdefg…");
        assert_eq!(texts(5), "abc[…");
        assert_eq!(texts(1), "…");
        assert_eq!(texts(0), "");
    }

    #[test]
    fn a_narrow_terminal_shows_errors_rather_than_times() {
        assert_eq!(
            [200, 98, 97, 86, 80, 74, 73, 40, 0].map(columns_shown),
            [5, 5, 4, 4, 3, 3, 2, 1, 1]
        );
    }
}
