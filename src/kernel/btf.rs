//! The kernel's types from its own memory: `.BTF`, which every distribution's kernel carries since about 5.10.
//!
//! Where it is, `__start_BTF` and `__stop_BTF` say; without symbols it is looked for by its header in the image's
//! read-only data, from the end, where it stands. Input: virtual memory and a [`KernelMap`]. Output: a [`Btf`], or
//! [`InMemory`], which reads it once somebody asks for a type. It is 4 to 6 MiB, read in large batches; what its
//! bytes mean is [`crate::types::btf`]'s business.
//!
//! Source: `BTF` in `include/asm-generic/vmlinux.lds.h`, `kernel/bpf/btf.c`.

mod modules;

use std::sync::{Arc, Mutex, PoisonError};

pub use modules::{ModuleBtf, modules};

use super::KernelMap;
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    paging::{Translation, VirtError, VirtFault, VirtMem},
    symbols::Relocated,
    types::{
        Tag, Type, TypeError, TypeId, TypeSource,
        btf::{Btf, HEADER_LEN, Header, MAGIC, MAX_LEN},
    },
};

/// What messages call it.
const NAME: &str = "the target's BTF";

/// Read at once: a thousand requests and more, which keeps any number of tags busy.
const CHUNK: usize = 1 << 20;

/// Pages of a kernel image of 1 GiB, the largest, in 4 KiB.
const MAX_PAGES: usize = 1 << 18;

/// Why there are no types.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    /// The kernel was built without.
    #[error(
        "the kernel carries no types (CONFIG_DEBUG_INFO_BTF is off, or it is older than 5.2): give its own file \
         with --vmlinux, or an object with its types, which scripts/rebuild-types makes from source and configuration"
    )]
    Absent,
    /// They could not be read.
    #[error("{NAME}: reading it failed: {0}")]
    Read(#[from] VirtError),
    /// They could be read and make no sense.
    #[error(transparent)]
    Damaged(#[from] TypeError),
}

/// Reads the kernel's own types.
///
/// # Errors
/// [`BtfError`]: there are none, or they could not be read.
pub fn read(memory: &dyn VirtMem, place: &Place) -> Result<Btf, BtfError> {
    let (start, len) = match *place {
        Place::Known { start, len } => (start, len),
        Place::Within { start, len } => search(memory, start, len)?.ok_or(BtfError::Absent)?,
    };
    Ok(Btf::parse(NAME, read_at(memory, start, len.min(MAX_LEN))?)?)
}

/// `len` bytes, which the caller bounds.
fn read_at(memory: &dyn VirtMem, start: VirtAddr, len: usize) -> Result<Vec<u8>, VirtError> {
    let mut bytes = vec![0; len];
    for (at, chunk) in (0..).step_by(CHUNK).zip(bytes.chunks_mut(CHUNK)) {
        memory.read(start.wrapping_add(at), chunk)?;
    }
    Ok(bytes)
}

/// Where the types are, or have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Symbols say so.
    Known {
        /// Run-time address.
        start: VirtAddr,
        /// Bytes.
        len: usize,
    },
    /// Somewhere in the kernel image.
    Within {
        /// Run-time address of `_text`.
        start: VirtAddr,
        /// Bytes of the image.
        len: u64,
    },
}

impl Place {
    /// What `symbols` say, or else the image.
    #[must_use]
    pub fn of(map: &KernelMap, symbols: Option<&Relocated>) -> Self {
        Self::known(symbols).unwrap_or(Self::Within { start: map.text, len: map.image.len() })
    }

    fn known(symbols: Option<&Relocated>) -> Option<Self> {
        let bound = |name| symbols?.find(name);
        let (start, stop) = bound("__start_BTF").zip(bound("__stop_BTF"))?;
        let len = usize::try_from(stop.wrapping_offset_from(start)).ok()?;
        (HEADER_LEN..=MAX_LEN).contains(&len).then_some(Self::Known { start, len })
    }
}

/// Looks for a header in the read-only data between `start` and `len` bytes later, the last chunk first.
fn search(memory: &dyn VirtMem, start: VirtAddr, len: u64) -> Result<Option<(VirtAddr, usize)>, BtfError> {
    let (stretches, lost) = read_only(memory, start, len);
    for (first, len) in stretches.into_iter().rev() {
        // A header that begins in one chunk and ends in the next is seen whole with the former.
        let mut after = Vec::new();
        let chunks = len.div_ceil(CHUNK as u64);
        for index in (0..chunks).rev() {
            let offset = index * CHUNK as u64;
            let size = usize::try_from(len - offset).unwrap_or(CHUNK).min(CHUNK);
            let mut bytes = memory.read_vec(first.wrapping_add(offset), size)?;
            bytes.extend(after.iter().take(HEADER_LEN));
            for at in memchr::memmem::rfind_iter(&bytes, &MAGIC) {
                let left = len - offset - at as u64;
                let header = bytes.get(at..).and_then(|bytes| Header::parse(bytes).ok());
                match header {
                    Some(header) if !header.is_empty() && header.len() as u64 <= left => {
                        return Ok(Some((first.wrapping_add(offset + at as u64), header.len())));
                    }
                    _ => {}
                }
            }
            after = bytes;
        }
    }
    lost.map_or(Ok(None), |error| Err(error.into()))
}

/// The stretches of an image that are neither written nor executed, ascending; of one that protects nothing
/// (`rodata=off`), all that is mapped. And why there may be more.
fn read_only(memory: &dyn VirtMem, start: VirtAddr, len: u64) -> (Vec<(VirtAddr, u64)>, Option<VirtError>) {
    let (mapped, lost) = mapped(memory, start, len);
    let is_read_only = |page: &Translation| !page.writable && !page.executable;
    let any = mapped.iter().any(|(_, _, page)| is_read_only(page));
    let mut found: Vec<(VirtAddr, u64)> = Vec::new();
    for (addr, size, _) in mapped.into_iter().filter(|(_, _, page)| !any || is_read_only(page)) {
        match found.last_mut() {
            Some((first, len)) if first.wrapping_add(*len) == addr => *len += size,
            _ => found.push((addr, size)),
        }
    }
    (found, lost)
}

/// A page of an image: its address, how much of it is the image's, and where it is.
type Page = (VirtAddr, u64, Translation);

/// The pages of an image from `start` on, and the first that could not be found out about.
fn mapped(memory: &dyn VirtMem, start: VirtAddr, len: u64) -> (Vec<Page>, Option<VirtError>) {
    let (mut found, mut lost) = (Vec::new(), None);
    let mut at = 0;
    for _ in 0..MAX_PAGES {
        if at >= len {
            break;
        }
        let addr = start.wrapping_add(at);
        let page = memory.translate(addr);
        let size = page.as_ref().map_or(PAGE_SIZE, |page| page.page_size);
        let size = size - addr.offset_in(size);
        match page {
            Ok(page) => found.push((addr, size, page)),
            Err(VirtError { fault: VirtFault::NotPresent { .. } | VirtFault::NonCanonical, .. }) => {}
            Err(error) => _ = lost.get_or_insert(error),
        }
        at += size;
    }
    (found, lost)
}

/// The kernel's own types, read when the first is asked for.
pub struct InMemory {
    memory: Arc<dyn VirtMem>,
    image: Place,
    /// Asked only then: they may have to be read themselves.
    symbols: Option<Relocated>,
    read: Mutex<Option<Result<Arc<Btf>, BtfError>>>,
}

impl InMemory {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(memory: Arc<dyn VirtMem>, map: &KernelMap, symbols: Option<Relocated>) -> Self {
        Self { memory, image: Place::of(map, None), symbols, read: Mutex::new(None) }
    }

    /// The types. A read that failed is tried again the next time; what is not there is not looked for twice.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn btf(&self) -> Result<Arc<Btf>, BtfError> {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(Err(BtfError::Read(_))) | None => {}
            Some(outcome) => return outcome.clone(),
        }
        let place = Place::known(self.symbols.as_ref()).unwrap_or(self.image);
        let outcome = read(&*self.memory, &place).map(Arc::new);
        match &outcome {
            Ok(btf) => log::info!("{NAME}: {} types in {} bytes", btf.ids().len(), btf.bytes().len()),
            Err(error) => log::debug!("{NAME}: {error}"),
        }
        known.insert(outcome).clone()
    }

    fn types(&self) -> Result<Arc<Btf>, TypeError> {
        self.btf().map_err(|error| match error {
            BtfError::Damaged(error) => error,
            BtfError::Absent => TypeError::Unavailable { reason: error.to_string() },
            BtfError::Read(_) => TypeError::Unread { reason: error.to_string() },
        })
    }
}

impl TypeSource for InMemory {
    fn source_name(&self) -> &str {
        NAME
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        self.types()?.find(tag, name)
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        self.types()?.get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::PhysAddr,
        mem::{Fault, MemError},
        paging::VirtOp,
        types::btf::fixture,
    };

    const TEXT: VirtAddr = VirtAddr::new(0xffff_ffff_8100_0000);

    /// Text, read-only data and data, 2 MiB each.
    struct Image(Vec<u8>);

    impl VirtMem for Image {
        fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
            for op in ops {
                let at = op.addr.wrapping_offset_from(TEXT) as usize;
                if let Some(bytes) = self.0.get(at..at.saturating_add(op.buf.len())) {
                    op.buf.copy_from_slice(bytes);
                    op.result = Ok(());
                }
            }
        }

        fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
            let part = addr.wrapping_offset_from(TEXT) >> 21;
            if part > 2 {
                return Err(VirtError { addr, len: 1, fault: VirtFault::NonCanonical });
            }
            let (writable, executable) = (part == 2, part == 0);
            let phys = PhysAddr::new(addr.wrapping_offset_from(TEXT));
            Ok(Translation { phys, page_size: 2 << 20, writable, user: false, executable })
        }
    }

    const ANYWHERE: Place = Place::Within { start: TEXT, len: 8 << 20 };

    fn with_btf(at: usize) -> Image {
        let (btf, _) = fixture::kernel();
        let mut bytes = vec![0; 6 << 20];
        // A magic number alone, and a header whose sections reach out of the image.
        bytes[(4 << 20) - 32..][..3].copy_from_slice(&MAGIC);
        bytes[(4 << 20) - 128..][..HEADER_LEN].copy_from_slice(&btf[..HEADER_LEN]);
        bytes[at..at + btf.len()].copy_from_slice(&btf);
        Image(bytes)
    }

    #[test]
    fn found_wherever_it_stands_in_the_read_only_data() {
        // The second header begins in one chunk and ends in the next.
        for at in [(2 << 20) + 5, (3 << 20) - 7, (4 << 20) - 8192] {
            let btf = read(&with_btf(at), &ANYWHERE).unwrap();
            assert!(btf.find(Tag::Struct, "task_struct").is_ok(), "{at:#x}");
        }
        for at in [1 << 20, 5 << 20] {
            assert!(matches!(read(&with_btf(at), &ANYWHERE), Err(BtfError::Absent)), "{at:#x}");
        }
    }

    /// An image that is protected nowhere, or of whose read-only data something is wrong.
    struct Mapped(Image, Option<VirtFault>);

    impl VirtMem for Mapped {
        fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
            self.0.read_batch(ops);
        }

        fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
            let page = self.0.translate(addr)?;
            match &self.1 {
                None => Ok(Translation { writable: true, executable: true, ..page }),
                Some(fault) if !page.writable && !page.executable => {
                    Err(VirtError { addr, len: 0, fault: fault.clone() })
                }
                Some(_) => Ok(page),
            }
        }
    }

    #[test]
    fn a_lost_table_is_not_an_absent_one() {
        let at = 3 << 20;
        let source = MemError { addr: PhysAddr::new(0x1000), len: 8, fault: Fault::NotAttempted };
        let lost = Mapped(with_btf(at), Some(VirtFault::Table { level: 1, source }));
        assert!(matches!(read(&lost, &ANYWHERE), Err(BtfError::Read(_))));
        let hole = VirtFault::NotPresent { level: 1, entry_addr: PhysAddr::new(0x1000), entry: 0 };
        assert!(matches!(read(&Mapped(with_btf(at), Some(hole)), &ANYWHERE), Err(BtfError::Absent)));
        let (btf, _) = fixture::kernel();
        let mut bytes = vec![0; 6 << 20];
        bytes[1 << 20..][..btf.len()].copy_from_slice(&btf);
        let found = read(&Mapped(Image(bytes), None), &ANYWHERE).unwrap();
        assert!(found.find(Tag::Struct, "task_struct").is_ok());
    }

    fn in_memory(bytes: Vec<u8>) -> InMemory {
        InMemory { memory: Arc::new(Image(bytes)), image: ANYWHERE, symbols: None, read: Mutex::new(None) }
    }

    #[test]
    fn what_is_missing_is_said_once_asked_for() {
        let types = in_memory(vec![0; 6 << 20]);
        let error = types.find(Tag::Struct, "task_struct").unwrap_err().to_string();
        assert!(error.contains("CONFIG_DEBUG_INFO_BTF") && error.contains("--vmlinux"), "{error}");
        let types = in_memory(Vec::new());
        let error = types.find(Tag::Struct, "task_struct").unwrap_err();
        assert!(matches!(error, TypeError::Unread { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("reading it failed") && error.contains("0xffffffff81"), "{error}");
    }
}
