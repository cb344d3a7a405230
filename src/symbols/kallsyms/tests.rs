use proptest::prelude::*;

use super::{
    addresses::Encoding,
    layout,
    names::{self, Lengths},
    writer::{self, RECIPES},
    *,
};
use crate::symbols::Relocated;

const SLIDE: u64 = 0x3500_0000;
const TEXT: u64 = 0xffff_ffff_8100_0000 + SLIDE;

fn table(percpu: bool) -> Kallsyms {
    writer::table(&writer::kernel(TEXT, percpu), SLIDE)
}

#[test]
fn relocated_symbols_are_where_the_kernel_has_them() {
    let symbols = Relocated::new(Box::new(table(true)), SLIDE);
    assert_eq!(symbols.addr("init_task"), Ok(VirtAddr::new(TEXT + 0x2_0000)));
    assert_eq!(symbols.addr("cpu_tss_rw"), Ok(VirtAddr::new(0x1000)), "an offset in the per-CPU area");
    assert_eq!(symbols.table().lookup("_text").unwrap().addr, LinkAddr::new(0xffff_ffff_8100_0000));
    let (start, end) = symbols.table().zero_based_percpu().unwrap();
    assert_eq!((start.raw(), end.raw()), (0, 0x3_4000));
    assert_eq!(table(false).zero_based_percpu(), None);
}

#[test]
fn an_address_belongs_to_the_first_name_of_its_symbol() {
    let symbols = Relocated::new(Box::new(table(true)), SLIDE);
    let at =
        |addr: u64| symbols.containing(VirtAddr::new(addr)).map(|(symbol, offset)| (symbol.name, offset));
    assert_eq!(at(TEXT + 0x80), Some(("startup_64".to_owned(), 0x80)));
    assert_eq!(at(TEXT + 0x2_0010), Some(("init_task".to_owned(), 0x10)));
    assert_eq!(at(TEXT + 0x3_0000), Some(("_end".to_owned(), 0)));
    assert_eq!(at(TEXT + 0x3_0001), None, "after the last symbol");
    assert_eq!(at(TEXT - 1), None, "before the first");
    assert_eq!(at(0x1000), None, "per-CPU");
}

#[test]
fn of_equal_names_the_global_one() {
    let table = table(true);
    let mut global = Vec::new();
    table.for_each(&mut |symbol| global.extend(symbol.global.then(|| symbol.name.to_owned())));
    assert!(global.contains(&"init_task".to_owned()));
    assert!(!global.contains(&"cpu_tss_rw".to_owned()), "its letter says that it is per-CPU, no more");
    let found = table.find("init_once").unwrap();
    assert_eq!((found.letter, found.addr), ('T', VirtAddr::new(TEXT + 0x1_0080)));
    assert_eq!(table.find("init"), None);
    assert_eq!(table.lookup("init_task").unwrap().kind, SymbolKind::Object);
    assert_eq!(table.lookup("cpu_tss_rw").unwrap().kind, SymbolKind::Object);
    assert_eq!(table.lookup("startup_64").unwrap().kind, SymbolKind::Function);
}

#[test]
fn a_static_symbol_that_thin_lto_made_global_keeps_its_name() {
    let row = |addr, name: &str| (addr, 'D', name.to_owned());
    let rows = [
        row(0x1000, "tk_core.llvm.4711"),
        row(0x2000, "prb.llvm.1"),
        row(0x3000, "prb"),
        row(0x4000, "lock.llvm.1"),
        row(0x5000, "lock.llvm.2"),
        row(0x6000, "name.llvm.other"),
    ];
    let table = writer::table(&rows, 0);
    let at = |name| table.find(name).map(|symbol| symbol.addr.raw());
    assert_eq!((at("tk_core"), at("tk_core.llvm.4711")), (Some(0x1000), Some(0x1000)));
    assert_eq!(at("prb"), Some(0x3000), "its own name counts");
    assert_eq!((at("lock"), at("lock.llvm.2")), (None, Some(0x5000)), "two have it");
    assert_eq!((at("name"), at("tk_cor")), (None, None));
}

#[test]
fn a_symbol_ends_where_the_next_address_begins() {
    let table = table(true);
    let size = |name| table.find(name).unwrap().size;
    assert_eq!((size("_text"), size("startup_64")), (0x100, 0x100));
    assert_eq!(size("cpu_tss_rw"), 0x3_3000);
    assert_eq!((size("__per_cpu_end"), size("_end")), (0, 0), "nothing near follows");
}

#[test]
fn all_is_by_address_whatever_the_order_of_the_table() {
    let row = |addr, name: &str| (addr, 'T', name.to_owned());
    let table = writer::table(&[row(0x2000, "b"), row(0x1000, "a"), row(0x2000, "c")], 0);
    let names = |symbols: Vec<KernelSymbol<'_>>| symbols.iter().map(|symbol| symbol.name).collect::<String>();
    assert_eq!(names(table.all().collect()), "abc");
    assert_eq!(names(table.in_table_order().collect()), "bac");
    assert_eq!(table.at_or_below(VirtAddr::new(0x1fff)).unwrap().name, "a");
}

#[test]
fn an_entry_in_each_encoding() {
    let word = |value: i32| value.to_le_bytes();
    let base = 0xffff_ffff_8100_0000;
    let address = |encoding: Encoding, value| encoding.address(&word(value), base + 0x100, base);
    assert_eq!(address(Encoding::AbsolutePercpu, -1), Some(base));
    assert_eq!(address(Encoding::AbsolutePercpu, -0x11), Some(base + 0x10));
    assert_eq!(address(Encoding::AbsolutePercpu, 0x3_4000), Some(0x3_4000));
    assert_eq!(address(Encoding::Relative, 0x10), Some(base + 0x10));
    assert_eq!(
        address(Encoding::Relative, -0x10),
        Some(base.wrapping_add(0xffff_fff0)),
        "32 bits, not a sign"
    );
    assert_eq!(address(Encoding::PlaceRelative, -0x100), Some(base));
    assert_eq!(Encoding::Absolute.address(&base.to_le_bytes(), 0, 0), Some(base));
    assert_eq!(Encoding::Absolute.address(&word(1), 0, 0), None, "too short");
}

#[test]
fn a_name_of_more_than_127_tokens_has_two_bytes_of_length() {
    let mut bytes = vec![0x80 | 0x2c, 0x02];
    bytes.extend([b'x'; 300]);
    bytes.extend([1, b'y']);
    assert_eq!(names::measure(&bytes, 2, Lengths::ByteOrTwo), Ok((304, vec![0])));
    assert_eq!(names::measure(&bytes, 2, Lengths::Byte), Ok((1 + 0xac + 1 + 0x78, vec![0])));
    assert_eq!(names::measure(&bytes, 3, Lengths::ByteOrTwo), Err(FormatError::Name { index: 2 }));
    assert_eq!(names::measure(&[0], 1, Lengths::Byte), Err(FormatError::Name { index: 0 }), "empty");
}

#[test]
fn tokens_are_found_and_their_index_proves_them() {
    for recipe in RECIPES {
        let mut written = writer::write(recipe, &writer::kernel(TEXT, true), 0x1000, 333);
        let found = Tokens::find(&written.bytes).unwrap();
        let place = |name| (written.places[name] - 0x1000) as usize;
        assert_eq!(
            (found.table, found.index),
            (place("token_table"), place("token_index")),
            "{}",
            recipe.name
        );
        let tables = &written.bytes[..found.table];
        let find = |fresh, mut budget| layout::names_before(tables, fresh, &mut budget);
        let before = find(tables.len(), layout::MAX_MEASURED).unwrap();
        assert_eq!((before.num_syms, before.names), (place("num_syms"), place("names")), "{}", recipe.name);
        assert_eq!(before.align, recipe.align, "{}", recipe.name);
        assert_eq!(find(before.num_syms, layout::MAX_MEASURED), None, "the count was looked at before");
        assert_eq!(find(before.names, layout::MAX_MEASURED), Some(before), "{}", recipe.name);
        assert_eq!(find(tables.len(), 0), None, "nothing is measured any more");

        written.bytes[found.index + 200] ^= 1;
        assert_eq!(Tokens::find(&written.bytes), None, "{}", recipe.name);
    }
}

/// Each word is a count of a million and a name of seven bytes.
#[test]
fn numbers_that_only_look_like_counts_use_up_one_budget() {
    let bytes = [7, 0xff, 0x0f, 0, 0, 0, 0, 0].repeat((1 << 18) + 64);
    let mut budget = 1 << 20;
    assert_eq!(layout::names_before(&bytes, bytes.len(), &mut budget), None);
    assert_eq!(budget, 0);
}

proptest! {
    #[test]
    fn any_bytes(bytes: Vec<u8>, count in 0_usize..64, seed: u8) {
        let mut budget = layout::MAX_MEASURED;
        let _ = (Tokens::find(&bytes), layout::names_before(&bytes, bytes.len(), &mut budget));
        let tokens = Tokens::parse(&[seed; 1], &bytes);
        prop_assert!(tokens.is_err());
        let written = writer::write(RECIPES[4], &writer::kernel(TEXT, true), 0x1000, 0);
        let tokens = Tokens::find(&written.bytes).unwrap().tokens;
        for lengths in [Lengths::Byte, Lengths::ByteOrTwo] {
            let measured = names::measure(&bytes, count, lengths);
            let expanded = Names::expand(&bytes, count, lengths, &tokens);
            prop_assert!(measured.is_ok() || expanded.is_err());
        }
    }

    #[test]
    fn any_table_answers(rows: Vec<(u64, u8, String)>, slide: u64, addr: u64, name: String) {
        let mut names = Names::default();
        rows.iter().for_each(|(_, letter, name)| names.push(*letter, name.as_bytes()));
        let table = Kallsyms::new(names, rows.iter().map(|(addr, ..)| *addr).collect(), slide);
        let _ = (table.containing(LinkAddr::new(addr)), table.lookup(&name));
        prop_assert!(table.all().is_sorted_by_key(|symbol| symbol.addr));
        for (_, _, name) in &rows {
            prop_assert_eq!(table.find(name).unwrap().name, name);
        }
    }
}
