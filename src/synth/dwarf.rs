//! DWARF 5 from BTF: a compilation unit of types and variables, small ones of functions, and of variables that scripts
//! look for in a file of that name.
//!
//! gdb reads a unit whole once it needs one thing of it, so what an address leads to (functions) stands apart from
//! what a name leads to. Input: records, symbols. Output: the bytes of the `.debug_*` sections.
//!
//! What is lost between the compiler's DWARF and BTF stays lost: lines, scopes, places of parameters, variables other
//! than per-CPU ones; for those that scripts read there is a table ([`super::globals`]).
//!
//! Source: DWARF 5, chapters 3-5.

mod functions;
mod types;
mod variables;

use gimli::{
    Encoding, Format, LittleEndian, constants as dw,
    write::{
        AttributeValue, DebugInfoRef, Dwarf, EndianVec, LineProgram, Sections, StringTable, Unit, UnitEntryId,
    },
};

use self::{
    types::Types,
    variables::{OfFile, Variables},
};
use super::{
    globals::FILES,
    vmlinux::{Input, Symbol, SynthError},
};
use crate::types::btf::Btf;

/// Entries of all units together: a distribution's kernel has 400,000, one with every driver built in some times as many.
/// Symbols of one name share a prototype and modules a kernel's types, so the length of neither bounds this.
const MAX_ENTRIES: usize = 4 << 20;

/// The sections, and how much is in them.
pub(super) struct Debug {
    pub(super) sections: Vec<(&'static str, Vec<u8>)>,
    pub(super) types: usize,
    pub(super) functions: usize,
    pub(super) variables: usize,
}

/// Describes the types of the input's BTF and those of `symbols` that it knows.
pub(super) fn write(input: &Input<'_>, symbols: &[Symbol]) -> Result<Debug, SynthError> {
    let btf = input.btf;
    let (mut dwarf, mut left) = (Dwarf::new(), MAX_ENTRIES);
    let release = input.release.unwrap_or("vmlinux");

    let mut unit = new_unit();
    let mut maker = Maker { unit: &mut unit, strings: &mut dwarf.strings, left: &mut left };
    maker.describe_unit(&format!("{release}: types and variables"));
    let mut types = Types::new(btf);
    types.write(&mut maker)?;
    maker.end()?;
    let mut variables = Variables::new(btf, symbols, &mut types);
    let of_files = variables.write(&mut maker)?;
    let variables = variables.count();
    let types_unit = dwarf.units.add(unit);

    for (file, _) in FILES {
        let mut unit = new_unit();
        let mut maker = Maker { unit: &mut unit, strings: &mut dwarf.strings, left: &mut left };
        maker.describe_unit(file);
        for OfFile { symbol, ty, .. } in of_files.iter().filter(|one| one.file == *file) {
            let ty = ty.map(|ty| AttributeValue::DebugInfoRef(DebugInfoRef::Entry(types_unit, ty)));
            variables::variable(&mut maker, symbol, ty, symbol.global);
        }
        dwarf.units.add(unit);
    }

    let mut count = types.count();
    for (name, btf) in input.modules {
        let mut unit = new_unit();
        let mut maker = Maker { unit: &mut unit, strings: &mut dwarf.strings, left: &mut left };
        maker.describe_unit(&format!("{release}: types of module {name}"));
        let mut own = Types::of_module(btf, &types, types_unit);
        own.write(&mut maker)?;
        maker.end()?;
        count += own.count();
        dwarf.units.add(unit);
    }

    let name = format!("{release}: functions");
    let functions = functions::write((&mut dwarf, &mut left), &name, btf, symbols, (&types, types_unit))?;

    Ok(Debug { sections: sections(&mut dwarf)?, types: count, functions, variables })
}

/// Describes the types of modules and those of each one's functions that they know: of the kernel's types what is
/// needed, structs as declarations, whose definitions are in the kernel's own file.
pub(super) fn write_modules(modules: &[(&str, &Btf, &[Symbol])]) -> Result<Debug, SynthError> {
    let (mut dwarf, mut left) = (Dwarf::new(), MAX_ENTRIES);
    let (mut count, mut functions) = (0, 0);
    for (name, btf, symbols) in modules {
        let mut unit = new_unit();
        let mut maker = Maker { unit: &mut unit, strings: &mut dwarf.strings, left: &mut left };
        maker.describe_unit(&format!("{name}: types"));
        let mut types = Types::of_module_alone(btf);
        types.write(&mut maker)?;
        maker.end()?;
        count += types.count();
        let types_unit = dwarf.units.add(unit);
        let name = format!("{name}: functions");
        functions += functions::write((&mut dwarf, &mut left), &name, btf, symbols, (&types, types_unit))?;
    }
    Ok(Debug { sections: sections(&mut dwarf)?, types: count, functions, variables: 0 })
}

/// The bytes of all that was described.
fn sections(dwarf: &mut Dwarf) -> Result<Vec<(&'static str, Vec<u8>)>, SynthError> {
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections)?;
    let mut written = Vec::new();
    sections.for_each_mut(|id, section| {
        let bytes = section.take();
        if !bytes.is_empty() {
            written.push((id.name(), bytes));
        }
        Ok::<_, SynthError>(())
    })?;
    Ok(written)
}

fn new_unit() -> Unit {
    Unit::new(Encoding { format: Format::Dwarf32, version: 5, address_size: 8 }, LineProgram::none())
}

/// A unit in the making.
struct Maker<'m> {
    unit: &'m mut Unit,
    strings: &'m mut StringTable,
    /// How many entries may still be added.
    left: &'m mut usize,
}

impl Maker<'_> {
    fn describe_unit(&mut self, name: &str) {
        let root = self.unit.root();
        self.text(root, dw::DW_AT_producer, concat!("nettlp-gdb ", env!("CARGO_PKG_VERSION")));
        self.set(root, dw::DW_AT_language, AttributeValue::Language(dw::DW_LANG_C11));
        self.text(root, dw::DW_AT_name, name);
    }

    /// A new entry; once there are too many, which [`Maker::end`] tells, an old one.
    fn add(&mut self, parent: UnitEntryId, tag: gimli::DwTag) -> UnitEntryId {
        match self.left.checked_sub(1) {
            Some(left) => {
                *self.left = left;
                self.unit.add(parent, tag)
            }
            None => parent,
        }
    }

    /// Whether everything that was added is there.
    fn end(&self) -> Result<(), SynthError> {
        if *self.left == 0 { Err(SynthError::TooMuch { most: MAX_ENTRIES }) } else { Ok(()) }
    }

    fn set(&mut self, entry: UnitEntryId, name: gimli::DwAt, value: AttributeValue) {
        self.unit.get_mut(entry).set(name, value);
    }

    fn text(&mut self, entry: UnitEntryId, name: gimli::DwAt, text: &str) {
        let id = self.strings.add(text);
        self.set(entry, name, AttributeValue::StringRef(id));
    }

    fn name(&mut self, entry: UnitEntryId, name: &str) {
        if !name.is_empty() {
            self.text(entry, dw::DW_AT_name, name);
        }
    }

    fn number(&mut self, entry: UnitEntryId, name: gimli::DwAt, number: u64) {
        self.set(entry, name, AttributeValue::Udata(number));
    }

    fn flag(&mut self, entry: UnitEntryId, name: gimli::DwAt) {
        self.set(entry, name, AttributeValue::FlagPresent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_beyond_the_bound_are_an_error_and_take_nothing() {
        let (mut unit, mut strings, mut left) = (new_unit(), StringTable::default(), 3);
        let mut maker = Maker { unit: &mut unit, strings: &mut strings, left: &mut left };
        let root = maker.unit.root();
        maker.add(root, dw::DW_TAG_base_type);
        maker.add(root, dw::DW_TAG_base_type);
        assert!(maker.end().is_ok());
        maker.add(root, dw::DW_TAG_base_type);
        assert_eq!(maker.add(root, dw::DW_TAG_base_type), root);
        let said = maker.end().unwrap_err().to_string();
        assert!(said.contains("more than 4194304 entries"), "{said}");
        assert_eq!(unit.get(root).children().count(), 3);
    }
}
