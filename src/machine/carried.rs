//! What a kernel carries to describe itself: its symbols (scripts/kallsyms.c) and its types (Documentation/bpf/btf.rst).
//!
//! Input: declarations and where they were linked. Output: bytes for the end of the read-only data, and the symbols that
//! lead to them. The symbols' table is written as by 6.1 where per-CPU variables are linked at 0, else as by 6.15.

use std::collections::HashMap;

use super::{
    c::Declarations,
    link::{Image, Kind, LinkedSymbol, TEXT},
};
use crate::{
    addr::LinkAddr,
    symbols::SymbolKind,
    types::{Encoding, Tag, Type, TypeId},
};

/// Names between two entries of `kallsyms_markers`.
const MARKED: usize = 256;

/// Bytes with labels in them.
#[derive(Default)]
struct Labelled {
    bytes: Vec<u8>,
    labels: Vec<(&'static str, usize)>,
}

impl Labelled {
    fn label(&mut self, name: &'static str) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.labels.push((name, self.bytes.len()));
    }

    fn symbols(&self, image: &Image, start: LinkAddr) -> Vec<LinkedSymbol> {
        let section = image.sections.iter().position(|section| section.kind == Kind::RoData).unwrap_or(0);
        let symbols = self.labels.iter().map(|(name, at)| LinkedSymbol {
            name: (*name).to_owned(),
            addr: start.wrapping_add(*at as u64),
            size: if *name == "kallsyms_relative_base" { 8 } else { 0 },
            kind: SymbolKind::Object,
            external: true,
            section,
        });
        symbols.collect()
    }

    fn words(&mut self, words: impl IntoIterator<Item = u32>) {
        words.into_iter().for_each(|word| self.bytes.extend(word.to_le_bytes()));
    }
}

/// What `image` carries from `start` on.
pub(super) fn write(
    declarations: &Declarations,
    image: &Image,
    start: LinkAddr,
) -> (Vec<u8>, Vec<LinkedSymbol>) {
    let mut out = Labelled::default();
    out.label("__start_BTF");
    out.bytes.extend(btf(declarations, image));
    out.label("__stop_BTF");
    // The table has everything but itself.
    let types = out.symbols(image, start);
    kallsyms(image, &types, &mut out);
    let symbols = out.symbols(image, start);
    (out.bytes, symbols)
}

/// A symbol's letter, as `nm` has it.
fn letter(image: &Image, symbol: &LinkedSymbol) -> u8 {
    let letter = match image.sections.get(symbol.section).map(|section| section.kind) {
        _ if symbol.addr < TEXT => return b'A',
        Some(Kind::Text | Kind::InitText) => b'T',
        Some(Kind::RoData | Kind::Notes) => b'R',
        Some(Kind::Bss | Kind::Brk) => b'B',
        _ => b'D',
    };
    if symbol.external { letter } else { letter.to_ascii_lowercase() }
}

fn kallsyms(image: &Image, more: &[LinkedSymbol], out: &mut Labelled) {
    let mut symbols: Vec<&LinkedSymbol> = image.symbols.iter().chain(more).collect();
    symbols.sort_by_key(|symbol| symbol.addr);
    let zero_based = symbols.first().is_some_and(|symbol| symbol.addr < TEXT);
    let offsets = |out: &mut Labelled| {
        out.label("kallsyms_offsets");
        out.words(symbols.iter().map(|symbol| match (zero_based, symbol.addr < TEXT) {
            (true, true) => symbol.addr.raw() as u32,
            (true, false) => TEXT.wrapping_offset_from(symbol.addr).wrapping_sub(1) as u32,
            (false, _) => symbol.addr.wrapping_offset_from(TEXT) as u32,
        }));
        out.label("kallsyms_relative_base");
        out.bytes.extend(TEXT.raw().to_le_bytes());
    };
    if zero_based {
        offsets(out);
    }
    out.label("kallsyms_num_syms");
    out.words([symbols.len() as u32]);
    out.label("kallsyms_names");
    let names = out.bytes.len();
    let mut markers = Vec::new();
    for (index, symbol) in symbols.iter().enumerate() {
        if index % MARKED == 0 {
            markers.push((out.bytes.len() - names) as u32);
        }
        let len = symbol.name.len() + 1;
        match u8::try_from(len) {
            Ok(len @ ..0x80) => out.bytes.push(len),
            _ => out.bytes.extend([len as u8 | 0x80, (len >> 7) as u8]),
        }
        out.bytes.push(letter(image, symbol));
        out.bytes.extend(symbol.name.as_bytes());
    }
    out.label("kallsyms_markers");
    out.words(markers);
    out.label("kallsyms_token_table");
    let table = out.bytes.len();
    let mut index = Vec::new();
    // Nothing is compressed: each letter stands for itself.
    for token in 0..=u8::MAX {
        index.extend(((out.bytes.len() - table) as u16).to_le_bytes());
        out.bytes.extend(token.is_ascii_graphic().then_some(token));
        out.bytes.push(0);
    }
    out.label("kallsyms_token_index");
    out.bytes.extend(index);
    if !zero_based {
        offsets(out);
        out.label("kallsyms_seqs_of_names");
        let mut by_name: Vec<u32> = (0..symbols.len() as u32).collect();
        by_name.sort_by_key(|at| symbols.get(*at as usize).map(|symbol| &symbol.name));
        by_name.iter().for_each(|at| out.bytes.extend(at.to_be_bytes().iter().skip(1)));
    }
}

/// The sections of a `.BTF` in the making.
#[derive(Default)]
struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    known: HashMap<String, u32>,
    last: u32,
}

/// Kinds of records (`BTF_KIND_*`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const POINTER: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FORWARD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNCTION: u32 = 12;
    pub(super) const PROTOTYPE: u32 = 13;
    pub(super) const VARIABLE: u32 = 14;
    pub(super) const SECTION: u32 = 15;
    pub(super) const WIDE_ENUM: u32 = 19;
}

impl Btf {
    fn string(&mut self, text: &str) -> u32 {
        if let Some(at) = self.known.get(text) {
            return *at;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.bytes().chain([0]));
        self.known.insert(text.to_owned(), at);
        at
    }

    /// A record of `count` entries; the result is its id.
    fn record(
        &mut self,
        name: &str,
        (kind, count): (u32, usize),
        flag: bool,
        word: u32,
        tail: &[u32],
    ) -> u32 {
        let name = self.string(name);
        let info = kind << 24 | count as u32 | u32::from(flag) << 31;
        for word in [name, info, word].iter().chain(tail) {
            self.types.extend(word.to_le_bytes());
        }
        self.last += 1;
        self.last
    }

    /// `id` tells the id of a type, `index` is one that can be an array's index.
    fn add(&mut self, ty: &Type, id: &dyn Fn(TypeId) -> u32, index: u32) {
        match ty {
            Type::Void => {}
            Type::Base { name, size, encoding } => {
                let encoding = match encoding {
                    Encoding::Signed => 1,
                    Encoding::Char => 2,
                    Encoding::Bool => 4,
                    Encoding::Unsigned | Encoding::Other => 0,
                };
                let bits = (*size as u32) * 8;
                self.record(name, (kind::INT, 0), false, *size as u32, &[encoding << 24 | bits]);
            }
            Type::Pointer(to) => {
                self.record("", (kind::POINTER, 0), false, id(*to), &[]);
            }
            Type::Array { element, count } => {
                let tail = [id(*element), index, count.unwrap_or(0) as u32];
                self.record("", (kind::ARRAY, 0), false, 0, &tail);
            }
            Type::Aggregate(aggregate) => {
                let fields = aggregate.members.iter().any(|member| member.bit_size.is_some());
                let mut tail = Vec::new();
                for member in &aggregate.members {
                    let place = member.bit_offset | member.bit_size.unwrap_or(0) << 24;
                    let name = self.string(member.name.as_deref().unwrap_or_default());
                    tail.extend([name, id(member.ty), place as u32]);
                }
                let kind = if aggregate.tag == Tag::Union { kind::UNION } else { kind::STRUCT };
                let name = aggregate.name.as_deref().unwrap_or_default();
                self.record(name, (kind, aggregate.members.len()), fields, aggregate.size as u32, &tail);
            }
            Type::Enum { name, size, values } => {
                let wide = *size == 8;
                let mut tail = Vec::new();
                for (name, value) in values {
                    tail.extend([self.string(name), *value as u32]);
                    tail.extend(wide.then_some((*value >> 32) as u32));
                }
                let signed = values.iter().any(|(_, value)| *value < 0);
                let kind = if wide { kind::WIDE_ENUM } else { kind::ENUM };
                let name = name.as_deref().unwrap_or_default();
                self.record(name, (kind, values.len()), signed, *size as u32, &tail);
            }
            Type::Typedef { name, target } => {
                self.record(name, (kind::TYPEDEF, 0), false, id(*target), &[]);
            }
            Type::Qualified(target) => {
                self.record("", (kind::CONST, 0), false, id(*target), &[]);
            }
            Type::Function { result, params } => {
                let tail: Vec<u32> = params.iter().flat_map(|param| [0, id(*param)]).collect();
                self.record("", (kind::PROTOTYPE, params.len()), false, id(*result), &tail);
            }
            Type::Forward { tag, name } => {
                self.record(name, (kind::FORWARD, 0), *tag == Tag::Union, 0, &[]);
            }
        }
    }

    fn finish(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_le_bytes());
        }
        [bytes, self.types, self.strings].concat()
    }
}

/// All types, a function for each function, and the per-CPU variables with their section.
fn btf(declarations: &Declarations, image: &Image) -> Vec<u8> {
    let mut ids = HashMap::new();
    let mut index = 0;
    for (id, ty) in declarations.types.iter().filter(|(_, ty)| **ty != Type::Void) {
        let own = ids.len() as u32 + 1;
        ids.insert(id, own);
        if index == 0 && matches!(ty, Type::Base { .. }) {
            index = own;
        }
    }
    let id = |ty| ids.get(&ty).copied().unwrap_or(0);
    let mut btf = Btf::default();
    btf.string("");
    declarations.types.iter().for_each(|(_, ty)| btf.add(ty, &id, index));
    // The source does not say what functions take and give.
    let prototype = btf.record("", (kind::PROTOTYPE, 0), false, 0, &[]);
    for function in &declarations.functions {
        btf.record(&function.name, (kind::FUNCTION, 1), false, prototype, &[]);
    }
    let mut entries = Vec::new();
    if let Some(section) = image.section(Kind::PerCpu) {
        for variable in &declarations.variables {
            let symbol = image.symbol(&variable.name).ok();
            let inside = |symbol: &&LinkedSymbol| {
                image.sections.get(symbol.section).is_some_and(|section| section.kind == Kind::PerCpu)
            };
            let Some(symbol) = symbol.filter(inside) else { continue };
            let id = btf.record(&variable.name, (kind::VARIABLE, 0), false, id(variable.ty), &[1]);
            let offset = symbol.addr.wrapping_offset_from(section.addr);
            entries.extend([id, offset as u32, symbol.size as u32]);
        }
        btf.record(".data..percpu", (kind::SECTION, entries.len() / 3), false, section.size as u32, &entries);
    }
    btf.finish()
}
