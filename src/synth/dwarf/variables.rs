//! Variables with a type: those BTF knows, and those of the table.

use std::collections::{HashMap, HashSet};

use gimli::{
    constants as dw,
    write::{Address, AttributeValue, Expression, UnitEntryId},
};

use super::{Maker, Types};
use crate::{
    addr::LinkAddr,
    symbols::SymbolKind,
    synth::{
        globals::{Array, FILES, GLOBALS, Global},
        vmlinux::Symbol,
    },
    types::{
        Tag, TypeError, TypeId, TypeSource,
        btf::{Btf, Kind, Linkage, Record},
    },
};

/// No array of the table is larger; one may only seem so where nothing after it has a symbol.
const MAX_ARRAY: u64 = 64 << 10;
/// Where there may be a pointer in its place, none is smaller: the symbol's size includes what is free behind it.
const MIN_ARRAY: u64 = 256;

/// A variable for a file's own unit.
pub(super) struct OfFile<'v> {
    pub(super) file: &'static str,
    pub(super) symbol: &'v Symbol,
    pub(super) ty: Option<UnitEntryId>,
}

pub(super) struct Variables<'v, 'b> {
    btf: &'b Btf,
    /// Of several symbols of one name the first global one, else the first.
    symbols: HashMap<&'v str, &'v Symbol>,
    places: HashMap<(&'v str, LinkAddr), &'v Symbol>,
    types: &'v mut Types<'b>,
    done: HashSet<(&'v str, LinkAddr)>,
}

impl<'v, 'b: 'v> Variables<'v, 'b> {
    pub(super) fn new(btf: &'b Btf, symbols: &'v [Symbol], types: &'v mut Types<'b>) -> Self {
        let (mut by_name, mut places) = (HashMap::<&str, &Symbol>::new(), HashMap::new());
        for symbol in symbols.iter().filter(|symbol| symbol.kind != SymbolKind::Function) {
            places.insert((symbol.name.as_str(), symbol.addr), symbol);
            let known = by_name.entry(&symbol.name).or_insert(symbol);
            if symbol.global && !known.global {
                *known = symbol;
            }
        }
        Self { btf, symbols: by_name, places, types, done: HashSet::new() }
    }

    /// Writes all variables but those that stand in a file's own unit: these are the result, with their types.
    pub(super) fn write(&mut self, maker: &mut Maker<'_>) -> Result<Vec<OfFile<'v>>, TypeError> {
        let offsets = self.percpu_offsets()?;
        for id in self.btf.ids().map(|id| TypeId(u64::from(id))) {
            let record = self.btf.record(id)?;
            if let Kind::Variable { ty, linkage } = record.kind
                && let Some(symbol) = self.symbol(record.name, offsets.get(&id).copied())
                && self.done.insert((&symbol.name, symbol.addr))
            {
                let ty = self.types.entry(ty).map(AttributeValue::UnitRef);
                variable(maker, symbol, ty, linkage == Linkage::Global);
            }
        }
        let named: HashSet<&str> = self.done.iter().map(|(name, _)| *name).collect();
        let mut of_files = Vec::new();
        for global in GLOBALS {
            if !named.contains(global.name)
                && let Some(symbol) = self.symbols.get(global.name).copied()
                && !self.done.contains(&(global.name, symbol.addr))
                && let Some(ty) = self.global(maker, global, symbol)
            {
                self.done.insert((global.name, symbol.addr));
                match FILES.iter().find(|(_, names)| names.contains(&global.name)) {
                    Some((file, _)) => of_files.push(OfFile { file, symbol, ty }),
                    None => variable(maker, symbol, ty.map(AttributeValue::UnitRef), symbol.global),
                }
            }
        }
        Ok(of_files)
    }

    /// The symbol of a variable of BTF: the one at its place in the per-CPU area, if it has one there.
    fn symbol(&self, name: &str, offset: Option<u32>) -> Option<&'v Symbol> {
        let start = self.symbols.get("__per_cpu_start").map(|symbol| symbol.addr);
        let place = start.zip(offset).map(|(start, offset)| start.wrapping_add(u64::from(offset)));
        let there = place.and_then(|place| self.places.get(&(name, place)));
        there.or_else(|| self.symbols.get(name)).copied()
    }

    /// By variable, where it is from `__per_cpu_start` on.
    fn percpu_offsets(&self) -> Result<HashMap<TypeId, u32>, TypeError> {
        let mut offsets = HashMap::new();
        for id in self.btf.ids() {
            let record = self.btf.record(TypeId(u64::from(id)))?;
            if let Kind::Section { entries, .. } = record.kind
                && record.name == ".data..percpu"
            {
                offsets.extend(entries.iter().flatten().map(|entry| (entry.variable, entry.offset)));
            }
        }
        Ok(offsets)
    }

    /// Variables with a type so far.
    pub(super) fn count(&self) -> usize {
        self.done.len()
    }

    /// The type of a variable of the table; `None` when the kernel has no such type.
    fn global(
        &mut self,
        maker: &mut Maker<'_>,
        global: &Global,
        symbol: &Symbol,
    ) -> Option<Option<UnitEntryId>> {
        let types: &dyn TypeSource = self.btf;
        if let Some((name, member)) = global.needs {
            types.field(name, member).ok()?;
        }
        let qualified = |word| global.ty.strip_prefix(word);
        let (name, qualifier) = match (qualified("const "), qualified("volatile ")) {
            (Some(name), _) => (name, Some(dw::DW_TAG_const_type)),
            (_, Some(name)) => (name, Some(dw::DW_TAG_volatile_type)),
            (None, None) => (global.ty, None),
        };
        let (mut entry, mut size) = match name {
            "void" => (None, 0),
            name => {
                let id = find(self.btf, name)?;
                (Some(self.types.entry(id)?), types.size_of(id).ok()?)
            }
        };
        if let Some(qualifier) = qualifier {
            entry = Some(Types::qualified(maker, entry, qualifier));
        }
        for _ in 0..global.pointers {
            (entry, size) = (Some(self.types.pointer_to(maker, entry)), 8);
        }
        let count = match global.array {
            Array::No => return Some(entry),
            Array::OrPointer if symbol.size < MIN_ARRAY => {
                return Some(Some(self.types.pointer_to(maker, entry)));
            }
            Array::Open | Array::OrPointer => symbol.size.min(MAX_ARRAY).checked_div(size)?,
            Array::Of(count) => count,
            Array::Enum(name, last) => u64::try_from(types.enumerator(name, last).ok()?).ok()?,
            Array::PerCpu => types.struct_size("cpumask").ok()?.checked_mul(8)?,
        };
        Some(Some(self.types.array_of(maker, entry, count)))
    }
}

/// A type by its C name.
fn find(btf: &Btf, name: &str) -> Option<TypeId> {
    if let Some(members) = name.strip_prefix("struct { ").and_then(|rest| rest.strip_suffix(" }")) {
        return anonymous(btf, members);
    }
    let tagged = |tag, prefix| name.strip_prefix(prefix).map(|name| (tag, name));
    let known = tagged(Tag::Struct, "struct ").or_else(|| tagged(Tag::Union, "union "));
    match known {
        Some((tag, name)) => btf.find(tag, name).ok(),
        None => btf.find(Tag::Base, name).or_else(|_| btf.find(Tag::Typedef, name)).ok(),
    }
}

/// The struct without a name whose members begin with those.
fn anonymous(btf: &Btf, members: &str) -> Option<TypeId> {
    btf.ids().map(|id| TypeId(u64::from(id))).find(|id| match btf.record(*id) {
        Ok(Record { name: "", kind: Kind::Struct { members: own, .. } }) => {
            let mut own = own.iter().flatten().map(|member| member.name);
            members.split(' ').all(|name| own.next() == Some(name))
        }
        _ => false,
    })
}

/// Describes a variable; `ty` refers to its type.
pub(super) fn variable(maker: &mut Maker<'_>, symbol: &Symbol, ty: Option<AttributeValue>, external: bool) {
    let entry = maker.add(maker.unit.root(), dw::DW_TAG_variable);
    maker.name(entry, &symbol.name);
    if let Some(ty) = ty {
        maker.set(entry, dw::DW_AT_type, ty);
    }
    if external {
        maker.flag(entry, dw::DW_AT_external);
    }
    let mut place = Expression::new();
    place.op_addr(Address::Constant(symbol.addr.raw()));
    maker.set(entry, dw::DW_AT_location, AttributeValue::Exprloc(place));
}
