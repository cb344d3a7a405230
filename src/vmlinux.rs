//! An opened `vmlinux`: the kernel's ELF file, mapped and checked, for [`crate::symbols`] and [`crate::types`].
//!
//! It is mapped because it has hundreds of megabytes of which little is touched. Nothing here knows a symbol's or a
//! type's meaning; sections are handed out as bytes. A linked kernel that still carries relocations (`--emit-relocs`, as
//! x86 builds do) has the final values in place; in an object file, which has types and no addresses, those of its
//! debug information are applied ([`relocate`]).
//!
//! Source: System V ABI, chapters 4 and 5; GNU build id: `NT_GNU_BUILD_ID` in a `SHT_NOTE` section.

mod relocate;

use std::{
    fmt,
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use object::{
    LittleEndian as LE,
    elf::{
        ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_DYN, ET_EXEC, ET_REL, FileHeader64, NT_GNU_BUILD_ID,
        SHF_ALLOC, SHF_COMPRESSED, SHF_EXECINSTR, SHT_SYMTAB, SectionHeader64,
    },
    read::elf::{FileHeader, SectionHeader, SectionTable, SymbolTable},
};

use crate::addr::LinkAddr;

type Header = FileHeader64<LE>;
type Sections<'d> = SectionTable<'d, Header>;
/// A symbol table with its strings.
pub type Symbols<'d> = SymbolTable<'d, Header>;

/// Why a vmlinux cannot be used: each a sentence that ends with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmlinuxError {
    /// There is no such file.
    #[error(
        "there is no vmlinux at {}: give the kernel's own uncompressed file \
         (Debian: /usr/lib/debug/boot/vmlinux-RELEASE of the package linux-image-RELEASE-dbg)",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
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
        /// What it is instead, and what is meant.
        reason: &'static str,
    },
    /// It ends before its own headers say, or they contradict each other.
    #[error("the vmlinux {} is truncated or damaged ({reason}): copy it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it was noticed.
        reason: String,
    },
    /// It has no symbol table.
    #[error(
        "the vmlinux {} has no symbols, it was stripped: give the unstripped one \
         (Debian: package linux-image-RELEASE-dbg, Fedora: kernel-debuginfo)",
        path.display()
    )]
    NoSymbols {
        /// The file.
        path: PathBuf,
    },
    /// It has no `.debug_info`.
    #[error(
        "the vmlinux {} has no debug information: it comes in a package of its own \
         (Debian: linux-image-RELEASE-dbg, Fedora: kernel-debuginfo)",
        path.display()
    )]
    NoDebugInfo {
        /// The file.
        path: PathBuf,
    },
    /// A section is compressed.
    #[error(
        "section {section} of the vmlinux {} is compressed: write one that is not with \
         `objcopy --decompress-debug-sections VMLINUX NEW`",
        path.display()
    )]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The section.
        section: String,
    },
}

/// A section's place in the kernel and in the file.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its name.
    pub name: Box<str>,
    /// Where it was linked, 0 if it is not loaded.
    pub addr: LinkAddr,
    /// Bytes in memory.
    pub size: u64,
    /// Whether its bytes in the file are compressed.
    pub compressed: bool,
    loaded: bool,
    code: bool,
    file: Range<usize>,
}

impl Section {
    /// Whether it is part of the running kernel.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Whether it holds instructions.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.code
    }

    /// Whether `addr` is inside, of a section that is loaded.
    #[must_use]
    pub fn holds(&self, addr: LinkAddr) -> bool {
        self.loaded && addr.wrapping_offset_from(self.addr) < self.size
    }
}

enum Bytes {
    Map(File, Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    fn map(file: File) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: the file is a build product that nobody writes while it is debugged; if somebody truncates it
        // all the same, the process gets SIGBUS, as any debugger that maps its symbol file does.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self::Map(file, map))
    }

    fn get(&self) -> &[u8] {
        match self {
            Self::Map(_, map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// An opened vmlinux.
pub struct Vmlinux {
    path: PathBuf,
    name: String,
    bytes: Bytes,
    /// By ELF section index.
    sections: Vec<Section>,
    build_id: Option<Vec<u8>>,
    /// It was not linked: its symbols have no addresses.
    relocatable: bool,
    /// Sections whose bytes in the file are not final.
    relocated: relocate::Patched,
}

impl fmt::Debug for Vmlinux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmlinux").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The file's bytes, as they are.
impl AsRef<[u8]> for Vmlinux {
    fn as_ref(&self) -> &[u8] {
        self.data()
    }
}

impl Vmlinux {
    /// Maps the file at `path` and checks that it is an x86-64 kernel's ELF file which is all there.
    ///
    /// # Errors
    /// [`VmlinuxError`] naming the file.
    pub fn open(path: &Path) -> Result<Arc<Self>, VmlinuxError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => VmlinuxError::Missing { path: path.to_owned() },
            _ => VmlinuxError::Open { path: path.to_owned(), source },
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if metadata.len() == 0 {
            return Self::parse(path, Bytes::Owned(Vec::new()));
        }
        Self::parse(path, Bytes::map(file).map_err(failed)?)
    }

    /// The same file in a mapping of its own, for those who read much of it once: the pages they touch stop being
    /// this process' memory when it is dropped. The file itself where that cannot be had.
    #[must_use]
    pub fn for_one_pass(self: &Arc<Self>) -> Arc<Self> {
        let again = match &self.bytes {
            Bytes::Map(file, _) if !self.relocatable => file.try_clone().and_then(Bytes::map),
            _ => return Arc::clone(self),
        };
        // One that was truncated meanwhile does not have what the sections say.
        let Some(bytes) = again.ok().filter(|bytes| bytes.get().len() == self.data().len()) else {
            return Arc::clone(self);
        };
        Arc::new(Self {
            path: self.path.clone(),
            name: self.name.clone(),
            bytes,
            sections: self.sections.clone(),
            build_id: self.build_id.clone(),
            relocatable: false,
            relocated: Vec::new(),
        })
    }

    /// A vmlinux that is already in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// As [`Vmlinux::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Arc<Self>, VmlinuxError> {
        Self::parse(Path::new(name), Bytes::Owned(bytes))
    }

    fn parse(path: &Path, bytes: Bytes) -> Result<Arc<Self>, VmlinuxError> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut file = Self {
            path: path.to_owned(),
            name,
            bytes,
            sections: Vec::new(),
            build_id: None,
            relocatable: false,
            relocated: Vec::new(),
        };
        let data = file.data();
        if let Some(reason) = other_kind(data) {
            return Err(VmlinuxError::NotVmlinux { path: file.path, reason });
        }
        let relocatable = Header::parse(data).is_ok_and(|header| header.e_type(LE) == ET_REL);
        let (sections, build_id, relocated) = file
            .section_table()
            .and_then(|table| {
                let sections = table
                    .iter()
                    .map(|header| read_section(data, &table, header))
                    .collect::<Result<Vec<_>, String>>()?;
                let relocated = if relocatable { relocate::apply(data, &table)? } else { Vec::new() };
                Ok((sections, find_build_id(data, &table), relocated))
            })
            .map_err(|reason| file.truncated(reason))?;
        (file.sections, file.build_id) = (sections, build_id);
        (file.relocatable, file.relocated) = (relocatable, relocated);
        Ok(Arc::new(file))
    }

    fn data(&self) -> &[u8] {
        self.bytes.get()
    }

    fn section_table(&self) -> Result<Sections<'_>, String> {
        let data = self.data();
        let header = Header::parse(data).map_err(|error| error.to_string())?;
        let (start, each) = (header.e_shoff(LE), u64::from(header.e_shentsize(LE)));
        let end = u64::from(header.e_shnum(LE)).checked_mul(each).and_then(|len| start.checked_add(len));
        if end.is_none_or(|end| end > data.len() as u64) {
            return Err(format!("its section table is at {start:#x}, the file has {:#x} bytes", data.len()));
        }
        header.sections(LE, data).map_err(|error| error.to_string())
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

    /// Whether it is an object file that was not linked: it has types, and symbols without addresses.
    #[must_use]
    pub fn is_relocatable(&self) -> bool {
        self.relocatable
    }

    /// Its entry point.
    #[must_use]
    pub fn entry(&self) -> u64 {
        Header::parse(self.data()).map_or(0, |header| header.e_entry(LE))
    }

    /// Its sections; the position is the ELF section index.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The bytes of a section of that name that has some in the file, relocated if it was not linked.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&[u8]> {
        let index = self.sections.iter().position(|section| &*section.name == name)?;
        self.section_bytes(index).filter(|bytes| !bytes.is_empty())
    }

    /// The bytes of the section of that ELF index, if it has some in the file.
    #[must_use]
    pub fn section_bytes(&self, index: usize) -> Option<&[u8]> {
        if let Some((_, bytes)) = self.relocated.iter().find(|(patched, _)| *patched == index) {
            return Some(bytes);
        }
        self.data().get(self.sections.get(index)?.file.clone())
    }

    /// The bytes of a section that must be readable as they are, empty if it has none.
    ///
    /// # Errors
    /// [`VmlinuxError::Compressed`].
    pub fn debug_section(&self, name: &str) -> Result<&[u8], VmlinuxError> {
        match self.sections.iter().find(|section| &*section.name == name) {
            Some(section) if section.compressed => {
                Err(VmlinuxError::Compressed { path: self.path.clone(), section: name.to_owned() })
            }
            _ => Ok(self.section(name).unwrap_or_default()),
        }
    }

    /// Its symbol table.
    ///
    /// # Errors
    /// [`VmlinuxError::NoSymbols`], or [`VmlinuxError::Truncated`] when the table is damaged.
    pub fn symbols(&self) -> Result<Symbols<'_>, VmlinuxError> {
        let sections = self.section_table().map_err(|reason| self.truncated(reason))?;
        let symbols = sections
            .symbols(LE, self.data(), SHT_SYMTAB)
            .map_err(|error| self.truncated(format!("symbol table: {error}")))?;
        if symbols.is_empty() {
            return Err(VmlinuxError::NoSymbols { path: self.path.clone() });
        }
        Ok(symbols)
    }

    fn truncated(&self, reason: String) -> VmlinuxError {
        VmlinuxError::Truncated { path: self.path.clone(), reason }
    }
}

/// What a file is that is no ELF file of an x86-64 kernel, and what to do about it.
fn other_kind(data: &[u8]) -> Option<&'static str> {
    /// "HdrS" in the boot protocol's header (Documentation/arch/x86/boot.rst).
    const BOOT_IMAGE: Range<usize> = 0x202..0x206;
    if data.is_empty() {
        return Some("it is empty; copy it again");
    }
    if data.get(BOOT_IMAGE) == Some(b"HdrS") {
        return Some("it is the compressed boot image (vmlinuz); give the ELF file it was made from");
    }
    if !data.starts_with(b"\x7fELF") {
        return Some("it is not an ELF file; give the kernel's own uncompressed ELF file");
    }
    let Ok(header) = Header::parse(data) else {
        let other = data.get(4).is_some_and(|class| *class != ELFCLASS64.0);
        return other.then_some("it is not a 64-bit ELF file; only x86-64 kernels can be debugged");
    };
    if header.e_ident().data != ELFDATA2LSB || header.e_machine(LE) != EM_X86_64 {
        return Some("it is for another machine; only x86-64 kernels can be debugged");
    }
    match header.e_type(LE) {
        ET_EXEC | ET_DYN | ET_REL => None,
        _ => Some("it is not an executable; give the kernel's own vmlinux"),
    }
}

/// A section, once its bytes are known to be inside the file.
fn read_section(data: &[u8], table: &Sections<'_>, header: &SectionHeader64<LE>) -> Result<Section, String> {
    let name = table.section_name(LE, header).map_err(|error| error.to_string())?;
    let name = String::from_utf8_lossy(name).into_owned().into_boxed_str();
    let file = match header.file_range(LE) {
        None => 0..0,
        Some((start, len)) => {
            let end = start.checked_add(len).and_then(|end| usize::try_from(end).ok());
            let range = usize::try_from(start).ok().zip(end).map(|(start, end)| start..end);
            range.filter(|range| range.end <= data.len()).ok_or_else(|| {
                format!(
                    "section {name} has {len:#x} bytes at {start:#x}, the file has {:#x} bytes",
                    data.len()
                )
            })?
        }
    };
    Ok(Section {
        name,
        addr: LinkAddr::new(header.sh_addr(LE)),
        size: header.sh_size(LE),
        compressed: header.sh_flags(LE).contains(SHF_COMPRESSED),
        loaded: header.sh_flags(LE).contains(SHF_ALLOC),
        code: header.sh_flags(LE).contains(SHF_EXECINSTR),
        file,
    })
}

/// A damaged note is as good as none: the id is compared, never trusted.
fn find_build_id(data: &[u8], table: &Sections<'_>) -> Option<Vec<u8>> {
    for section in table.iter() {
        let Ok(Some(mut notes)) = section.notes(LE, data) else { continue };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == b"GNU" && note.n_type(LE) == NT_GNU_BUILD_ID {
                return Some(note.desc().to_vec());
            }
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
