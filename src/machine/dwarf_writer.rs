//! Types, variables and functions to DWARF 5, as a compiler would write them: each compilation unit carries all
//! the types it needs.
//!
//! Input: any [`TypeSource`] and what each unit declares. Output: the bytes of the `.debug_*` sections. It knows
//! nothing of machines or kernels. Source: DWARF 5, chapters 3-5 and appendix A.

use std::collections::HashMap;

use gimli::{
    DwTag, Encoding as UnitEncoding, Format, LittleEndian, constants as dw,
    write::{
        Address, AttributeValue, CallFrameInstruction, CommonInformationEntry, Dwarf, EndianVec, Expression,
        FrameDescriptionEntry, FrameTable, LineProgram, Sections, StringTable, Unit as DwarfUnit,
        UnitEntryId,
    },
};

use crate::{
    addr::LinkAddr,
    types::{Aggregate, Encoding, Member, Tag, Type, TypeError, TypeId, TypeSource},
};

/// Registers of the x86-64 ABI's DWARF numbering.
const RBP: gimli::Register = gimli::X86_64::RBP;
const RSP: gimli::Register = gimli::X86_64::RSP;
const RETURN_ADDRESS: gimli::Register = gimli::X86_64::RA;

/// A compilation unit.
#[derive(Debug, Clone, Default)]
pub struct Unit {
    /// The source file's name.
    pub name: String,
    /// Types to describe even if no variable leads to them.
    pub types: Vec<TypeId>,
    /// Its variables.
    pub variables: Vec<Variable>,
    /// Its functions, together: from the first to the last no other unit has one.
    pub functions: Vec<Function>,
}

/// A variable with its type and place.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Where it was linked.
    pub addr: LinkAddr,
    /// Visible to other units.
    pub external: bool,
}

/// A function's name and place.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Where it was linked.
    pub addr: LinkAddr,
    /// Bytes.
    pub size: u64,
    /// How to find its caller; `None` writes nothing.
    pub frame: Option<Frame>,
}

/// A function that keeps a frame pointer.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Bytes to the end of `push rbp`.
    pub pushed: u32,
    /// Bytes to the end of `mov rbp, rsp`.
    pub established: u32,
    /// Bytes to the end of `pop rbp`.
    pub popped: u32,
    /// Nothing called it.
    pub outermost: bool,
}

/// Why debug information cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DwarfWriteError {
    /// A type cannot be had.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A value does not fit its form.
    #[error(transparent)]
    Write(#[from] gimli::write::Error),
}

/// A section's name and bytes.
pub type SectionBytes = (&'static str, Vec<u8>);

/// Writes `units`; empty sections are left out.
///
/// # Errors
/// [`DwarfWriteError`] when `types` is damaged or a value does not fit.
pub fn write(types: &dyn TypeSource, units: &[Unit]) -> Result<Vec<SectionBytes>, DwarfWriteError> {
    let encoding = UnitEncoding { format: Format::Dwarf32, version: 5, address_size: 8 };
    let mut dwarf = Dwarf::new();
    for unit in units {
        let id = dwarf.units.add(DwarfUnit::new(encoding, LineProgram::none()));
        let mut writer = Writer {
            types,
            unit: dwarf.units.get_mut(id),
            strings: &mut dwarf.strings,
            known: HashMap::new(),
            todo: Vec::new(),
        };
        writer.write_unit(unit)?;
    }
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections)?;
    frames(units).write_debug_frame(&mut sections.debug_frame)?;
    let mut out = Vec::new();
    sections.for_each(|id, bytes| {
        if !bytes.slice().is_empty() {
            out.push((id.name(), bytes.slice().to_vec()));
        }
        Ok::<_, DwarfWriteError>(())
    })?;
    Ok(out)
}

/// One unit being written.
struct Writer<'w> {
    types: &'w dyn TypeSource,
    unit: &'w mut DwarfUnit,
    strings: &'w mut StringTable,
    known: HashMap<TypeId, UnitEntryId>,
    /// Entries made but not filled in yet.
    todo: Vec<(UnitEntryId, Type)>,
}

impl Writer<'_> {
    fn write_unit(&mut self, unit: &Unit) -> Result<(), DwarfWriteError> {
        let root = self.unit.root();
        self.set_string(root, dw::DW_AT_producer, "nettlp-gdb");
        self.set(root, dw::DW_AT_language, AttributeValue::Language(dw::DW_LANG_C11));
        self.set_string(root, dw::DW_AT_name, &unit.name);
        self.set_string(root, dw::DW_AT_comp_dir, "/usr/src/linux");
        let start = unit.functions.iter().map(|function| function.addr).min();
        let end = unit.functions.iter().map(|function| function.addr.wrapping_add(function.size)).max();
        if let (Some(start), Some(end)) = (start, end) {
            self.set(root, dw::DW_AT_low_pc, address(start));
            self.set(root, dw::DW_AT_high_pc, AttributeValue::Udata(end.wrapping_offset_from(start)));
        }
        for ty in &unit.types {
            self.entry(*ty)?;
        }
        for variable in &unit.variables {
            self.variable(root, variable)?;
        }
        for function in &unit.functions {
            let entry = self.unit.add(root, dw::DW_TAG_subprogram);
            self.set(entry, dw::DW_AT_external, AttributeValue::FlagPresent);
            self.set_string(entry, dw::DW_AT_name, &function.name);
            self.set(entry, dw::DW_AT_prototyped, AttributeValue::FlagPresent);
            self.set(entry, dw::DW_AT_low_pc, address(function.addr));
            self.set(entry, dw::DW_AT_high_pc, AttributeValue::Udata(function.size));
        }
        while let Some((entry, ty)) = self.todo.pop() {
            self.fill(entry, ty)?;
        }
        Ok(())
    }

    fn set(&mut self, entry: UnitEntryId, name: gimli::DwAt, value: AttributeValue) {
        self.unit.get_mut(entry).set(name, value);
    }

    fn set_string(&mut self, entry: UnitEntryId, name: gimli::DwAt, text: &str) {
        let id = self.strings.add(text);
        self.set(entry, name, AttributeValue::StringRef(id));
    }

    /// Refers to a type; `void` is the absence of one.
    fn refer(&mut self, entry: UnitEntryId, ty: TypeId) -> Result<(), DwarfWriteError> {
        if let Some(target) = self.entry(ty)? {
            self.set(entry, dw::DW_AT_type, AttributeValue::UnitRef(target));
        }
        Ok(())
    }

    fn variable(&mut self, root: UnitEntryId, variable: &Variable) -> Result<(), DwarfWriteError> {
        let entry = self.unit.add(root, dw::DW_TAG_variable);
        self.set_string(entry, dw::DW_AT_name, &variable.name);
        self.refer(entry, variable.ty)?;
        if variable.external {
            self.set(entry, dw::DW_AT_external, AttributeValue::FlagPresent);
        }
        let mut location = Expression::new();
        location.op_addr(Address::Constant(variable.addr.raw()));
        self.set(entry, dw::DW_AT_location, AttributeValue::Exprloc(location));
        Ok(())
    }

    /// The entry of a type, made on first use and filled in later, so that types may refer to each other.
    fn entry(&mut self, id: TypeId) -> Result<Option<UnitEntryId>, DwarfWriteError> {
        if let Some(entry) = self.known.get(&id) {
            return Ok(Some(*entry));
        }
        let ty = self.types.get(id)?;
        if let Type::Forward { tag, name } = &ty
            && let Ok(complete) = self.types.find(*tag, name)
            && complete != id
            && let Some(entry) = self.entry(complete)?
        {
            self.known.insert(id, entry);
            return Ok(Some(entry));
        }
        let Some(tag) = dwarf_tag(&ty) else { return Ok(None) };
        let entry = self.unit.add(self.unit.root(), tag);
        self.known.insert(id, entry);
        self.todo.push((entry, ty));
        Ok(Some(entry))
    }

    fn fill(&mut self, entry: UnitEntryId, ty: Type) -> Result<(), DwarfWriteError> {
        match ty {
            Type::Void => {}
            Type::Base { name, size, encoding } => {
                self.set_string(entry, dw::DW_AT_name, &name);
                self.set(entry, dw::DW_AT_byte_size, AttributeValue::Udata(size));
                self.set(
                    entry,
                    dw::DW_AT_encoding,
                    AttributeValue::Encoding(dwarf_encoding(&name, encoding)),
                );
            }
            Type::Pointer(target) => {
                self.set(entry, dw::DW_AT_byte_size, AttributeValue::Udata(8));
                self.refer(entry, target)?;
            }
            Type::Qualified(target) => self.refer(entry, target)?,
            Type::Typedef { name, target } => {
                self.set_string(entry, dw::DW_AT_name, &name);
                self.refer(entry, target)?;
            }
            Type::Array { element, count } => {
                self.refer(entry, element)?;
                let range = self.unit.add(entry, dw::DW_TAG_subrange_type);
                match count {
                    None => {}
                    Some(0) => self.set(range, dw::DW_AT_count, AttributeValue::Udata(0)),
                    Some(count) => self.set(range, dw::DW_AT_upper_bound, AttributeValue::Udata(count - 1)),
                }
            }
            Type::Aggregate(aggregate) => self.fill_aggregate(entry, aggregate)?,
            Type::Enum { name, size, values } => {
                if let Some(name) = name {
                    self.set_string(entry, dw::DW_AT_name, &name);
                }
                self.set(entry, dw::DW_AT_byte_size, AttributeValue::Udata(size));
                for (name, value) in values {
                    let enumerator = self.unit.add(entry, dw::DW_TAG_enumerator);
                    self.set_string(enumerator, dw::DW_AT_name, &name);
                    self.set(enumerator, dw::DW_AT_const_value, AttributeValue::Sdata(value as i64));
                }
            }
            Type::Function { result, params } => {
                self.set(entry, dw::DW_AT_prototyped, AttributeValue::FlagPresent);
                self.refer(entry, result)?;
                for param in params {
                    let param_entry = self.unit.add(entry, dw::DW_TAG_formal_parameter);
                    self.refer(param_entry, param)?;
                }
            }
            Type::Forward { name, .. } => {
                self.set_string(entry, dw::DW_AT_name, &name);
                self.set(entry, dw::DW_AT_declaration, AttributeValue::FlagPresent);
            }
        }
        Ok(())
    }

    fn fill_aggregate(&mut self, entry: UnitEntryId, aggregate: Aggregate) -> Result<(), DwarfWriteError> {
        if let Some(name) = &aggregate.name {
            self.set_string(entry, dw::DW_AT_name, name);
        }
        self.set(entry, dw::DW_AT_byte_size, AttributeValue::Udata(aggregate.size));
        for Member { name, bit_offset, bit_size, ty } in aggregate.members {
            let member = self.unit.add(entry, dw::DW_TAG_member);
            if let Some(name) = name {
                self.set_string(member, dw::DW_AT_name, &name);
            }
            self.refer(member, ty)?;
            if let Some(bits) = bit_size {
                self.set(member, dw::DW_AT_bit_size, AttributeValue::Udata(bits));
                self.set(member, dw::DW_AT_data_bit_offset, AttributeValue::Udata(bit_offset));
            } else {
                self.set(member, dw::DW_AT_data_member_location, AttributeValue::Udata(bit_offset / 8));
            }
        }
        Ok(())
    }
}

fn address(addr: LinkAddr) -> AttributeValue {
    AttributeValue::Address(Address::Constant(addr.raw()))
}

fn dwarf_tag(ty: &Type) -> Option<DwTag> {
    Some(match ty {
        Type::Void => return None,
        Type::Base { .. } => dw::DW_TAG_base_type,
        Type::Pointer(_) => dw::DW_TAG_pointer_type,
        Type::Array { .. } => dw::DW_TAG_array_type,
        Type::Aggregate(Aggregate { tag: Tag::Union, .. }) | Type::Forward { tag: Tag::Union, .. } => {
            dw::DW_TAG_union_type
        }
        Type::Aggregate(_) => dw::DW_TAG_structure_type,
        Type::Enum { .. } | Type::Forward { tag: Tag::Enum, .. } => dw::DW_TAG_enumeration_type,
        Type::Typedef { .. } => dw::DW_TAG_typedef,
        Type::Qualified(_) => dw::DW_TAG_const_type,
        Type::Function { .. } => dw::DW_TAG_subroutine_type,
        Type::Forward { .. } => dw::DW_TAG_structure_type,
    })
}

fn dwarf_encoding(name: &str, encoding: Encoding) -> gimli::DwAte {
    match encoding {
        Encoding::Bool => dw::DW_ATE_boolean,
        Encoding::Char | Encoding::Signed if name == "char" => dw::DW_ATE_signed_char,
        Encoding::Char | Encoding::Unsigned if name == "unsigned char" => dw::DW_ATE_unsigned_char,
        Encoding::Char | Encoding::Signed => dw::DW_ATE_signed,
        Encoding::Unsigned => dw::DW_ATE_unsigned,
        Encoding::Other => dw::DW_ATE_float,
    }
}

/// Call frame information of all functions with a frame pointer (DWARF 5, section 6.4).
fn frames(units: &[Unit]) -> FrameTable {
    /// `.debug_frame` has a version of its own.
    const VERSION: u16 = 4;
    let encoding = UnitEncoding { format: Format::Dwarf32, version: VERSION, address_size: 8 };
    let mut entry = CommonInformationEntry::new(encoding, 1, -8, RETURN_ADDRESS);
    entry.add_instruction(CallFrameInstruction::Cfa(RSP, 8));
    entry.add_instruction(CallFrameInstruction::Offset(RETURN_ADDRESS, -8));
    let mut table = FrameTable::default();
    let common = table.add_cie(entry);
    for function in units.iter().flat_map(|unit| &unit.functions) {
        let Some(frame) = function.frame else { continue };
        let size = u32::try_from(function.size).unwrap_or(u32::MAX);
        let mut entry = FrameDescriptionEntry::new(Address::Constant(function.addr.raw()), size);
        if frame.outermost {
            entry.add_instruction(0, CallFrameInstruction::Undefined(RETURN_ADDRESS));
        }
        entry.add_instruction(frame.pushed, CallFrameInstruction::CfaOffset(16));
        entry.add_instruction(frame.pushed, CallFrameInstruction::Offset(RBP, -16));
        entry.add_instruction(frame.established, CallFrameInstruction::CfaRegister(RBP));
        entry.add_instruction(frame.popped, CallFrameInstruction::Cfa(RSP, 8));
        table.add_fde(common, entry);
    }
    table
}
