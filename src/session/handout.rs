//! The symbols for a GDB that comes without a file, and for this program itself when it was given no vmlinux.
//!
//! ```text
//! a vmlinux that was given           ->  GDB gets that file; one that has a file of its own only compares build ids
//! the full debug file, by build id   ->  GDB gets a few kilobytes that lead it there
//! otherwise a vmlinux made of the target's memory, kept in the user's cache for this build and boot
//! ```
//!
//! The last two then serve as the session's own vmlinux: the target is not read again for what a file says.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Options, Session, SessionError, SynthesisError, debug_file};
use crate::{
    addr::hex_bytes,
    kernel::{KernelMap, locate::Progress},
    synth::{SymbolFile, build_id},
    vmlinux::{Vmlinux, VmlinuxError},
};

/// Most files kept in the cache; the oldest go first.
const MAX_KEPT: usize = 16;

/// Where symbols come from: for GDB, and when no vmlinux is given for the session too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The vmlinux given, or the full debug file if it is found by build id, or the target's memory; none if none has any.
    Auto,
    /// The full debug file.
    BuildId,
    /// The target's memory.
    Memory,
    /// Nowhere.
    None,
}

/// Where to look and where to keep.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directories with a `.build-id` below them.
    pub debug: Vec<PathBuf>,
    /// Where made files are kept; nowhere when `None`.
    pub cache: Option<PathBuf>,
}

/// Why there are no symbols.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoutError {
    /// The target cannot be opened.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// There is no debug file.
    #[error(
        "no full debug file of build id {build_id} below {directories}: install the kernel's debug package, or let \
         the symbols come from memory with --symbols memory"
    )]
    NoDebugFile {
        /// In hexadecimal.
        build_id: String,
        /// The directories searched.
        directories: String,
    },
    /// The target's memory does not give them.
    #[error("no symbols can be made of the target's memory: {0}")]
    Synthesis(#[from] SynthesisError),
}

impl Session {
    /// Opens the target as [`Session::open`] does, with something to hand to GDB; when no vmlinux is given, symbols are
    /// found for the target itself too.
    ///
    /// # Errors
    /// [`HandoutError`]; with [`Origin::Auto`] only what [`Session::open`] says.
    pub fn open_with_symbols(
        options: Options,
        origin: Origin,
        places: &Places,
        progress: &dyn Fn(Progress),
    ) -> Result<Self, HandoutError> {
        let session = Self::open(options.clone(), progress)?;
        if origin == Origin::None {
            return Ok(session);
        }
        if let Some(path) = &options.vmlinux {
            let symbol_file = given(&session.kernel.map, path, origin);
            return Ok(Self { symbol_file, ..session });
        }
        let map = &session.kernel.map;
        let kept = places.cache.as_ref().and_then(|cache| Some(cache.join(key(map, &own_program()?)?)));
        if let Some((path, symbol_file)) = found(map, origin, places, kept.as_deref())? {
            // Two readers cannot have the same ports.
            drop(session);
            let mut session = Self::open(Options { vmlinux: Some(path), ..options }, progress)?;
            session.symbol_file = Some(symbol_file);
            return Ok(session);
        }
        match session.synthesize() {
            Ok(made) => {
                if let Some(path) = &kept {
                    keep(path, &made.bytes).unwrap_or_else(|error| {
                        log::warn!("the symbols cannot be kept in {}: {error}", path.display());
                    });
                }
                let symbol_file = Some(named(&session.kernel.map, made.bytes));
                Ok(Self { symbol_file, ..session })
            }
            Err(error) if origin == Origin::Auto => {
                log::warn!("gdb will be handed no symbols: {error}");
                Ok(session)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What GDB is handed of the vmlinux that was given: the file, unless it is to be found by its build id; nothing of one
/// that has no symbols.
fn given(map: &KernelMap, path: &Path, origin: Origin) -> Option<SymbolFile> {
    let file = Vmlinux::open(path).ok().filter(|file| !file.is_relocatable() && file.symbols().is_ok())?;
    if origin == Origin::BuildId {
        return Some(named(map, build_id::write(&file)?));
    }
    Some(SymbolFile { path: name(map), bytes: file })
}

/// A file on this machine that has the kernel's symbols, and what GDB is handed: the full debug file, or what was `kept`.
fn found(
    map: &KernelMap,
    origin: Origin,
    places: &Places,
    kept: Option<&Path>,
) -> Result<Option<(PathBuf, SymbolFile)>, HandoutError> {
    if origin != Origin::Memory {
        match debug_file(map, &places.debug) {
            Some((path, symbol_file)) => {
                log::info!("symbols and types come from {}, found by build id", path.display());
                return Ok(Some((path, symbol_file)));
            }
            None if origin == Origin::BuildId => return Err(no_debug_file(map, &places.debug)),
            None => {}
        }
    }
    let Some((path, bytes)) = kept.and_then(|path| Some((path, load(path, map)?))) else { return Ok(None) };
    log::info!("symbols and types come from {}, made when this boot was first seen", path.display());
    Ok(Some((path.to_owned(), named(map, bytes))))
}

/// The full debug file of that kernel, and what leads GDB to it.
fn debug_file(map: &KernelMap, directories: &[PathBuf]) -> Option<(PathBuf, SymbolFile)> {
    let wanted = map.build_id.as_deref()?;
    let path = debug_file::find(wanted, directories)?;
    let read = || -> Result<_, VmlinuxError> {
        let full = Vmlinux::open(&path)?;
        full.debug_section(".debug_info")?;
        Ok(full)
    };
    match read() {
        Ok(full) if full.build_id() == Some(wanted) => {
            let bytes = build_id::write(&full)?;
            Some((path, named(map, bytes)))
        }
        Ok(_) => {
            log::warn!("{} is passed over: it has another build id than its name says", path.display());
            None
        }
        Err(error) => {
            log::warn!("{} is passed over: {error}", path.display());
            None
        }
    }
}

fn no_debug_file(map: &KernelMap, directories: &[PathBuf]) -> HandoutError {
    let build_id = map.build_id.as_deref().map_or_else(|| "(unknown)".to_owned(), hex_bytes);
    let directories: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
    HandoutError::NoDebugFile { build_id, directories: directories.join(", ") }
}

fn named(map: &KernelMap, bytes: Vec<u8>) -> SymbolFile {
    SymbolFile { path: name(map), bytes: Arc::new(bytes) }
}

/// What GDB sees the file as.
fn name(map: &KernelMap) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || "-_.+~".contains(*c);
    let release: String = map.release.iter().flat_map(|release| release.chars()).filter(plain).collect();
    if release.is_empty() { "/vmlinux".to_owned() } else { format!("/vmlinux-{release}") }
}

/// The file's name in the cache: the build, by where it was put at random the boot, and who made it; `None` when one is
/// unknown.
fn key(map: &KernelMap, maker: &fs::Metadata) -> Option<String> {
    let build_id = map.build_id.as_deref().filter(|id| !id.is_empty())?;
    let (slide, base) = (map.slide?, map.page_offset?.raw());
    // A program that was built again may make another file of the same kernel, whatever its version says.
    let maker = format!("{:x}.{:x}", maker.mtime(), maker.mtime_nsec());
    Some(format!("{}-{slide:x}-{:x}-{base:x}-{maker}.elf", hex_bytes(build_id), map.phys_base))
}

/// This program's own file, even where it was replaced or removed meanwhile.
fn own_program() -> Option<fs::Metadata> {
    fs::metadata("/proc/self/exe").ok()
}

/// A kept file that is whole and of that build.
fn load(path: &Path, map: &KernelMap) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let file = Vmlinux::from_bytes(&path.to_string_lossy(), bytes.clone()).ok()?;
    (file.build_id() == map.build_id.as_deref() && file.symbols().is_ok()).then_some(bytes)
}

/// Writes a file whole or not at all, for its owner only: it tells where a kernel is.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let written = io::Write::write_all(&mut file, bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.and_then(|()| prune(directory))
}

/// Removes the oldest files of the cache beyond what is kept.
fn prune(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "elf") {
            files.push((path.metadata()?.modified()?, path));
        }
    }
    files.sort();
    let surplus = files.len().saturating_sub(MAX_KEPT);
    files.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

/// The user's cache of made files.
#[must_use]
pub fn cache_directory() -> Option<PathBuf> {
    Some(debug_file::caches()?.join("nettlp-gdb").join("symbols"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{addr::VirtAddr, kernel::testing};

    #[test]
    fn a_program_that_was_built_again_makes_its_own_files() {
        let known = KernelMap {
            build_id: Some(vec![1; 20]),
            page_offset: Some(VirtAddr::new(0xffff_8880_0000_0000)),
            ..testing::map(VirtAddr::new(0xffff_ffff_8100_0000), 0)
        };
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("program");
        let built = |at: u64| {
            let file = fs::File::create(&program).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(at)).unwrap();
            key(&known, &file.metadata().unwrap()).unwrap()
        };
        assert_eq!(built(1_000_000_001), built(1_000_000_001));
        assert_ne!(built(1_000_000_001), built(1_000_000_002));
        assert!(own_program().is_some());
        let own = own_program().unwrap();
        assert_eq!(key(&KernelMap { build_id: None, ..known.clone() }, &own), None);
    }

    #[test]
    fn the_cache_is_private_and_bounded() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("symbols");
        for number in 0..MAX_KEPT + 3 {
            keep(&directory.join(format!("{number}.elf")), b"ELF").unwrap();
        }
        let names: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), MAX_KEPT, "{names:?}");
        assert!(names.contains(&format!("{}.elf", MAX_KEPT + 2).into()), "the newest stays: {names:?}");
        let mode =
            |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode(&directory) & 0o777, 0o700);
        assert_eq!(mode(&directory.join(format!("{}.elf", MAX_KEPT + 2))) & 0o777, 0o600);
    }
}
