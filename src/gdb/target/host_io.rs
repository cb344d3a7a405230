//! `qXfer:exec-file:read` and `vFile`: the kernel's symbols, handed to a GDB that was given no file, and those of its
//! modules.
//!
//! GDB asks for the name of the executable and opens it through its default sysroot, `target:`, before it asks for
//! section offsets, so what it reads here is relocated like a `vmlinux` of its own. The other file, [`MODULES`], is
//! made anew each time it is opened: `add-symbol-file target:/modules`. Both are read-only; no name leads to anything
//! on this machine's disk. Source: GDB manual, "Host I/O Packets".

use std::{collections::BTreeMap, sync::Arc};

use gdbstub::{
    common::Pid,
    target::{
        TargetResult,
        ext::{
            exec_file::ExecFile,
            host_io::{
                FsKind, HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat,
                HostIoFstatOps, HostIoOpen, HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoResult,
                HostIoSetfs, HostIoSetfsOps, HostIoStat,
            },
        },
    },
};

use super::GdbTarget;
use crate::{gdb::host::MonitorError, synth::SymbolFile};

/// The name of the file with the symbols of modules.
const MODULES: &[u8] = b"/modules";

/// Most descriptors one client has open; GDB uses one or two.
const MAX_OPEN: usize = 16;
/// What `stat` calls a block.
const BLOCK: u64 = 512;

type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The symbol file, and what each of this client's descriptors reads.
#[derive(Default)]
pub(super) struct Files {
    file: Option<SymbolFile>,
    open: BTreeMap<u32, Opened>,
    /// Times the modules were looked at.
    looks: u32,
}

/// An open file.
struct Opened {
    bytes: Bytes,
    /// GDB takes a file of another time for another file.
    modified: u32,
}

impl Files {
    pub(super) fn new(file: Option<SymbolFile>) -> Self {
        Self { file, ..Self::default() }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.file.as_ref().map(|file| file.path.as_str())
    }

    /// Opens a file; `modules` makes the one of the modules.
    fn open(
        &mut self,
        name: &[u8],
        modules: impl FnOnce() -> Result<Vec<u8>, MonitorError>,
    ) -> Result<u32, HostIoErrno> {
        let unused = (0..).zip(self.open.keys()).find(|(number, taken)| number != *taken);
        let fd = unused.map_or(self.open.len() as u32, |(number, _)| number);
        if self.open.len() >= MAX_OPEN {
            return Err(HostIoErrno::EMFILE);
        }
        let opened = match &self.file {
            Some(file) if file.path.as_bytes() == name => {
                Opened { bytes: Arc::clone(&file.bytes), modified: 0 }
            }
            _ if name == MODULES => {
                let bytes = modules().map_err(|error| {
                    log::warn!("there are no symbols of modules to hand out: {error}");
                    HostIoErrno::ENOENT
                })?;
                self.looks += 1;
                Opened { bytes: Arc::new(bytes), modified: self.looks }
            }
            _ => return Err(HostIoErrno::ENOENT),
        };
        self.open.insert(fd, opened);
        Ok(fd)
    }

    fn opened(&self, fd: u32) -> Result<&Opened, HostIoErrno> {
        self.open.get(&fd).ok_or(HostIoErrno::EBADF)
    }

    /// What a descriptor has at `offset`, as far as the file goes.
    pub(super) fn read(&self, fd: u32, count: u64, offset: u64) -> Result<&[u8], HostIoErrno> {
        let bytes = (*self.opened(fd)?.bytes).as_ref();
        let place = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.get(place(offset)..place(offset.saturating_add(count))).unwrap_or_default())
    }
}

impl ExecFile for GdbTarget {
    fn get_exec_file(
        &self,
        _: Option<Pid>,
        offset: u64,
        length: usize,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let name = self.files.name().unwrap_or_default().as_bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(name.len());
        let part = name.get(start..).unwrap_or_default().iter().take(length);
        Ok(buf.iter_mut().zip(part).map(|(to, from)| *to = *from).count())
    }
}

impl HostIo for GdbTarget {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_fstat(&mut self) -> Option<HostIoFstatOps<'_, Self>> {
        Some(self)
    }

    fn support_setfs(&mut self) -> Option<HostIoSetfsOps<'_, Self>> {
        Some(self)
    }
}

impl HostIoOpen for GdbTarget {
    fn open(&mut self, name: &[u8], flags: HostIoOpenFlags, _: HostIoOpenMode) -> HostIoResult<u32, Self> {
        if flags != HostIoOpenFlags::O_RDONLY {
            return Err(HostIoError::Errno(HostIoErrno::EROFS));
        }
        self.files.open(name, || self.host.module_symbols()).map_err(HostIoError::Errno)
    }
}

impl HostIoClose for GdbTarget {
    fn close(&mut self, fd: u32) -> HostIoResult<(), Self> {
        if self.files.open.remove(&fd).is_some() {
            Ok(())
        } else {
            Err(HostIoError::Errno(HostIoErrno::EBADF))
        }
    }
}

impl HostIoFstat for GdbTarget {
    fn fstat(&mut self, fd: u32) -> HostIoResult<HostIoStat, Self> {
        let opened = self.files.opened(fd).map_err(HostIoError::Errno)?;
        let (size, modified) = ((*opened.bytes).as_ref().len() as u64, opened.modified);
        Ok(HostIoStat {
            st_dev: 0,
            st_ino: 0,
            st_mode: HostIoOpenMode::S_IFREG | HostIoOpenMode::S_IRUSR,
            st_nlink: 1,
            st_uid: 0,
            st_gid: 0,
            st_rdev: 0,
            st_size: size,
            st_blksize: BLOCK,
            st_blocks: size.div_ceil(BLOCK),
            st_atime: 0,
            st_mtime: modified,
            st_ctime: 0,
        })
    }
}

impl HostIoSetfs for GdbTarget {
    /// There is one file system, whatever process asks.
    fn setfs(&mut self, _: FsKind) -> HostIoResult<(), Self> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn no_modules() -> Result<Vec<u8>, MonitorError> {
        Err(MonitorError::Failed("none".to_owned()))
    }

    fn files() -> Files {
        Files::new(Some(SymbolFile { path: "/vmlinux".to_owned(), bytes: Arc::new(*b"\x7fELF") }))
    }

    #[test]
    fn one_name_opens_and_nothing_else() {
        let mut files = files();
        assert!(matches!(files.open(b"/etc/passwd", no_modules), Err(HostIoErrno::ENOENT)));
        assert!(matches!(files.open(b"/vmlinux/../etc/passwd", no_modules), Err(HostIoErrno::ENOENT)));
        assert!(matches!(Files::default().open(b"", no_modules), Err(HostIoErrno::ENOENT)));
        assert!(matches!(files.open(b"/vmlinux", no_modules), Ok(0)));
    }

    #[test]
    fn modules_are_looked_at_each_time_and_stay_as_they_were_seen() {
        let mut files = files();
        assert!(matches!(files.open(MODULES, no_modules), Err(HostIoErrno::ENOENT)));
        for (fd, seen) in [(0, b"one".as_slice()), (1, b"two")] {
            assert!(matches!(files.open(MODULES, || Ok(seen.to_vec())), Ok(opened) if opened == fd));
        }
        assert!(matches!(files.read(0, 8, 0), Ok(b"one")));
        let modified = |fd| files.opened(fd).ok().unwrap().modified;
        assert_ne!(modified(0), modified(1));
    }

    #[test]
    fn descriptors_are_reused_and_bounded() {
        let mut files = files();
        for expected in 0..MAX_OPEN as u32 {
            assert!(matches!(files.open(b"/vmlinux", no_modules), Ok(fd) if fd == expected));
        }
        assert!(matches!(files.open(b"/vmlinux", no_modules), Err(HostIoErrno::EMFILE)));
        files.open.remove(&3);
        assert!(matches!(files.open(b"/vmlinux", no_modules), Ok(3)));
    }

    #[test]
    fn reads_end_where_the_file_does() {
        let mut files = files();
        assert!(matches!(files.read(0, 4, 0), Err(HostIoErrno::EBADF)), "not open");
        files.open(b"/vmlinux", no_modules).ok().unwrap();
        assert!(matches!(files.read(0, 2, 1), Ok(b"EL")));
        assert!(matches!(files.read(0, u64::MAX, 1), Ok(b"ELF")));
        assert!(matches!(files.read(0, 99, u64::MAX), Ok(b"")));
    }
}
