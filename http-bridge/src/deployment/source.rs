//! Which document a program starts with (`deployment-config.md §2`).
//!
//! `--deployment FILE` wins over the environment variable `SKYDEPLOY`, which names a file, and that over what is embedded.
//! Each replaces the whole document: nothing is merged, but for the list of servers that is lent to the very deployment
//! it was published with.

use std::{
    ffi::OsStr,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::{
    document::{DOCUMENT_BYTES_MAX, Document},
    problem::Problems,
};

/// The public deployment as it was when this program was made.
const EMBEDDED: &str = include_str!("embedded.json");

/// Where a document came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file of `--deployment`.
    File(PathBuf),
    /// The file that `SKYDEPLOY` names.
    Variable(PathBuf),
    /// The program itself.
    Embedded,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(path) => write!(f, "{} (SKYDEPLOY)", path.display()),
            Self::Embedded => f.write_str("the embedded deployment"),
        }
    }
}

/// A document, and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The document.
    pub document: Document,
    /// Whence.
    pub origin: Origin,
    /// What is strange about it.
    pub warnings: Problems,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{origin}: {error}{}", hint(.origin))]
    Unreadable {
        /// Which.
        origin: Origin,
        /// Why.
        error: io::Error,
    },
    /// It is too long, or no text.
    #[error("{origin}: {what}")]
    NoDocument {
        /// Which.
        origin: Origin,
        /// Why.
        what: String,
    },
    /// What it says is wrong.
    #[error("{}", .problems.in_file(&.origin.to_string()))]
    Invalid {
        /// Which.
        origin: Origin,
        /// All of it.
        problems: Problems,
    },
}

fn hint(origin: &Origin) -> &'static str {
    match origin {
        Origin::Variable(_) => "; correct or unset SKYDEPLOY",
        _ => "",
    }
}

/// The document to start with. `variable` is the value of `SKYDEPLOY`; an empty one counts as none.
pub fn load(file: Option<&Path>, variable: Option<&OsStr>) -> Result<Loaded, LoadError> {
    let default = match variable.filter(|value| !value.is_empty()) {
        // A file of --deployment does not depend on a variable that may be wrong.
        Some(_) if file.is_some() => None,
        Some(value) => Some(read(Origin::Variable(value.into()))?),
        None => Some(Loaded {
            document: embedded().clone(),
            origin: Origin::Embedded,
            warnings: Problems::default(),
        }),
    };
    let mut loaded = match (file, default) {
        (Some(path), _) => read(Origin::File(path.to_owned()))?,
        (None, Some(default)) => default,
        (None, None) => unreachable!("without a file there is a default"),
    };
    for (services, lender) in [
        (&mut loaded.document.prod, &embedded().prod),
        (&mut loaded.document.test, &embedded().test),
    ] {
        if services.borrow_servers(lender) {
            tracing::debug!("the deployment lists no servers; those it is known to have are used");
        }
    }
    Ok(loaded)
}

/// The embedded document.
#[must_use]
pub fn embedded() -> &'static Document {
    static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
        Document::parse(EMBEDDED).expect("the embedded document is valid: a test reads it").0
    });
    &DOCUMENT
}

fn read(origin: Origin) -> Result<Loaded, LoadError> {
    let path = match &origin {
        Origin::File(path) | Origin::Variable(path) => path.clone(),
        Origin::Embedded => PathBuf::new(),
    };
    let mut bytes = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(LoadError::Unreadable { origin, error });
    }
    if bytes.len() > DOCUMENT_BYTES_MAX {
        let what = format!("more than {DOCUMENT_BYTES_MAX} bytes are no deployment document");
        return Err(LoadError::NoDocument { origin, what });
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let what = format!("no UTF-8 text: the byte at {at} is wrong; save the file as UTF-8");
            return Err(LoadError::NoDocument { origin, what });
        }
    };
    match Document::parse(&text) {
        Ok((document, warnings)) => Ok(Loaded { document, origin, warnings }),
        Err(problems) => Err(LoadError::Invalid { origin, problems }),
    }
}
