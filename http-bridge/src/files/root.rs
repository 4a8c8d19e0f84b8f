//! Opening what lies beneath a folder, and nothing else.
//!
//! The kernel does it: `openat2` with `RESOLVE_BENEATH` refuses every path that would leave the folder, through `..`
//! or through a link, and it does so while it resolves, so there is no gap between a check and the opening.
//! Where the call is missing (before Linux 5.6) or forbidden by a sandbox, the path is opened without
//! following any link. That is as safe, and only refuses more.

use std::{
    ffi::OsString,
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    time::SystemTime,
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};

/// Entries of a folder that a listing shows; the rest is counted only.
pub(super) const ENTRIES_MAX: usize = 10_000;

/// The served folder.
pub(super) struct Root {
    folder: OwnedFd,
}

/// A regular file, and what identifies this version of it.
pub(super) struct File {
    pub(super) file: fs::File,
    pub(super) len: u64,
    pub(super) modified: SystemTime,
    pub(super) inode: u64,
}

/// A folder beneath the root.
pub(super) struct Folder(OwnedFd);

/// What a path leads to.
pub(super) enum Opened {
    File(File),
    Folder(Folder),
}

/// One line of a listing.
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) is_folder: bool,
    pub(super) len: u64,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { folder: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Opens a relative path beneath the folder.
    pub(super) fn open_beneath(&self, path: &Path) -> io::Result<Opened> {
        open_beneath(&self.folder, path)
    }

    /// The `index.html` of a folder. Seen from here, so that it may be a link to elsewhere beneath the root.
    pub(super) fn open_index(&self, folder: &Path) -> io::Result<File> {
        match self.open_beneath(&folder.join("index.html"))? {
            Opened::File(file) => Ok(file),
            Opened::Folder(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Folder {
    /// What is in it: files and folders, in the order of their names, and how many more there are.
    pub(super) fn entries(&self) -> io::Result<(Vec<Entry>, usize)> {
        let (mut entries, mut more) = (Vec::new(), 0);
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if entries.len() == ENTRIES_MAX {
                more += 1;
                continue;
            }
            // A link shows as what it leads to. One that leads nowhere is left out; whether it leads outside
            // is found out when it is opened.
            let Ok(stat) = statat(&self.0, name, AtFlags::empty()) else { continue };
            let is_folder = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => true,
                FileType::RegularFile => false,
                _ => continue,
            };
            let name = std::os::unix::ffi::OsStringExt::from_vec(name.to_bytes().to_vec());
            let len = u64::try_from(stat.st_size).unwrap_or(0);
            entries.push(Entry { name, is_folder, len });
        }
        entries.sort_by(|a, b| (!a.is_folder, &a.name).cmp(&(!b.is_folder, &b.name)));
        Ok((entries, more))
    }
}

fn open_beneath(folder: &OwnedFd, path: &Path) -> io::Result<Opened> {
    // Opening a pipe or a device may block or do something; without blocking it does nothing.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(folder, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            open_without_links(folder, path, flags)
        }
        // The kernel asks for a second try when a folder was renamed meanwhile.
        Err(rustix::io::Errno::AGAIN) => openat2(folder, path, flags, Mode::empty(), resolve),
        opened => opened,
    }?;
    classify(opened)
}

/// One component after the other, none of which may be a link.
fn open_without_links(folder: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut at = openat(folder, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mut parts = path.components().filter(|part| *part != std::path::Component::CurDir);
    let mut next = parts.next();
    while let Some(part) = next {
        next = parts.next();
        let how =
            if next.is_some() { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC } else { flags };
        at = openat(&at, part.as_os_str(), how | OFlags::NOFOLLOW, Mode::empty())?;
        if next.is_none() {
            return Ok(at);
        }
    }
    openat(&at, ".", flags, Mode::empty())
}

fn classify(opened: OwnedFd) -> io::Result<Opened> {
    let file = fs::File::from(opened);
    let meta = file.metadata()?;
    if meta.is_dir() {
        Ok(Opened::Folder(Folder(file.into())))
    } else if meta.is_file() {
        let (len, modified, inode) = (meta.len(), meta.modified()?, meta.ino());
        Ok(Opened::File(File { file, len, modified, inode }))
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_opens_files_and_folders_but_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), "b").unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("a/b", folder.path().join("file-link")).unwrap();
        let root = Root::open(folder.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |path: &str| open_without_links(&root.folder, Path::new(path), flags);
        let is_dir = |fd: OwnedFd| fs::File::from(fd).metadata().unwrap().is_dir();
        assert!(is_dir(open("./").unwrap()));
        assert!(is_dir(open("./a").unwrap()));
        assert!(!is_dir(open("./a/b").unwrap()));
        for path in ["./link/b", "./link", "./file-link"] {
            assert!(open(path).is_err(), "{path}");
        }
    }
}
