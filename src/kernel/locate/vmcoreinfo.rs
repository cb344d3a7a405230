//! VMCOREINFO: what a kernel writes down about itself for whoever finds its memory.
//!
//! The text (`KEY=VALUE` lines) stands in a page of its own inside an ELF note, from boot on, whether kdump is
//! configured or not. Pure parsers over hostile bytes; where the bytes come from is not known here.
//! Source: `Documentation/admin-guide/kdump/vmcoreinfo.rst`, `kernel/vmcore_info.c` (`kernel/crash_core.c`
//! before 6.9), `arch/x86/kernel/vmcore_info_64.c`.

use crate::addr::VirtAddr;

/// Bytes of the note before its text: three words, then the name padded to a multiple of four.
pub const HEADER_LEN: usize = 0x18;

/// The text is one page; from 7.1 it may take more.
pub const MAX_TEXT_LEN: usize = 16 << 10;

const NAME: &[u8] = b"VMCOREINFO\0";
const NAME_AT: usize = 0xc;

/// What the text begins with, always.
pub(super) const BEGINNING: &[u8] = b"OSRELEASE=";

/// `buf` of `vmcoreinfo_append_str()` has 80 bytes, and so has no line more; this leaves room for other trees.
const MAX_LINE: usize = 256;

/// `VMCOREINFO_BYTES`: what does not fit is cut off, in the middle of a line if need be.
const FULL: usize = 4096;

/// Why bytes where VMCOREINFO should be are not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Nothing is there any more.
    #[error("it is wiped: its header is all zeros")]
    Wiped,
    /// The ELF note header is another note's, or none.
    #[error("its note header (name of {name} bytes, text of {text} bytes, type {kind}) is not VMCOREINFO's")]
    Header {
        /// `n_namesz`.
        name: u32,
        /// `n_descsz`.
        text: u32,
        /// `n_type`.
        kind: u32,
    },
    /// The header would do, its name is another's.
    #[error("its note is not named VMCOREINFO")]
    Name,
    /// The bytes end before the note does.
    #[error("it is cut off after {0} bytes")]
    Short(usize),
    /// The text begins with something else.
    #[error("its text does not begin with OSRELEASE=")]
    Beginning,
    /// The kernel writes printable ASCII only.
    #[error("byte {at} of its text is {byte:#04x}, which no kernel writes")]
    Byte {
        /// Offset in the text.
        at: usize,
        /// What is there.
        byte: u8,
    },
    /// The kernel's lines are short.
    #[error("it has a line of {0} bytes, the kernel's have at most 79")]
    Line(usize),
    /// Every line of the kernel ends.
    #[error("its last line does not end")]
    NoEnd,
}

/// Length of the text, if `header` (at least [`HEADER_LEN`] bytes) begins a VMCOREINFO note.
#[must_use]
pub fn text_len(header: &[u8]) -> Option<usize> {
    checked_text_len(header).ok()
}

fn checked_text_len(header: &[u8]) -> Result<usize, Damage> {
    let header = header.get(..HEADER_LEN).ok_or(Damage::Short(header.len()))?;
    let word = |at: usize| header.get(at..).and_then(|rest| Some(u32::from_le_bytes(*rest.first_chunk()?)));
    let [Some(name), Some(text), Some(kind)] = [0, 4, 8].map(word) else {
        return Err(Damage::Short(header.len()));
    };
    if header.iter().all(|byte| *byte == 0) {
        return Err(Damage::Wiped);
    }
    let len = text as usize;
    let plausible = name as usize == NAME.len() && kind == 0 && (1..=MAX_TEXT_LEN).contains(&len);
    match header.get(NAME_AT..).is_some_and(|rest| rest.starts_with(NAME)) {
        _ if !plausible => Err(Damage::Header { name, text, kind }),
        true => Ok(len),
        false => Err(Damage::Name),
    }
}

/// The text of a VMCOREINFO note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmcoreInfo {
    text: String,
}

impl VmcoreInfo {
    /// Parses a whole note, header included.
    ///
    /// # Errors
    /// [`Damage`]: what no kernel would have written.
    pub fn parse_note(note: &[u8]) -> Result<Self, Damage> {
        let len = checked_text_len(note)?;
        Self::parse_text(note.get(HEADER_LEN..HEADER_LEN + len).ok_or(Damage::Short(note.len()))?)
    }

    /// Parses the text, up to its first NUL: the kernel keeps it in a page of its own too (`vmcoreinfo_data`).
    ///
    /// # Errors
    /// [`Damage`]: what no kernel would have written.
    pub fn parse_text(text: &[u8]) -> Result<Self, Damage> {
        let mut text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        if !text.starts_with(BEGINNING) {
            return Err(Damage::Beginning);
        }
        let strange = text.iter().position(|byte| !matches!(byte, b'\n' | b' '..=b'~'));
        if let Some((at, byte)) = strange.and_then(|at| Some((at, *text.get(at)?))) {
            return Err(Damage::Byte { at, byte });
        }
        if !text.ends_with(b"\n") {
            let end = memchr::memrchr(b'\n', text).filter(|_| text.len().is_multiple_of(FULL));
            text = end.and_then(|end| text.get(..=end)).ok_or(Damage::NoEnd)?;
        }
        if let Some(line) = text.split(|byte| *byte == b'\n').find(|line| line.len() > MAX_LINE) {
            return Err(Damage::Line(line.len()));
        }
        let text = String::from_utf8(text.to_vec()).map_err(|_| Damage::Beginning)?;
        Ok(Self { text })
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
        let info = VmcoreInfo::parse_note(&note(TEXT)).unwrap();
        assert_eq!(info.release(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(info.build_id(), Some(vec![0x3b, 0x43, 0xfa, 0xd5]));
        assert_eq!(info.number("phys_base"), Some(0_u64.wrapping_sub(0x26c0_0000)));
        assert_eq!(info.number("pgtable_l5_enabled"), Some(1));
        assert_eq!(info.slide(), Some(0x3100_0000));
        assert_eq!(info.top_level_table(), Some(VirtAddr::new(0xffff_ffff_b3a1_0000)));
        assert_eq!(info.get("KERNEL"), None);
    }

    #[test]
    fn a_copy_without_the_note_header_is_none() {
        assert_eq!(VmcoreInfo::parse_note(TEXT.as_bytes()).ok(), None);
        let mut note = note(TEXT);
        note[8] = 1;
        assert_eq!(VmcoreInfo::parse_note(&note).ok(), None);
    }

    #[test]
    fn damage_is_named() {
        let said =
            |bytes: &[u8]| VmcoreInfo::parse_note(bytes).map(|_| ()).map_err(|damage| damage.to_string());
        let header = |at: usize, value: u32| {
            let mut bytes = note(TEXT);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            said(&bytes).unwrap_err()
        };
        let whole = note(TEXT);
        assert_eq!(said(&whole), Ok(()));
        assert_eq!(said(&[0; 64]).unwrap_err(), "it is wiped: its header is all zeros");
        assert!(said(&whole[..whole.len() - 1]).unwrap_err().starts_with("it is cut off after"));
        assert!(said(&whole[..8]).unwrap_err().starts_with("it is cut off after 8"));
        for (at, value) in [(0, 5), (0, u32::MAX), (4, 0), (4, u32::MAX), (8, 3)] {
            assert!(header(at, value).starts_with("its note header"), "{at} {value}");
        }
        assert_eq!(header(4, TEXT.len() as u32 - 3), "its last line does not end");
        assert_eq!(header(12, 0), "its note is not named VMCOREINFO");
        assert_eq!(said(&note("KERNELOFFSET=0\n")).unwrap_err(), "its text does not begin with OSRELEASE=");
        assert!(said(&note("OSRELEASE=6\x07\n")).unwrap_err().starts_with("byte 11 of its text is 0x07"));
        let huge = format!("OSRELEASE={}\n", "6".repeat(4000));
        assert_eq!(
            said(&note(&huge)).unwrap_err(),
            "it has a line of 4010 bytes, the kernel's have at most 79"
        );
        assert_eq!(said(&note("OSRELEASE=6.1")).unwrap_err(), "its last line does not end");
    }

    #[test]
    fn a_full_page_loses_its_last_line_only() {
        let mut text = "OSRELEASE=6.1\n".to_owned();
        while text.len() < FULL {
            text.push_str("NUMBER(phys_base)=12345\n");
        }
        let info = VmcoreInfo::parse_text(&text.as_bytes()[..FULL]).unwrap();
        assert!(info.text().ends_with("=12345\n"));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>, text: String) {
            let mut framed = note(&text);
            framed.extend_from_slice(&bytes);
            for candidate in [bytes, framed] {
                if let Ok(info) = VmcoreInfo::parse_note(&candidate) {
                    let _ = (info.number("phys_base"), info.build_id(), info.slide());
                }
            }
        }

        #[test]
        fn any_values(value in "[ -~]{0,24}") {
            let text = format!("OSRELEASE=x\nBUILD-ID={value}\nNUMBER(n)={value}\nKERNELOFFSET={value}\n");
            let info = VmcoreInfo::parse_note(&note(&text)).unwrap();
            let _ = (info.number("n"), info.build_id(), info.slide());
            prop_assert_eq!(info.get("BUILD-ID"), Some(value.as_str()));
        }
    }
}
