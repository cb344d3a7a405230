//! Memory images in files: one or several, each a stretch of physical memory (`FILE@PHYS,offset=N,len=N`), or an
//! ELF core (`FILE`), which says itself what it holds.
//!
//! A file may be RAM that a virtual machine is running in: bytes are read when asked for and never mapped, so a
//! file that shrinks gives an error and not a signal.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use super::{
    Fault, MemError, PhysMem, PhysWrite, ReadOp,
    elfcore::{self, Defect, Stretch},
};
use crate::addr::{self, PhysAddr, PhysRange};

/// Which bytes of a file are which physical addresses, as written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// The file.
    pub path: PathBuf,
    /// Physical address of the first byte; 0 when not given.
    pub phys: PhysAddr,
    /// Where that byte is in the file; 0 when not given.
    pub offset: u64,
    /// Bytes; to the end of the file when not given.
    pub len: Option<u64>,
}

impl ImageSpec {
    /// Whether nothing is said of the file's place in memory, so that it may say so itself.
    fn is_whole(&self) -> bool {
        self.phys == PhysAddr::default() && self.offset == 0 && self.len.is_none()
    }
}

impl FromStr for ImageSpec {
    type Err = ImageError;

    /// Reads `FILE[@PHYS[,offset=N][,len=N]]`.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let bad = |reason: String| ImageError::Spec { text: text.to_owned(), reason };
        let (path, place) = text.rsplit_once('@').unwrap_or((text, "0"));
        let mut parts = place.split(',');
        let phys = parts.next().unwrap_or_default();
        let phys = PhysAddr::new(addr::parse_size(phys).map_err(|error| bad(error.to_string()))?);
        let mut spec = Self { path: path.into(), phys, offset: 0, len: None };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = addr::parse_size(value).map_err(|error| bad(error.to_string()))?;
            match key {
                "offset" => spec.offset = value,
                "len" => spec.len = Some(value),
                _ => return Err(bad(format!("`{key}` is neither `offset` nor `len`"))),
            }
        }
        if path.is_empty() {
            return Err(bad("it names no file".to_owned()));
        }
        Ok(spec)
    }
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not written as `FILE[@PHYS[,offset=N][,len=N]]`.
    #[error("`{text}` is not FILE[@PHYS[,offset=N][,len=N]]: {reason}")]
    Spec {
        /// As given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be opened or measured.
    #[error("cannot open the memory image {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file has nothing in it.
    #[error("the memory image {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file ends before the stretch it is said to hold.
    #[error(
        "the memory image {} ends at {size}: offset {offset} and len {len} reach beyond it", path.display()
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Where the stretch begins in the file.
        offset: u64,
        /// Bytes it should have from there.
        len: u64,
    },
    /// The file is in a format of its own, and not one that holds physical memory.
    #[error("{} is no memory image: it is {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: &'static str,
    },
    /// Two stretches claim one address.
    #[error("the memory images overlap: {first} and {second}")]
    Overlap {
        /// One stretch.
        first: PhysRange,
        /// The other.
        second: PhysRange,
    },
}

#[derive(Debug)]
struct Extent {
    range: PhysRange,
    file: Arc<File>,
    offset: u64,
}

/// Physical memory in files.
#[derive(Debug)]
pub struct ImageFile {
    extents: Vec<Extent>,
}

impl ImageFile {
    /// Opens every file of `specs` for reading.
    ///
    /// # Errors
    /// [`ImageError`] naming the file.
    pub fn open(specs: &[ImageSpec]) -> Result<Self, ImageError> {
        Self::open_with(specs, OpenOptions::new().read(true))
    }

    /// Opens every file of `specs` for reading and writing.
    ///
    /// # Errors
    /// [`ImageError`] naming the file.
    pub fn open_writable(specs: &[ImageSpec]) -> Result<Self, ImageError> {
        Self::open_with(specs, OpenOptions::new().read(true).write(true))
    }

    fn open_with(specs: &[ImageSpec], how: &OpenOptions) -> Result<Self, ImageError> {
        let mut extents = Vec::new();
        for spec in specs {
            extents.extend(open_extents(spec, how)?);
        }
        extents.sort_by_key(|extent| extent.range.start);
        for (first, second) in extents.iter().zip(extents.iter().skip(1)) {
            if first.range.end > second.range.start {
                return Err(ImageError::Overlap { first: first.range, second: second.range });
            }
        }
        Ok(Self { extents })
    }

    /// The physical addresses the files hold, ascending.
    #[must_use]
    pub fn ranges(&self) -> Vec<PhysRange> {
        self.extents.iter().map(|extent| extent.range).collect()
    }

    /// Runs `transfer` on every piece of `start..start + len` in one file: file, file offset, offset in the read.
    fn for_pieces(
        &self,
        start: PhysAddr,
        len: usize,
        mut transfer: impl FnMut(&File, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = start.checked_add(done as u64).ok_or(Fault::Hole)?;
            let index = self.extents.partition_point(|extent| extent.range.end <= at);
            let extent =
                self.extents.get(index).filter(|extent| extent.range.start <= at).ok_or(Fault::Hole)?;
            let inside = at.wrapping_offset_from(extent.range.start);
            let piece = usize::try_from(extent.range.len() - inside).unwrap_or(usize::MAX).min(len - done);
            transfer(&extent.file, extent.offset + inside, done..done + piece)
                .map_err(|error| Fault::Io(Arc::new(error)))?;
            done += piece;
        }
        Ok(())
    }
}

fn open_extents(spec: &ImageSpec, how: &OpenOptions) -> Result<Vec<Extent>, ImageError> {
    let path = || spec.path.clone();
    let open = |source| ImageError::Open { path: path(), source };
    let file = Arc::new(how.open(&spec.path).map_err(open)?);
    let metadata = file.metadata().map_err(open)?;
    if metadata.is_dir() {
        return Err(open(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let size = metadata.len();
    if size == 0 && metadata.is_file() {
        return Err(ImageError::Empty { path: path() });
    }
    let short = |offset, len| ImageError::Short { path: path(), size, offset, len };
    let stretches = if spec.is_whole() && begins_with(&file, elfcore::MAGIC).map_err(open)? {
        elfcore::stretches(|buf, offset| file.read_exact_at(buf, offset)).map_err(|defect| match defect {
            Defect::Io(source) => open(source),
            Defect::Kind(reason) => ImageError::Format { path: path(), reason },
        })?
    } else {
        let len = spec.len.unwrap_or(size.saturating_sub(spec.offset));
        let range = PhysRange::with_len(spec.phys, len).ok_or_else(|| short(spec.offset, len))?;
        vec![Stretch { range, offset: spec.offset }]
    };
    let extent = |Stretch { range, offset }: Stretch| {
        let inside = offset.checked_add(range.len()).is_some_and(|end| end <= size);
        let extent = || Extent { range, file: Arc::clone(&file), offset };
        inside.then(extent).ok_or_else(|| short(offset, range.len()))
    };
    stretches.into_iter().map(extent).collect()
}

fn begins_with(file: &File, magic: &[u8]) -> io::Result<bool> {
    let mut start = vec![0; magic.len()];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start == magic),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

impl PhysMem for ImageFile {
    fn read_batch(&self, ops: &mut [ReadOp<'_>]) {
        for op in ops {
            let buf = &mut *op.buf;
            let outcome = self.for_pieces(op.addr, buf.len(), |file, offset, piece| {
                file.read_exact_at(buf.get_mut(piece).unwrap_or_default(), offset)
            });
            match outcome {
                Ok(()) => op.result = Ok(()),
                Err(fault) => op.fail(fault),
            }
        }
    }
}

impl PhysWrite for ImageFile {
    fn write(&self, addr: PhysAddr, data: &[u8]) -> Result<(), MemError> {
        self.for_pieces(addr, data.len(), |file, offset, piece| {
            file.write_all_at(data.get(piece).unwrap_or_default(), offset)
        })
        .map_err(|fault| MemError { addr, len: data.len(), fault })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn specs() {
        let spec: ImageSpec = "a@b/ram@0x100000000,offset=2G,len=6G".parse().unwrap();
        assert_eq!(spec.path, PathBuf::from("a@b/ram"));
        assert_eq!((spec.phys.raw(), spec.offset, spec.len), (1 << 32, 2 << 30, Some(6 << 30)));
        assert_eq!("ram".parse::<ImageSpec>().unwrap().phys, PhysAddr::new(0));
        assert_eq!(
            "ram@0,size=4".parse::<ImageSpec>().unwrap_err().to_string(),
            "`ram@0,size=4` is not FILE[@PHYS[,offset=N][,len=N]]: `size` is neither `offset` nor `len`"
        );
        assert!("@0".parse::<ImageSpec>().is_err());
    }

    #[test]
    fn a_hole_between_two_stretches_is_an_error() {
        let file = image(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let spec = |phys, offset, len| ImageSpec {
            path: file.path().into(),
            phys: PhysAddr::new(phys),
            offset,
            len: Some(len),
        };
        let memory = ImageFile::open_writable(&[spec(0x1000, 4, 4), spec(0x100, 0, 4)]).unwrap();
        let mut bytes = [0; 4];
        memory.read(PhysAddr::new(0x1000), &mut bytes).unwrap();
        assert_eq!(bytes, [4, 5, 6, 7]);
        assert!(memory.read(PhysAddr::new(0x101), &mut bytes).is_err());
        memory.write(PhysAddr::new(0x102), &[9, 9]).unwrap();
        memory.read(PhysAddr::new(0x100), &mut bytes).unwrap();
        assert_eq!(bytes, [0, 1, 9, 9]);

        let overlap = ImageFile::open(&[spec(0, 0, 8), spec(4, 0, 4)]).unwrap_err();
        assert_eq!(overlap.to_string(), "the memory images overlap: 0x0-0x8 and 0x4-0x8");
        assert!(matches!(ImageFile::open(&[spec(0, 4, 5)]), Err(ImageError::Short { .. })));
    }
}
