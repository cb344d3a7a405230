//! Files that a command makes: whole, or not at all.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use tempfile::NamedTempFile;

/// Fails if [`write()`] could not make `path`, before work is done for it.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    let checked = existing(path).and_then(|existing| match existing {
        Some(metadata) if !metadata.is_file() => Ok(()),
        _ => part(path).map(drop),
    });
    checked.with_context(|| format!("cannot write {}", path.display()))
}

/// Writes `bytes` to `path`. A file that is there stays as it is until the new one is whole, and whoever has it open or
/// mapped keeps it. Devices and pipes are written to.
pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let written = existing(path).and_then(|existing| match existing {
        Some(metadata) if !metadata.is_file() => fs::write(path, bytes),
        existing => replace(path, existing.as_ref(), bytes),
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// What is at `path`, if anything is; an error if it may not be written.
fn existing(path: &Path) -> io::Result<Option<Metadata>> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(metadata) => {
            if metadata.is_file() {
                OpenOptions::new().write(true).open(path)?;
            }
            Ok(Some(metadata))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, existing: Option<&Metadata>, bytes: &[u8]) -> io::Result<()> {
    let mut file = part(path)?;
    file.write_all(bytes)?;
    if let Some(existing) = existing {
        file.as_file().set_permissions(existing.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(followed(path)).map_err(|error| error.error)?;
    Ok(())
}

/// A file of a name of its own beside `path`; it is removed unless it is renamed.
fn part(path: &Path) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    let target = followed(path);
    let directory = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // As any file: the umask takes from it.
    let mode = fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(".nettlp-gdb-").permissions(mode).tempfile_in(directory)
}

/// What a symbolic link names is replaced, not the link.
fn followed(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Read,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn whoever_has_the_old_file_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let [path, link] = ["file", "link"].map(|name| directory.path().join(name));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        let mut old = File::open(&path).unwrap();
        write(&link, b"new").unwrap();
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), fs::read(&path).unwrap()), ("old", b"new".to_vec()));
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        check(&path).unwrap();
        assert!(!path.exists());
        check(Path::new("/dev/null")).unwrap();
        write(Path::new("/dev/null"), b"gone").unwrap();
        for path in [directory.path().join("none/file"), directory.path().to_owned()] {
            let said = format!("{:#}", check(&path).unwrap_err());
            assert!(said.starts_with(&format!("cannot write {}: ", path.display())), "{said}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
