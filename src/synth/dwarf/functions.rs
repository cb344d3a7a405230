//! Functions: prototype and place of each, in units that span a short stretch of code.
//!
//! gdb reads the unit that an address is in whole, with the types it leads to, before it names the one function there.

use std::collections::{HashMap, hash_map::Entry};

use gimli::{
    constants as dw,
    write::{Address, AttributeValue, DebugInfoRef, Dwarf, UnitEntryId, UnitId},
};

use super::{Maker, new_unit, types::Types};
use crate::{
    symbols::SymbolKind,
    synth::vmlinux::{Symbol, SynthError},
    types::{
        TypeError, TypeId,
        btf::{Btf, Kind, List, Param},
    },
};

/// Functions in a unit: what a unit costs by itself is nothing beside as many, and they are read in a millisecond.
const IN_UNIT: usize = 256;
/// No function of a kernel has a dozen parameters; each symbol of its name repeats them. As many as bits of
/// [`Prototype::unnamed`].
const MAX_PARAMS: usize = 64;

/// A function that BTF has a prototype of and that has a place.
struct Function<'f> {
    symbol: &'f Symbol,
    result: TypeId,
    params: List<'f, Param<'f>>,
    /// As in [`Prototype`].
    unnamed: u64,
}

/// What the records of one name say: nothing tells which symbol of that name is whose.
struct Prototype {
    /// That of the first.
    first: TypeId,
    /// Whether all have the same types.
    agreed: bool,
    /// By position, the parameters whose names differ.
    unnamed: u64,
}

impl Prototype {
    fn compare(&mut self, btf: &Btf, other: TypeId) -> Result<(), TypeError> {
        let (first, other) = (btf.record(self.first)?.kind, btf.record(other)?.kind);
        let (
            Kind::Prototype { result, params },
            Kind::Prototype { result: other_result, params: other_params },
        ) = (first, other)
        else {
            self.agreed = false;
            return Ok(());
        };
        self.agreed &= result == other_result && params.len() == other_params.len();
        if !self.agreed {
            return Ok(());
        }
        for (at, (one, other)) in params.iter().zip(other_params.iter()).enumerate().take(MAX_PARAMS) {
            let (Ok(one), Ok(other)) = (one, other) else { continue };
            self.agreed &= one.ty == other.ty;
            self.unnamed |= u64::from(one.name != other.name) << at;
        }
        Ok(())
    }
}

/// Describes every function of `symbols`, which stand in the order of their addresses, that `btf` has a prototype of.
pub(super) fn write(
    (dwarf, left): (&mut Dwarf, &mut usize),
    unit_name: &str,
    btf: &Btf,
    symbols: &[Symbol],
    types: (&Types<'_>, UnitId),
) -> Result<usize, SynthError> {
    let functions = functions(btf, symbols)?;
    for stretch in stretches(&functions) {
        let mut unit = new_unit();
        let mut maker = Maker { unit: &mut unit, strings: &mut dwarf.strings, left: &mut *left };
        maker.describe_unit(unit_name);
        stretch.iter().for_each(|function| describe(&mut maker, function, types));
        maker.end()?;
        let start = stretch.iter().map(|function| function.symbol.addr).min();
        let end =
            stretch.iter().map(|function| function.symbol.addr.wrapping_add(function.symbol.size)).max();
        if let (Some(start), Some(end)) = (start, end) {
            let (root, low) = (maker.unit.root(), AttributeValue::Address(Address::Constant(start.raw())));
            maker.set(root, dw::DW_AT_low_pc, low);
            maker.number(root, dw::DW_AT_high_pc, end.wrapping_offset_from(start));
        }
        dwarf.units.add(unit);
    }
    Ok(functions.len())
}

fn functions<'f>(btf: &'f Btf, symbols: &'f [Symbol]) -> Result<Vec<Function<'f>>, SynthError> {
    let mut prototypes = HashMap::new();
    for id in btf.ids() {
        let record = btf.record(TypeId(u64::from(id)))?;
        if let Kind::Function { prototype, .. } = record.kind {
            match prototypes.entry(record.name) {
                Entry::Vacant(entry) => {
                    entry.insert(Prototype { first: prototype, agreed: true, unnamed: 0 });
                }
                Entry::Occupied(mut entry) => entry.get_mut().compare(btf, prototype)?,
            }
        }
    }
    let mut functions = Vec::new();
    for symbol in symbols.iter().filter(|symbol| symbol.kind == SymbolKind::Function && symbol.size > 0) {
        let known = prototypes.get(symbol.name.as_str()).filter(|prototype| prototype.agreed);
        let Some(Prototype { first, unnamed, .. }) = known else { continue };
        let Kind::Prototype { result, params } = btf.record(*first)?.kind else { continue };
        if params.len() <= MAX_PARAMS {
            functions.push(Function { symbol, result, params, unnamed: *unnamed });
        }
    }
    Ok(functions)
}

/// The functions of each unit: of one section, and never some of those that share their code apart from the others.
fn stretches<'s, 'f>(functions: &'s [Function<'f>]) -> impl Iterator<Item = &'s [Function<'f>]> {
    let mut count = 0;
    functions.chunk_by(move |one, next| {
        let (one, next) = (one.symbol, next.symbol);
        count += 1;
        let stays =
            one.section == next.section && (count < IN_UNIT || next.addr < one.addr.wrapping_add(one.size));
        if !stays {
            count = 0;
        }
        stays
    })
}

fn describe(maker: &mut Maker<'_>, function: &Function<'_>, types: (&Types<'_>, UnitId)) {
    let Function { symbol, result, params, unnamed } = function;
    let entry = maker.add(maker.unit.root(), dw::DW_TAG_subprogram);
    maker.name(entry, &symbol.name);
    maker.flag(entry, dw::DW_AT_prototyped);
    if symbol.global {
        maker.flag(entry, dw::DW_AT_external);
    }
    refer(maker, entry, *result, types);
    maker.set(entry, dw::DW_AT_low_pc, AttributeValue::Address(Address::Constant(symbol.addr.raw())));
    maker.number(entry, dw::DW_AT_high_pc, symbol.size);
    for (at, param) in params.iter().enumerate() {
        let Ok(param) = param else { continue };
        if param.ty == TypeId(0) {
            maker.add(entry, dw::DW_TAG_unspecified_parameters);
            continue;
        }
        let child = maker.add(entry, dw::DW_TAG_formal_parameter);
        if unnamed >> at & 1 == 0 {
            maker.name(child, param.name);
        }
        refer(maker, child, param.ty, types);
    }
}

/// Types are in a unit of their own.
fn refer(maker: &mut Maker<'_>, entry: UnitEntryId, ty: TypeId, (types, unit): (&Types<'_>, UnitId)) {
    if let Some(target) = types.entry(ty) {
        let place = AttributeValue::DebugInfoRef(DebugInfoRef::Entry(unit, target));
        maker.set(entry, dw::DW_AT_type, place);
    }
}
