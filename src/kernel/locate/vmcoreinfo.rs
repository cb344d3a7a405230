//! VMCOREINFO: what a kernel writes down about itself for whoever finds its memory.
//!
//! The text (`KEY=VALUE` lines) stands in a page of its own inside an ELF note, from boot on, whether kdump is
//! configured or not. Pure parsers over hostile bytes; where the bytes come from is not known here.
//! Source: `Documentation/admin-guide/kdump/vmcoreinfo.rst`, `kernel/vmcore_info.c` (`kernel/crash_core.c`
//! before 6.9), `arch/x86/kernel/vmcore_info_64.c`.

use crate::addr::{LinkAddr, VirtAddr};

/// Bytes of the note before its text: three words, then the name padded to a multiple of four.
pub const HEADER_LEN: usize = 0x18;

/// The text is one page; from 7.1 it may take more.
pub const MAX_TEXT_LEN: usize = 16 << 10;

const NAME: &[u8] = b"VMCOREINFO\0";
const NAME_AT: usize = 0xc;

/// Length of the text, if `header` (at least [`HEADER_LEN`] bytes) begins a VMCOREINFO note.
#[must_use]
pub fn text_len(header: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?));
    let named = header.get(NAME_AT..)?.starts_with(NAME) && word(0)? as usize == NAME.len();
    let len = word(4)? as usize;
    (named && word(8)? == 0 && (1..=MAX_TEXT_LEN).contains(&len)).then_some(len)
}

/// The text of a VMCOREINFO note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmcoreInfo {
    text: String,
}

impl VmcoreInfo {
    /// Parses a whole note, header included.
    #[must_use]
    pub fn from_note(note: &[u8]) -> Option<Self> {
        let text = note.get(HEADER_LEN..HEADER_LEN.checked_add(text_len(note)?)?)?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let readable = text.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~'));
        let text = std::str::from_utf8(text).ok().filter(|_| readable)?;
        text.starts_with("OSRELEASE=").then(|| Self { text: text.to_owned() })
    }

    /// The text as the kernel wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value of `KEY=VALUE`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// `uname -r`.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.get("OSRELEASE").filter(|release| !release.is_empty())
    }

    /// `NUMBER(name)`, modulo 2^64: the kernel prints `phys_base` as a signed number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse::<i64>().map(i64::cast_unsigned).or_else(|_| text.parse()).ok(),
        }
    }

    /// `SYMBOL(name)`: a run-time address, KASLR included.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<VirtAddr> {
        let text = self.get(&format!("SYMBOL({name})"))?;
        u64::from_str_radix(text, 16).ok().map(VirtAddr::new)
    }

    /// The top-level page table, by either of its names.
    #[must_use]
    pub fn top_level_table(&self) -> Option<VirtAddr> {
        self.symbol("swapper_pg_dir").or_else(|| self.symbol("init_top_pgt"))
    }

    /// The KASLR slide.
    #[must_use]
    pub fn slide(&self) -> Option<u64> {
        u64::from_str_radix(self.get("KERNELOFFSET")?, 16).ok()
    }

    /// Where `_stext` was linked.
    #[must_use]
    pub fn linked_stext(&self) -> Option<LinkAddr> {
        let running = self.symbol("_stext")?;
        Some(LinkAddr::new(running.raw().wrapping_sub(self.slide()?)))
    }

    /// The build id. Some stable kernels (6.1.113 to 6.1.118 among them) print other bytes here: `.notes` in the
    /// image is the better source.
    #[must_use]
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let text = self.get("BUILD-ID")?;
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        pairs.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|id| !id.is_empty())
    }
}

#[cfg(test)]
pub(super) fn note(text: &str) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend_from_slice(&11_u32.to_le_bytes());
    note.extend_from_slice(&(text.len() as u32).to_le_bytes());
    note.extend_from_slice(&0_u32.to_le_bytes());
    note.extend_from_slice(b"VMCOREINFO\0\0");
    note.extend_from_slice(text.as_bytes());
    note
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "OSRELEASE=6.1.0-56-cloud-amd64\nBUILD-ID=3b43fad5\nSYMBOL(_stext)=ffffffffb2000000\n\
        SYMBOL(swapper_pg_dir)=ffffffffb3a10000\nNUMBER(phys_base)=-650117120\nNUMBER(pgtable_l5_enabled)=1\n\
        KERNELOFFSET=31000000\n";

    #[test]
    fn values_by_kind() {
        let info = VmcoreInfo::from_note(&note(TEXT)).unwrap();
        assert_eq!(info.release(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(info.build_id(), Some(vec![0x3b, 0x43, 0xfa, 0xd5]));
        assert_eq!(info.number("phys_base"), Some(0_u64.wrapping_sub(0x26c0_0000)));
        assert_eq!(info.number("pgtable_l5_enabled"), Some(1));
        assert_eq!(info.slide(), Some(0x3100_0000));
        assert_eq!(info.top_level_table(), Some(VirtAddr::new(0xffff_ffff_b3a1_0000)));
        assert_eq!(info.linked_stext(), Some(LinkAddr::new(0xffff_ffff_8100_0000)));
        assert_eq!(info.get("KERNEL"), None);
    }

    #[test]
    fn a_copy_without_the_note_header_is_none() {
        assert_eq!(VmcoreInfo::from_note(TEXT.as_bytes()), None);
        let mut note = note(TEXT);
        note[8] = 1;
        assert_eq!(VmcoreInfo::from_note(&note), None);
    }

    #[test]
    fn a_length_past_the_bytes_is_none() {
        let note = note(TEXT);
        assert_eq!(VmcoreInfo::from_note(&note[..note.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>, text: String) {
            let mut framed = note(&text);
            framed.extend_from_slice(&bytes);
            for candidate in [bytes, framed] {
                if let Some(info) = VmcoreInfo::from_note(&candidate) {
                    let _ = (info.number("phys_base"), info.build_id(), info.slide());
                }
            }
        }

        #[test]
        fn any_values(value in "[ -~]{0,24}") {
            let text = format!("OSRELEASE=x\nBUILD-ID={value}\nNUMBER(n)={value}\nKERNELOFFSET={value}\n");
            let info = VmcoreInfo::from_note(&note(&text)).unwrap();
            let _ = (info.number("n"), info.build_id(), info.slide());
            prop_assert_eq!(info.get("BUILD-ID"), Some(value.as_str()));
        }
    }
}
