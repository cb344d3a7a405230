//! The configuration that `CONFIG_IKCONFIG=y` puts into the kernel image: gzip data between two marks.
//! Source: `kernel/configs.c`, `scripts/extract-ikconfig`.

use std::io::Read;

use flate2::read::GzDecoder;
use memchr::memmem;

use crate::{
    addr::PhysRange,
    kernel::{Kernel, UserMemory},
    mem::{PhysMem, ReadOp},
    symbols::Relocated,
};

const START: &[u8] = b"IKCFG_ST";
const END: &[u8] = b"IKCFG_ED";

/// The first bytes of gzip data (RFC 1952), deflate.
const GZIP: &[u8] = &[0x1f, 0x8b, 8];

/// Configurations compress to some tens of KiB.
const MAX_PACKED: usize = 1 << 20;

/// All options of a kernel with their longest values are far from this.
const MAX_TEXT: u64 = 8 << 20;

/// Read-only data ends long before.
const MAX_IMAGE: u64 = 256 << 20;

const CHUNK: usize = 4 << 20;
const OP: usize = 64 << 10;

/// The configuration inside the kernel image, and how it was found. Symbols tell whether there is one; without,
/// the image is searched.
pub(super) fn find(kernel: &Kernel, phys: &dyn PhysMem) -> Option<(String, &'static str)> {
    // Without CONFIG_KALLSYMS_ALL the kernel's own table knows no variables.
    let symbols = kernel.symbols("the configuration").ok();
    if let Some(symbols) = symbols.filter(|symbols| symbols.find("init_task").is_some()) {
        let text = by_symbol(kernel, symbols)?;
        return Some((text, "the symbol kernel_config_data"));
    }
    // Around its read-only data the image has pages that were freed, and are anybody's.
    let place = match kernel.policy {
        UserMemory::All => kernel.map.image,
        UserMemory::KernelOnly => kernel.map.rodata?,
    };
    by_marks(phys, place).map(|text| (text, "the marks IKCFG_ST and IKCFG_ED"))
}

fn by_symbol(kernel: &Kernel, symbols: &Relocated) -> Option<String> {
    let start = symbols.addr("kernel_config_data").ok()?;
    let end = symbols.addr("kernel_config_data_end").ok();
    let len = end.map_or(MAX_PACKED as u64, |end| end.wrapping_offset_from(start));
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_PACKED)?;
    let packed = kernel.memory.read_vec(start, len).ok()?;
    unpack(packed.strip_prefix(START).unwrap_or(&packed))
}

/// Looks for the marks through a physical range, a few MiB at a time.
fn by_marks(phys: &dyn PhysMem, range: PhysRange) -> Option<String> {
    let len = range.len().min(MAX_IMAGE);
    let mut window: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < len {
        let size = CHUNK.min((len - at) as usize);
        let mut chunk = vec![0; size];
        let mut ops: Vec<ReadOp<'_>> = Vec::new();
        for (index, buf) in chunk.chunks_mut(OP).enumerate() {
            ops.push(ReadOp::new(range.start.wrapping_add(at + (index * OP) as u64), buf));
        }
        phys.read_batch(&mut ops);
        let whole = ops.iter().all(|op| op.result.is_ok());
        drop(ops);
        at += size as u64;
        if !whole {
            // A part of the image that cannot be read (freed init memory) holds no configuration.
            window.clear();
            continue;
        }
        window.extend_from_slice(&chunk);
        if let Some(text) = in_window(&window) {
            return Some(text);
        }
        let keep = window.len().saturating_sub(MAX_PACKED + START.len());
        window.drain(..keep);
    }
    None
}

fn in_window(window: &[u8]) -> Option<String> {
    memmem::find_iter(window, START).find_map(|start| {
        let packed = window.get(start + START.len()..)?;
        let end = memmem::find(packed, END)?;
        unpack(packed.get(..end)?)
    })
}

/// The text in gzip data, which must be a configuration's.
fn unpack(packed: &[u8]) -> Option<String> {
    if !packed.starts_with(GZIP) {
        return None;
    }
    let mut text = String::new();
    let size = GzDecoder::new(packed).take(MAX_TEXT + 1).read_to_string(&mut text).ok()?;
    (size as u64 <= MAX_TEXT && text.contains("\nCONFIG_")).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;
    use crate::mem::{PhysWrite, sparse::Sparse};

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn between_the_marks_and_over_a_seam_of_reads() {
        let image: PhysRange = "16M-48M".parse().unwrap();
        let text = "#\nCONFIG_A=y\n# CONFIG_B is not set\n".repeat(1000);
        let check = |at: u64, data: &[u8]| {
            let ram = Sparse::new([image]);
            ram.write(image.start.wrapping_add(at), data).unwrap();
            by_marks(&ram, image)
        };
        let marked = [START, &packed(text.as_bytes()), END].concat();
        assert_eq!(check(0x123, &marked), Some(text.clone()));
        assert_eq!(check(CHUNK as u64 - 20, &marked).as_ref(), Some(&text));
        assert_eq!(check(0, &[START, b"not gzip", END].concat()), None);
        assert_eq!(check(0, &[START, &packed(b"no configuration"), END].concat()), None);
        assert_eq!(check(0, &marked[..marked.len() - 8]), None, "no end");
        let bomb = packed(&[b'\n'].repeat(MAX_TEXT as usize + 2));
        assert_eq!(check(0, &[START, &bomb, END].concat()), None, "more than a configuration can be");
    }

    proptest! {
        #[test]
        fn any_bytes_after_the_magic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(unpack(&[GZIP, &bytes].concat()).is_none_or(|text| text.contains("CONFIG_")));
        }
    }
}
