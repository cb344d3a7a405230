//! The file that holds the memory.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{DumpError, layout::Layout, private};
use crate::addr::{PAGE_SIZE, PhysRange};

/// An open dump file, as long as its layout says.
#[derive(Debug)]
pub(super) struct Data {
    /// Ours alone: two runs would take each other's journal away.
    file: Flock<File>,
    path: PathBuf,
    /// Where nothing was written yet it is a hole.
    new: bool,
}

impl Data {
    /// Makes the file, all a hole.
    pub(super) fn create(path: &Path, layout: &Layout, overwrite: bool) -> Result<Self, DumpError> {
        let mut options = private();
        options.read(true);
        match overwrite {
            true => options.create(true),
            false => options.create_new(true),
        };
        let file = options.open(path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => DumpError::Exists { path: path.to_owned() },
            _ => DumpError::file("make", path)(error),
        })?;
        let data = Self { new: true, ..Self::locked(file, path)? };
        data.file.set_len(0).map_err(DumpError::file("empty", path))?;
        data.resized(layout)
    }

    /// Opens a file that an earlier run made; it stays as it is.
    pub(super) fn open(path: &Path) -> Result<Self, DumpError> {
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(DumpError::file("open", path))?;
        Self::locked(file, path)
    }

    fn locked(file: File, path: &Path) -> Result<Self, DumpError> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { file, path: path.to_owned(), new: false }),
            Err((_, Errno::EWOULDBLOCK)) => Err(DumpError::Busy { path: path.to_owned() }),
            Err((_, errno)) => Err(DumpError::file("lock", path)(errno.into())),
        }
    }

    /// As long as `layout` says.
    pub(super) fn resized(self, layout: &Layout) -> Result<Self, DumpError> {
        self.file.set_len(layout.file_len()).map_err(DumpError::file("set the size of", &self.path))?;
        Ok(self)
    }

    /// Stores the `bytes` of `range`, once. Only pages that differ from what the file holds are written: a page of zeros
    /// stays a hole, and what a killed run left behind does not show through. Returns the bytes of zero pages.
    pub(super) fn write(&self, layout: &Layout, range: PhysRange, bytes: &[u8]) -> Result<u64, DumpError> {
        let failed = |error| DumpError::file("write", &self.path)(error);
        let offset = layout.offset(range).ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
        let mut before = vec![0; bytes.len()];
        if !self.new {
            self.file.read_exact_at(&mut before, offset).map_err(failed)?;
        }

        let page = PAGE_SIZE as usize;
        let first = (page - range.start.offset_in(PAGE_SIZE) as usize).min(bytes.len());
        let (mut zeros, mut dirty) = (0, 0..0);
        let mut at = 0;
        while at < bytes.len() {
            let end = if at == 0 { first } else { (at + page).min(bytes.len()) };
            let new = bytes.get(at..end).unwrap_or_default();
            if new.iter().all(|byte| *byte == 0) {
                zeros += new.len() as u64;
            }
            if before.get(at..end) != Some(new) {
                if dirty.end != at {
                    self.write_piece(bytes, dirty, offset).map_err(failed)?;
                    dirty = at..at;
                }
                dirty.end = end;
            }
            at = end;
        }
        self.write_piece(bytes, dirty, offset).map_err(failed)?;
        Ok(zeros)
    }

    fn write_piece(&self, bytes: &[u8], piece: std::ops::Range<usize>, offset: u64) -> io::Result<()> {
        let at = offset + piece.start as u64;
        self.file.write_all_at(bytes.get(piece).unwrap_or_default(), at)
    }

    /// Writes the headers of an ELF core in front.
    pub(super) fn write_header(&self, header: &[u8]) -> Result<(), DumpError> {
        self.file.write_all_at(header, 0).map_err(DumpError::file("write", &self.path))
    }

    /// [`checksum`] of what the file holds of `range`; `None` when it cannot be read.
    pub(super) fn sum(&self, layout: &Layout, range: PhysRange) -> Option<u64> {
        let mut bytes = vec![0; usize::try_from(range.len()).ok().filter(|len| *len <= MAX_SUMMED)?];
        self.file.read_exact_at(&mut bytes, layout.offset(range)?).ok()?;
        Some(checksum(&bytes))
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> Result<(), DumpError> {
        self.file.sync_data().map_err(DumpError::file("write", &self.path))
    }
}

/// No entry of a journal of ours is longer.
const MAX_SUMMED: usize = super::copy::CHUNK as usize;

/// FNV-1a over words of eight bytes, rotated so that high bits reach low ones: tells a block that was not written,
/// or not wholly, from one that was; it is no defence against forgery.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let words = words.iter().copied().chain([last, (bytes.len() as u64).to_le_bytes()]);
    words.fold(0xcbf2_9ce4_8422_2325, |sum: u64, word| {
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::dump::Format;

    #[test]
    fn zeros_are_holes_and_leftovers_do_not_show() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        let range: PhysRange = "0x800-0x80000".parse().unwrap();
        let layout = Layout::new(Format::Raw, &[range]).unwrap();
        let data = Data::create(&path, &layout, false).unwrap();
        let mut bytes = vec![0; range.len() as usize];
        assert_eq!(data.write(&layout, range, &bytes).unwrap(), range.len());
        assert_eq!(std::fs::metadata(&path).unwrap().blocks(), 0);
        drop(data);
        let data = Data::open(&path).unwrap();

        bytes[0x800..0x1800].fill(7);
        assert_eq!(data.write(&layout, range, &bytes).unwrap(), range.len() - 0x1000);
        assert_eq!(std::fs::read(&path).unwrap()[0x800..], bytes);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 0x4000);
        assert_eq!(data.sum(&layout, range), Some(checksum(&bytes)));

        bytes[0x900] = 0;
        bytes[0x10_000..0x10_003].fill(1);
        assert_ne!(data.sum(&layout, range), Some(checksum(&bytes)));
        data.write(&layout, range, &bytes).unwrap();
        bytes.fill(0);
        data.write(&layout, range, &bytes).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[0x800..], bytes);
    }

    #[test]
    fn sums_tell_lengths_and_places() {
        let sums = [&[0; 8][..], &[0; 16], &[1, 0, 0], &[0, 1, 0], &[1, 0, 0, 0], &[]].map(checksum);
        for (index, sum) in sums.iter().enumerate() {
            assert!(!sums[index + 1..].contains(sum), "{index}");
        }
    }
}
