//! Files that are whole at any moment: the old content or the new, never a part (`deployment-config.md §5`, `§6`).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner: it holds a secret.
    Private,
    /// Everybody, as far as the process's mask allows.
    Shared,
}

/// Replaces a file: writes a new one beside it, forces that to the disk, and renames it over the old one. The folder is
/// made if it is missing. What a symbolic link names is replaced, not the link.
pub fn replace(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    put(path, content, access, |temporary, path| fs::rename(temporary, path))
}

/// The same for a file that must not be there yet, not even by now.
pub fn create(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    put(path, content, access, |temporary, path| match fs::hard_link(temporary, path) {
        Ok(()) => fs::remove_file(temporary),
        // Some file systems have no links; what is there is seen at the least.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
            fs::rename(temporary, path)
        }
        Err(error) => Err(error),
    })
}

fn put(
    path: &Path,
    content: &[u8],
    access: Access,
    publish: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let path = named_by_links(path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&folder).map_err(|error| match error.kind() {
        // A file in the place of a folder; what `create` says of the file itself is another matter.
        io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
        _ => error,
    })?;
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
    check_replaceable(&path)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(&name);
    temporary.push(format!(".{}.part", std::process::id()));
    let temporary = folder.join(temporary);
    // A leftover of a process that had our number and was killed.
    let _ = fs::remove_file(&temporary);
    let mode = if access == Access::Private { 0o600 } else { 0o644 };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| publish(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // So that the rename survives a power cut. Some file systems have no folders to sync.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// An error if something is there that is no file: a folder, or a device, a pipe or a socket, which a file put in its place
/// would take from everybody who uses it.
pub fn check_replaceable(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(meta) if !meta.is_file() => {
            let what =
                "a device, a pipe or a socket, which no file may replace; - writes to stdout";
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
        _ => Ok(()),
    }
}

/// Links that one after the other may lead to a file, as in the kernel.
const LINKS_MAX: usize = 40;

/// The file that symbolic links lead to, be it there or not.
fn named_by_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or_else(|| Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links, one after the other"))
}

/// Reads a text of at most `max_bytes`; `None` if there is no file.
pub fn read_text(path: &Path, max_bytes: usize) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(max_bytes as u64 + 1).read_to_string(&mut text)?;
    if text.len() > max_bytes {
        return Err(io::Error::other(format!("more than {max_bytes} bytes")));
    }
    Ok(Some(text))
}

/// Reads a text of at most `max_bytes` that has to be there.
pub fn read_existing(path: &Path, max_bytes: usize) -> io::Result<String> {
    read_text(path, max_bytes)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.json");
        replace(&path, b"one", Access::Private).unwrap();
        replace(&path, b"two", Access::Private).unwrap();
        assert_eq!(read_text(&path, 3).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(read_text(&path, 2).is_err());
        assert_eq!(read_text(&folder.path().join("absent"), 9).unwrap(), None);
    }

    #[test]
    fn what_is_there_by_now_is_not_created_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.json");
        create(&path, b"one", Access::Private).unwrap();
        let error = create(&path, b"two", Access::Private).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read_text(&path, 9).unwrap().as_deref(), Some("one"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link_and_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        symlink(&target, &link).unwrap();
        replace(&link, b"new", Access::Shared).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(replace(folder.path(), b"x", Access::Shared).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_to_nothing_yet_is_where_it_says() {
        for put in [create, replace] {
            let folder = tempfile::tempdir().unwrap();
            let (target, link) = (folder.path().join("a/target"), folder.path().join("link"));
            symlink("middle", &link).unwrap();
            symlink("a/target", folder.path().join("middle")).unwrap();
            put(&link, b"new", Access::Private).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), "new");
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            let circle = folder.path().join("circle");
            symlink("circle", &circle).unwrap();
            assert!(put(&circle, b"x", Access::Private).unwrap_err().to_string().contains("links"));
        }
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, link) = (folder.path().join("socket"), folder.path().join("link"));
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        symlink(&socket, &link).unwrap();
        for path in [&socket, &link, &PathBuf::from("/dev/null")] {
            let error = replace(path, b"new", Access::Private).unwrap_err();
            assert!(error.to_string().contains("which no file may replace"), "{error}");
        }
        assert!(fs::metadata(&socket).is_ok_and(|meta| !meta.is_file()));
    }
}
