//! How the user can start this program again: what the commands to copy begin with.
//!
//! ```text
//!   `dmsg` of PATH is this very file  →  dmsg
//!   else                              →  the file: from the current folder if that is shorter, quoted for a shell
//! ```

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The first word of a command.
pub(super) fn program() -> String {
    let Ok(this) = env::current_exe() else { return "dmsg".to_owned() };
    let folders: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    spelled(&this, &folders, env::current_dir().ok().as_deref())
}

fn spelled(this: &Path, search: &[PathBuf], here: Option<&Path>) -> String {
    let found = search.iter().map(|folder| folder.join("dmsg")).find(|path| is_executable(path));
    if found.is_some_and(|found| is_same(&found, this)) {
        return "dmsg".to_owned();
    }
    let absolute = quoted(&this.to_string_lossy());
    let Some(relative) = here.and_then(|here| relative(this, here)) else { return absolute };
    let relative = quoted(&relative.to_string_lossy());
    if relative.len() < absolute.len() { relative } else { absolute }
}

/// The path from a folder; with a slash in it, since a shell looks a bare name up in PATH.
fn relative(path: &Path, from: &Path) -> Option<PathBuf> {
    let common = path.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    // Through the root there is nothing to gain.
    if common < 2 {
        return None;
    }
    let up = from.components().skip(common).map(|_| "..");
    let down: PathBuf = path.components().skip(common).collect();
    let relative = up.collect::<PathBuf>().join(down);
    if relative.components().count() == 1 {
        Some(Path::new(".").join(relative))
    } else {
        Some(relative)
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// One word of a POSIX shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn executable(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_name_is_enough_only_where_path_leads_to_this_file() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, others) = (folder.path().join("ours"), folder.path().join("others"));
        let this = ours.join("dmsg");
        executable(&this);
        executable(&others.join("dmsg"));
        let absolute = this.to_str().unwrap();
        assert_eq!(spelled(&this, std::slice::from_ref(&ours), None), "dmsg");
        assert_eq!(spelled(&this, &[others.clone(), ours], None), absolute);
        assert_eq!(spelled(&this, &[], None), absolute);
        let link = folder.path().join("bin");
        fs::create_dir(&link).unwrap();
        std::os::unix::fs::symlink(&this, link.join("dmsg")).unwrap();
        assert_eq!(spelled(&this, &[link], None), "dmsg");
    }

    #[test]
    fn the_shorter_path_is_taken_and_a_shell_finds_it() {
        let spell = |this: &str, here: &str| spelled(Path::new(this), &[], Some(Path::new(here)));
        assert_eq!(
            spell("/home/me/engine/target/release/dmsg", "/home/me/engine"),
            "target/release/dmsg"
        );
        assert_eq!(spell("/home/me/engine/dmsg", "/home/me/engine"), "./dmsg");
        assert_eq!(spell("/home/me/engine/target/dmsg", "/home/me/engine/docs"), "../target/dmsg");
        assert_eq!(spell("/usr/dmsg", "/home/me/engine"), "/usr/dmsg");
        assert_eq!(spell("/a/dmsg", "/a/b/c/d/e"), "/a/dmsg");
        assert_eq!(spell("/work/my folder/dmsg", "/work"), "'my folder/dmsg'");
        assert_eq!(spell("/work/it's/dmsg", "/work"), r"'it'\''s/dmsg'");
    }
}
