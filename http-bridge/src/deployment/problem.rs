//! What is wrong with a document: where, what, and what to do.

use std::fmt;

/// Problems kept; a document with more is no document, and a hundred say so. Errors come before warnings.
const PROBLEMS_MAX: usize = 100;

/// A line and a column in a text; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// Where `part`, a slice of `whole`, begins.
    pub(super) fn of(whole: &str, part: &str) -> Self {
        let at = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        let before = whole.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            line: 1 + before.bytes().filter(|b| *b == b'\n').count(),
            column: 1 + before[line_start..].chars().count(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The document can be used.
    Warning,
    /// It cannot.
    Error,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the text; nowhere for what is missing.
    pub place: Option<Place>,
    /// Where in the document, such as `$.prod.dmsg_servers[2].static`.
    pub path: String,
    /// What it is.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Problem {
    /// Something that is missing, and so has no place in the text.
    pub(super) fn missing(severity: Severity, path: String, what: &str, advice: &str) -> Self {
        Self { severity, place: None, path, what: what.to_owned(), advice: advice.to_owned() }
    }
}

/// `line:column: path: what: advice`; whoever knows the file's name puts it in front.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        write!(f, "{}: ", self.path)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        write!(f, "{}; {}", self.what, self.advice)
    }
}

/// All that is wrong with a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    left_out: usize,
    has_errors: bool,
    is_tolerant: bool,
}

impl Problems {
    /// Notes a problem; it is made only if there is room for it, since finding its place costs a walk over the text. An
    /// error takes the room of a warning: it is why the document is refused.
    pub(super) fn push(&mut self, severity: Severity, problem: impl FnOnce() -> Problem) {
        self.has_errors |= severity == Severity::Error;
        let severity = if self.is_tolerant { Severity::Warning } else { severity };
        if self.list.len() == PROBLEMS_MAX {
            self.left_out += 1;
            let is_less = |kept: &Problem| kept.severity < severity;
            let Some(at) = self.list.iter().rposition(is_less) else { return };
            self.list.remove(at);
        }
        self.list.push(Problem { severity, ..problem() });
    }

    /// Reads what may be left out: what is wrong in it counts as a warning. Whether anything was.
    pub(super) fn tolerating<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> (T, bool) {
        let was_tolerant = std::mem::replace(&mut self.is_tolerant, true);
        let had_errors = std::mem::take(&mut self.has_errors);
        let read = read(self);
        self.is_tolerant = was_tolerant;
        (read, std::mem::replace(&mut self.has_errors, had_errors))
    }

    /// Whether the document cannot be used.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each problem, in the order of the document.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// How many more there were.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// One line for each, with the name of the file in front.
    #[must_use]
    pub fn in_file(&self, name: &str) -> String {
        let mut lines: Vec<String> =
            self.list.iter().map(|problem| format!("{name}:{problem}")).collect();
        if self.left_out > 0 {
            lines.push(format!("{name}: and {} more", self.left_out));
        }
        lines.join("\n")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.left_out > 0 {
            write!(f, "\nand {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
