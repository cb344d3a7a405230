use super::*;
use crate::{
    addr::VirtAddr,
    symbols::{Relocated, SymbolError, place},
    vmlinux::testing::TestElf,
};

const TEXT: u64 = 0xffff_ffff_8100_0000;
const DATA: u64 = 0xffff_ffff_8200_0000;
const LOCAL_FUNCTION: u8 = 0x02;
const LOCAL_OBJECT: u8 = 0x01;
const FUNCTION: u8 = 0x12;
const OBJECT: u8 = 0x11;
const WEAK_FUNCTION: u8 = 0x22;
const MARK: u8 = 0x10;
const LOCAL_FILE: u8 = 0x04;
const ABSOLUTE: u16 = 0xfff1;

/// Sections: 1 `.text`, 2 `.data..percpu`, 3 `.data`.
fn kernel(percpu: u64) -> ElfSymbols {
    let elf = TestElf::default()
        .loaded(".text", TEXT, 0x1000)
        .loaded(".data..percpu", percpu, 0x3000)
        .loaded(".data", DATA, 0x1000)
        .symbol("core.c", 0, 0, ABSOLUTE, LOCAL_FILE)
        .symbol("helper", TEXT + 0x300, 0x10, 1, LOCAL_FUNCTION)
        .symbol("helper", TEXT + 0x400, 0x10, 1, LOCAL_FUNCTION)
        .symbol("state", DATA + 0x80, 8, 3, LOCAL_OBJECT)
        .symbol("_text", TEXT, 0, 1, MARK)
        .symbol("startup_64", TEXT, 0x80, 1, FUNCTION)
        .symbol("_stext", TEXT, 0, 1, MARK)
        .symbol("state", DATA + 0x40, 8, 3, OBJECT)
        .symbol("maybe", TEXT + 0x500, 0x10, 1, WEAK_FUNCTION)
        .symbol("outer", TEXT + 0x600, 0x100, 1, FUNCTION)
        .symbol("inner", TEXT + 0x610, 0x10, 1, FUNCTION)
        .symbol("runqueues", percpu + 0x1000, 0x800, 2, OBJECT)
        .symbol("__per_cpu_start", percpu, 0, 2, MARK)
        .symbol("__per_cpu_end", percpu + 0x3000, 0, 2, MARK)
        .symbol("phys_startup_64", 0x100_0000, 0, ABSOLUTE, MARK)
        .symbol("elsewhere", 0, 0, 0, MARK);
    ElfSymbols::new(Vmlinux::from_bytes("vmlinux", elf.bytes()).unwrap()).unwrap()
}

fn place(symbols: &ElfSymbols, name: &str) -> Option<(u64, u64, SymbolKind)> {
    symbols.lookup(name).map(|symbol| (symbol.addr.raw(), symbol.size, symbol.kind))
}

fn at(symbols: &ElfSymbols, addr: u64) -> Option<String> {
    symbols.containing(LinkAddr::new(addr)).map(|symbol| symbol.name)
}

#[test]
fn by_name() {
    let symbols = kernel(0);
    assert_eq!(place(&symbols, "startup_64"), Some((TEXT, 0x80, SymbolKind::Function)));
    assert_eq!(place(&symbols, "maybe"), Some((TEXT + 0x500, 0x10, SymbolKind::Function)));
    assert_eq!(place(&symbols, "phys_startup_64"), Some((0x100_0000, 0, SymbolKind::Other)));
    assert_eq!(place(&symbols, "state"), Some((DATA + 0x40, 8, SymbolKind::Object)), "the global one");
    assert_eq!(place(&symbols, "helper"), Some((TEXT + 0x300, 0x10, SymbolKind::Function)), "the first");
    for absent in ["core.c", "elsewhere", "start", "startup_64x", ""] {
        assert_eq!(place(&symbols, absent), None, "{absent}");
    }
}

#[test]
fn a_static_symbol_that_thin_lto_made_global_keeps_its_name() {
    let elf = TestElf::default()
        .loaded(".data", DATA, 0x1000)
        .symbol("tk_core.llvm.4711", DATA, 8, 1, OBJECT)
        .symbol("prb.llvm.1", DATA + 8, 8, 1, OBJECT)
        .symbol("prb", DATA + 0x10, 8, 1, LOCAL_OBJECT)
        .symbol("lock.llvm.1", DATA + 0x18, 8, 1, OBJECT)
        .symbol("lock.llvm.2", DATA + 0x20, 8, 1, OBJECT)
        .symbol("name.llvm.other", DATA + 0x28, 8, 1, OBJECT);
    let symbols = ElfSymbols::new(Vmlinux::from_bytes("vmlinux", elf.bytes()).unwrap()).unwrap();
    let at = |name| place(&symbols, name).map(|(addr, ..)| addr - DATA);
    assert_eq!((at("tk_core"), at("tk_core.llvm.4711")), (Some(0), Some(0)));
    assert_eq!(at("prb"), Some(0x10), "its own name counts");
    assert_eq!((at("lock"), at("lock.llvm.2")), (None, Some(0x20)), "two have it");
    assert_eq!((at("name"), at("tk_cor")), (None, None));
}

#[test]
fn by_address() {
    let symbols = kernel(0);
    for (addr, name) in [
        (TEXT, Some("startup_64")),
        (TEXT + 0x7f, Some("startup_64")),
        (TEXT + 0x80, Some("startup_64")),
        (TEXT + 0x2ff, Some("startup_64")),
        (TEXT + 0x300, Some("helper")),
        (TEXT + 0x60f, Some("outer")),
        (TEXT + 0x610, Some("inner")),
        (TEXT + 0x620, Some("outer")),
        (TEXT + 0xfff, Some("inner")),
        (TEXT + 0x1000, None),
        (TEXT - 1, None),
        (DATA, None),
        (DATA + 0x44, Some("state")),
        (0x100_0000, None),
        (0x1800, Some("runqueues")),
    ] {
        assert_eq!(at(&symbols, addr).as_deref(), name, "{addr:#x}");
    }
}

#[test]
fn percpu_at_zero_or_not() {
    let range =
        |symbols: ElfSymbols| symbols.zero_based_percpu().map(|(start, end)| (start.raw(), end.raw()));
    assert_eq!(range(kernel(0)), Some((0, 0x3000)));
    assert_eq!(range(kernel(DATA + 0x10_0000)), None);
}

#[test]
fn percpu_by_its_marks_without_the_section() {
    let elf = TestElf::default()
        .loaded(".data", DATA, 0x1000)
        .symbol("__per_cpu_start", 0, 0, ABSOLUTE, MARK)
        .symbol("__per_cpu_end", 0x2000, 0, ABSOLUTE, MARK);
    let symbols = ElfSymbols::new(Vmlinux::from_bytes("vmlinux", elf.bytes()).unwrap()).unwrap();
    assert_eq!(symbols.zero_based_percpu(), Some((LinkAddr::new(0), LinkAddr::new(0x2000))));
}

#[test]
fn a_slide_moves_all_but_zero_based_percpu() {
    const SLIDE: u64 = 0x3500_0000;
    let symbols = Relocated::new(Box::new(kernel(0)), SLIDE);
    let found =
        |addr: u64| symbols.containing(VirtAddr::new(addr)).map(|(symbol, offset)| (symbol.name, offset));
    assert_eq!(symbols.addr("startup_64"), Ok(VirtAddr::new(TEXT + SLIDE)));
    assert_eq!(symbols.addr("runqueues"), Ok(VirtAddr::new(0x1000)));
    assert_eq!(found(TEXT + SLIDE + 0x614), Some(("inner".to_owned(), 4)));
    assert_eq!(found(TEXT + 0x614), None);
    assert_eq!(found(0x1000), None, "an offset in the per-CPU area is no address");
    assert_eq!(found(SLIDE + 0x1000), None, "nor is it one that the slide moves");
    assert_eq!(symbols.find("nothing"), None);
    let error = SymbolError { table: "vmlinux".to_owned(), name: "nothing".to_owned() };
    assert_eq!(symbols.addr("nothing"), Err(error));
}

#[test]
fn a_place_is_named_as_in_c() {
    let symbols = Relocated::new(Box::new(kernel(0)), 0);
    let find =
        |text: &str| place::find(Some(&symbols), text).map(VirtAddr::raw).map_err(|error| error.to_string());
    for (text, offset) in [
        ("startup_64", 0),
        ("&startup_64", 0),
        ("startup_64+0x10", 0x10),
        ("&startup_64 + 8", 8),
        ("startup_64-1", -1),
    ] {
        assert_eq!(find(text), Ok(TEXT.wrapping_add_signed(offset)), "{text}");
    }
    assert_eq!(find("0xffffffff81000000-4k"), Ok(TEXT - 4096));
    assert!(find("startup_65+8").unwrap_err().contains("`startup_65` (did you mean `startup_64`?)"));
    for wrong in ["startup_64+", "startup_64+x", "startup_64->next"] {
        assert!(find(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn ordinary_percpu_moves_too() {
    let symbols = Relocated::new(Box::new(kernel(DATA + 0x10_0000)), 0x20_0000);
    assert_eq!(symbols.addr("runqueues"), Ok(VirtAddr::new(DATA + 0x10_1000 + 0x20_0000)));
    let (symbol, offset) = symbols.containing(VirtAddr::new(DATA + 0x10_1010 + 0x20_0000)).unwrap();
    assert_eq!((symbol.name.as_str(), offset), ("runqueues", 0x10));
}

#[test]
fn a_stripped_file_says_so() {
    let file = Vmlinux::from_bytes("vmlinux", TestElf::default().loaded(".text", TEXT, 1).bytes()).unwrap();
    assert!(matches!(ElfSymbols::new(file), Err(VmlinuxError::NoSymbols { .. })));
}
