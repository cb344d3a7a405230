//! `qXfer:exec-file:read` and `vFile`: the kernel's symbols, handed to a GDB that was given no file.
//!
//! GDB asks for the name of the executable and opens it through its default sysroot, `target:`, before it asks for
//! section offsets, so what it reads here is relocated like a `vmlinux` of its own. There is one file, read-only;
//! no name leads to anything on this machine's disk. Source: GDB manual, "Host I/O Packets".

use std::collections::BTreeSet;

use gdbstub::{
    common::Pid,
    target::{
        TargetResult,
        ext::{
            exec_file::ExecFile,
            host_io::{
                FsKind, HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat,
                HostIoFstatOps, HostIoOpen, HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoPread,
                HostIoPreadOps, HostIoResult, HostIoSetfs, HostIoSetfsOps, HostIoStat,
            },
        },
    },
};

use super::GdbTarget;
use crate::gdb::host::SymbolFile;

/// Most descriptors one client has open; GDB uses one or two.
const MOST_OPEN: usize = 16;
/// What `stat` calls a block.
const BLOCK: u64 = 512;

/// The symbol file and who of this client's descriptors reads it.
#[derive(Default)]
pub(super) struct Files {
    file: Option<SymbolFile>,
    open: BTreeSet<u32>,
}

impl Files {
    pub(super) fn new(file: Option<SymbolFile>) -> Self {
        Self { file, open: BTreeSet::new() }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.file.as_ref().map(|file| file.path.as_str())
    }

    fn open(&mut self, name: &[u8]) -> Result<u32, HostIoErrno> {
        if self.name().is_none_or(|own| own.as_bytes() != name) {
            return Err(HostIoErrno::ENOENT);
        }
        let unused = (0..).zip(&self.open).find(|(number, taken)| number != *taken);
        let fd = unused.map_or(self.open.len() as u32, |(number, _)| number);
        if self.open.len() >= MOST_OPEN {
            return Err(HostIoErrno::EMFILE);
        }
        self.open.insert(fd);
        Ok(fd)
    }

    fn bytes(&self, fd: u32) -> Result<&[u8], HostIoErrno> {
        let file = self.file.as_ref().filter(|_| self.open.contains(&fd));
        file.map(|file| (*file.bytes).as_ref()).ok_or(HostIoErrno::EBADF)
    }

    fn read(&self, fd: u32, count: usize, offset: u64, buf: &mut [u8]) -> Result<usize, HostIoErrno> {
        let bytes = self.bytes(fd)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let wanted = bytes.get(start..).unwrap_or_default();
        let len = wanted.len().min(count).min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), wanted.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
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

    fn support_pread(&mut self) -> Option<HostIoPreadOps<'_, Self>> {
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
        self.files.open(name).map_err(HostIoError::Errno)
    }
}

impl HostIoClose for GdbTarget {
    fn close(&mut self, fd: u32) -> HostIoResult<(), Self> {
        if self.files.open.remove(&fd) { Ok(()) } else { Err(HostIoError::Errno(HostIoErrno::EBADF)) }
    }
}

impl HostIoPread for GdbTarget {
    fn pread(&mut self, fd: u32, count: usize, offset: u64, buf: &mut [u8]) -> HostIoResult<usize, Self> {
        self.files.read(fd, count, offset, buf).map_err(HostIoError::Errno)
    }
}

impl HostIoFstat for GdbTarget {
    fn fstat(&mut self, fd: u32) -> HostIoResult<HostIoStat, Self> {
        let size = self.files.bytes(fd).map_err(HostIoError::Errno)?.len() as u64;
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
            st_mtime: 0,
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

    fn files() -> Files {
        Files::new(Some(SymbolFile { path: "/vmlinux".to_owned(), bytes: Arc::new(*b"\x7fELF") }))
    }

    #[test]
    fn one_name_opens_and_nothing_else() {
        let mut files = files();
        assert!(matches!(files.open(b"/etc/passwd"), Err(HostIoErrno::ENOENT)));
        assert!(matches!(files.open(b"/vmlinux/../etc/passwd"), Err(HostIoErrno::ENOENT)));
        assert!(matches!(Files::default().open(b""), Err(HostIoErrno::ENOENT)));
        assert!(matches!(files.open(b"/vmlinux"), Ok(0)));
    }

    #[test]
    fn descriptors_are_reused_and_bounded() {
        let mut files = files();
        for expected in 0..MOST_OPEN as u32 {
            assert!(matches!(files.open(b"/vmlinux"), Ok(fd) if fd == expected));
        }
        assert!(matches!(files.open(b"/vmlinux"), Err(HostIoErrno::EMFILE)));
        files.open.remove(&3);
        assert!(matches!(files.open(b"/vmlinux"), Ok(3)));
    }

    #[test]
    fn reads_end_where_the_file_does() {
        let mut files = files();
        let mut buf = [0; 8];
        assert!(matches!(files.read(0, 4, 0, &mut buf), Err(HostIoErrno::EBADF)), "not open");
        files.open(b"/vmlinux").ok().unwrap();
        assert!(matches!(files.read(0, 99, 1, &mut buf), Ok(3)));
        assert_eq!(buf.get(..3).unwrap(), b"ELF");
        assert!(matches!(files.read(0, 99, u64::MAX, &mut buf), Ok(0)));
        assert!(matches!(files.read(0, usize::MAX, 0, &mut buf[..2]), Ok(2)), "as much as the buffer takes");
    }
}
