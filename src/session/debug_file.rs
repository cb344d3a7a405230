//! A kernel's full debug file on this machine, by build id: where GDB itself looks for one.
//!
//! Source: GDB manual, "Debugging Information in Separate Files"; debuginfod-find(1), "FILES".

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::addr::hex_bytes;

/// Where distributions put debug files.
pub const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

/// The debug file of that build id below one of `directories` or, if debuginfod is in use, in its cache.
#[must_use]
pub fn find(build_id: &[u8], directories: &[PathBuf]) -> Option<PathBuf> {
    find_with(build_id, directories, debuginfod_cache().as_deref())
}

fn find_with(build_id: &[u8], directories: &[PathBuf], debuginfod: Option<&Path>) -> Option<PathBuf> {
    let hex = hex_bytes(build_id);
    let (first, rest) = hex.split_at_checked(2).filter(|(_, rest)| !rest.is_empty())?;
    let linked = directories.iter().map(|place| place.join(format!(".build-id/{first}/{rest}.debug")));
    let cached = debuginfod.map(|cache| cache.join(&hex).join("debuginfo"));
    linked.chain(cached).find(|path| path.metadata().is_ok_and(|file| file.is_file() && file.len() > 0))
}

/// The cache of debuginfod's client, if that has a server to ask: GDB looks there on the same terms.
fn debuginfod_cache() -> Option<PathBuf> {
    variable("DEBUGINFOD_URLS")?;
    variable("DEBUGINFOD_CACHE_PATH").map(PathBuf::from).or_else(|| Some(caches()?.join("debuginfod_client")))
}

/// Where the user's programs keep what they can make again (XDG Base Directory Specification).
pub(super) fn caches() -> Option<PathBuf> {
    let set = |name| variable(name).map(PathBuf::from);
    set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn by_build_id_in_the_first_place_that_has_it() {
        let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let directories: Vec<PathBuf> = places.iter().map(|place| place.path().to_owned()).collect();
        let id = [0x12, 0xab, 0xcd];
        assert_eq!(find_with(&id, &directories, None), None);
        let cache = tempfile::tempdir().unwrap();
        let cached = cache.path().join("12abcd/debuginfo");
        fs::create_dir_all(cached.parent().unwrap()).unwrap();
        fs::write(&cached, "").unwrap();
        assert_eq!(find_with(&id, &directories, Some(cache.path())), None, "a remembered failure is empty");
        fs::write(&cached, "ELF").unwrap();
        assert_eq!(find_with(&id, &directories, Some(cache.path())), Some(cached));
        let file = directories[1].join(".build-id/12/abcd.debug");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "ELF").unwrap();
        assert_eq!(find_with(&id, &directories, Some(cache.path())), Some(file));
    }

    #[test]
    fn no_build_id_is_no_file() {
        for id in [&[][..], &[0x12]] {
            assert_eq!(find_with(id, &[PathBuf::from("/")], None), None);
        }
    }
}
