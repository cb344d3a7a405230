//! An opened `vmlinux`: the kernel's ELF file, mapped and checked, for [`crate::symbols`] and [`crate::types`].
//!
//! It is mapped because it has hundreds of megabytes of which little is touched. Nothing here knows a symbol or a
//! type; sections are handed out as bytes.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use object::{
    Endianness, Object, ObjectSection, SectionKind,
    elf::{EM_X86_64, ET_EXEC, FileHeader64},
    read::elf::{ElfFile64, FileHeader},
};

/// An ELF file of 64 bits, little-endian.
pub type Elf<'d> = ElfFile64<'d, Endianness, &'d [u8]>;

/// Why a vmlinux cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmlinuxError {
    /// It cannot be opened or mapped.
    #[error("cannot open the vmlinux {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a vmlinux: {reason}", path.display())]
    NotVmlinux {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: &'static str,
    },
    /// It ends before its own headers say.
    #[error("the vmlinux {} is truncated or damaged ({reason}): copy it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it was noticed.
        reason: String,
    },
    /// It has no `.debug_info`.
    #[error(
        "the vmlinux {} has no debug information: it comes in a package of its own \
         (Debian: linux-image-...-dbg, Fedora: kernel-debuginfo)",
        path.display()
    )]
    NoDebugInfo {
        /// The file.
        path: PathBuf,
    },
}

/// An opened vmlinux.
pub struct Vmlinux {
    path: PathBuf,
    name: String,
    map: Mmap,
    build_id: Option<Vec<u8>>,
}

impl std::fmt::Debug for Vmlinux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmlinux").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Vmlinux {
    /// Maps the file at `path` and checks that it is an x86-64 ELF executable which is all there.
    ///
    /// # Errors
    /// [`VmlinuxError`] naming the file.
    pub fn open(path: &Path) -> Result<Arc<Self>, VmlinuxError> {
        let owned = || path.to_owned();
        let opened = |source| VmlinuxError::Open { path: owned(), source };
        let file = File::open(path).map_err(opened)?;
        let metadata = file.metadata().map_err(opened)?;
        if metadata.is_dir() {
            return Err(opened(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if metadata.len() == 0 {
            return Err(VmlinuxError::NotVmlinux { path: owned(), reason: "it is empty" });
        }
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: the file is a build product that nobody writes while it is debugged; if somebody truncates it
        // all the same, the process gets SIGBUS, as any debugger that maps its symbol file does.
        let map = unsafe { Mmap::map(&file) }.map_err(opened)?;
        let build_id = check(&map).map_err(|problem| match problem {
            Problem::NotVmlinux(reason) => VmlinuxError::NotVmlinux { path: owned(), reason },
            Problem::Truncated(reason) => VmlinuxError::Truncated { path: owned(), reason },
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Arc::new(Self { path: owned(), name, map, build_id }))
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its file name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its GNU build id.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Its headers.
    ///
    /// # Errors
    /// Never after [`Vmlinux::open`] passed, which parsed the same bytes.
    pub fn elf(&self) -> Result<Elf<'_>, VmlinuxError> {
        let truncated = |error: object::Error| VmlinuxError::Truncated {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        Elf::parse(&self.map[..]).map_err(truncated)
    }

    /// The error that it has no types.
    #[must_use]
    pub fn no_debug_info(&self) -> VmlinuxError {
        VmlinuxError::NoDebugInfo { path: self.path.clone() }
    }

    /// The error that it is not all there.
    #[must_use]
    pub fn truncated(&self, reason: impl Into<String>) -> VmlinuxError {
        VmlinuxError::Truncated { path: self.path.clone(), reason: reason.into() }
    }
}

enum Problem {
    NotVmlinux(&'static str),
    Truncated(String),
}

/// Checks the headers and that every section is inside the file; returns the build id.
fn check(bytes: &[u8]) -> Result<Option<Vec<u8>>, Problem> {
    const MAGIC: &[u8] = b"\x7fELF";
    const CLASS_64: u8 = 2;
    if !bytes.starts_with(MAGIC) {
        return Err(Problem::NotVmlinux("it is not an ELF file (a compressed bzImage has no symbols)"));
    }
    if bytes.get(4).is_some_and(|class| *class != CLASS_64) {
        return Err(Problem::NotVmlinux("it is not a 64-bit ELF file"));
    }
    let damaged = |error: object::Error| Problem::Truncated(error.to_string());
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    if header.e_machine.get(endian) != EM_X86_64 {
        return Err(Problem::NotVmlinux("it is not for x86-64"));
    }
    if header.e_type.get(endian) != ET_EXEC {
        return Err(Problem::NotVmlinux("it is not an executable: the kernel's own vmlinux is meant"));
    }
    let elf = Elf::parse(bytes).map_err(damaged)?;
    for section in elf.sections().filter(|section| section.kind() != SectionKind::UninitializedData) {
        section.data().map_err(|error| {
            Problem::Truncated(format!("section {}: {error}", section.name().unwrap_or("?")))
        })?;
    }
    elf.build_id().map(|id| id.map(<[u8]>::to_vec)).map_err(damaged)
}
