//! Debug information of an object file that was not linked: its references between sections are filled in.
//!
//! The compiler leaves zeros (or nothing sensible) where one debug section refers to another, and `.rela.debug_*`
//! says what belongs there. Every section starts at 0 in such a file, so the value is the symbol's plus the addend.
//! Input: the file's bytes and section table. Output: patched copies of the sections that readers ask for, each at
//! most as long as the file.
//!
//! Source: System V ABI, chapter 4, "Relocation"; x86-64 psABI, section 4.4.1.

use object::{
    LittleEndian as LE, SectionIndex,
    elf::{R_X86_64_32, R_X86_64_32S, R_X86_64_64, R_X86_64_NONE, Rela64, SHN_UNDEF, SHT_RELA},
    read::elf::{Rela, SectionHeader, Sym},
};

use super::{Sections, Symbols};

/// The sections types are read from.
const WANTED: [&[u8]; 5] =
    [b".debug_info", b".debug_abbrev", b".debug_str", b".debug_line_str", b".debug_str_offsets"];

/// Patched bytes, by ELF section index.
pub(super) type Patched = Vec<(usize, Vec<u8>)>;

/// The debug sections that have relocations, with these applied.
pub(super) fn apply(data: &[u8], table: &Sections<'_>) -> Result<Patched, String> {
    let mut patched = Patched::new();
    for name in WANTED {
        let Some((index, section)) = table.section_by_name(LE, name) else { continue };
        let relocations = table
            .iter()
            .filter(|header| header.sh_type(LE) == SHT_RELA && header.sh_info(LE) as usize == index.0);
        let mut bytes: Option<Vec<u8>> = None;
        for header in relocations {
            let failed = |error: object::read::Error| error.to_string();
            let Some((entries, symbols)) = header.rela(LE, data).map_err(failed)? else { continue };
            let bytes = match &mut bytes {
                Some(bytes) => bytes,
                None => bytes.insert(section.data(LE, data).map_err(failed)?.to_vec()),
            };
            let symbols = symbol_table(data, table, symbols)?;
            for entry in entries {
                patch(bytes, entry, &symbols)
                    .ok_or_else(|| bad_entry(&String::from_utf8_lossy(name), entry))?;
            }
        }
        patched.extend(bytes.map(|bytes| (index.0, bytes)));
    }
    Ok(patched)
}

fn symbol_table<'d>(
    data: &'d [u8],
    table: &Sections<'d>,
    index: SectionIndex,
) -> Result<Symbols<'d>, String> {
    table.symbol_table_by_index(LE, data, index).map_err(|error| format!("symbols of a relocation: {error}"))
}

/// Writes one value; `None` when its place, its symbol or its kind is none.
fn patch(bytes: &mut [u8], entry: &Rela64<LE>, symbols: &Symbols<'_>) -> Option<()> {
    let value = match entry.symbol(LE, false) {
        None => 0,
        Some(symbol) => match symbols.symbol(symbol).ok()? {
            // Of another file: what the linker alone knows is no type.
            symbol if symbol.st_shndx(LE) == SHN_UNDEF => 0,
            symbol => symbol.st_value(LE),
        },
    };
    let value = value.wrapping_add_signed(entry.r_addend(LE));
    let place = usize::try_from(entry.r_offset(LE)).ok()?;
    let rest = bytes.get_mut(place..)?;
    match entry.r_type(LE, false) {
        R_X86_64_NONE => {}
        R_X86_64_64 => *rest.first_chunk_mut()? = value.to_le_bytes(),
        R_X86_64_32 => *rest.first_chunk_mut()? = u32::try_from(value).ok()?.to_le_bytes(),
        R_X86_64_32S => {
            *rest.first_chunk_mut()? = i32::try_from(value.cast_signed()).ok()?.to_le_bytes();
        }
        _ => return None,
    }
    Some(())
}

fn bad_entry(section: &str, entry: &Rela64<LE>) -> String {
    let (place, kind) = (entry.r_offset(LE), entry.r_type(LE, false));
    format!("the relocation of type {kind:?} at {place:#x} in {section} cannot be applied")
}
