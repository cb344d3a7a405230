use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    kernel::{
        UserMemory,
        testing::{self, Flat, Structs},
    },
    symbols::{Relocated, kallsyms::writer},
};

const START: u64 = 0xffff_ffff_c000_0000;
const LEN: usize = 0x4000;
/// Where things are, from `START`.
const LIST: usize = 0x10;
const BPF_LIST: usize = 0x20;
const BPF: usize = 0x40;
const MODULE: usize = 0x100;
const KALLSYMS: usize = 0x180;
const EXPORTS: usize = 0x1c0;
const SYMTAB: usize = 0x200;
const TYPETAB: usize = 0x300;
const NAMES: usize = 0x400;
const EXPORT_NAMES: usize = 0x500;

fn types(typetab: bool) -> Structs {
    let mut tables = vec![("symtab", 0, 8), ("num_symtab", 8, 4), ("strtab", 16, 8)];
    tables.extend(typetab.then_some(("typetab", 24, 8)));
    Structs::new()
        .add(
            "module",
            0x80,
            &[
                ("state", 0, 4),
                ("list.next", 8, 8),
                ("name", 0x18, 8),
                ("core_layout.base", 0x20, 8),
                ("core_layout.size", 0x28, 4),
                ("syms", 0x30, 8),
                ("num_syms", 0x38, 4),
                ("kallsyms", 0x40, 8),
            ],
        )
        .add("mod_kallsyms", 32, &tables)
        .add("kernel_symbol", 12, &[("value_offset", 0, 4), ("name_offset", 4, 4)])
        .add("bpf_ksym", 0x20, &[("start", 0, 8), ("name", 8, 8), ("lnode.next", 16, 8)])
}

struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn symbol(&mut self, index: usize, name: u32, info: u8, value: u64, size: u64) {
        let at = SYMTAB + index * SYMBOL_LEN;
        self.put(at, &name.to_le_bytes());
        self.put(at + 4, &[info]);
        self.word(at + 8, value);
        self.word(at + 16, size);
    }

    /// A module `demo` with three symbols, one of them exported, and a BPF program.
    fn new() -> Self {
        let addr = |at: usize| START + at as u64;
        let mut image = Self(vec![0; LEN]);
        image.word(LIST, addr(MODULE + 8));
        image.word(MODULE + 8, addr(LIST));
        image.put(MODULE + 0x18, b"demo");
        image.word(MODULE + 0x30, addr(EXPORTS));
        image.word(MODULE + 0x38, 1);
        image.word(MODULE + 0x40, addr(KALLSYMS));
        image.word(KALLSYMS, addr(SYMTAB));
        image.word(KALLSYMS + 8, 4);
        image.word(KALLSYMS + 16, addr(NAMES));
        image.word(KALLSYMS + 24, addr(TYPETAB));
        image.put(NAMES, b"\0demo_init\0demo_get\0demo_get_alias\0");
        image.symbol(1, 1, b't', 0xffff_ffff_c100_0000, 0x20);
        image.symbol(2, 11, b'T', 0xffff_ffff_c100_0040, 0x10);
        image.symbol(3, 20, b'T', 0xffff_ffff_c100_0040, 0x10);
        image.put(TYPETAB, b"\0tTT");
        image.put(EXPORT_NAMES, b"demo_get\0");
        let distance = 0xffff_ffff_c100_0040_u64.wrapping_sub(addr(EXPORTS)) as u32;
        image.put(EXPORTS, &distance.to_le_bytes());
        image.put(EXPORTS + 4, &((EXPORT_NAMES - EXPORTS - 4) as u32).to_le_bytes());
        image.word(BPF_LIST, addr(BPF + 16));
        image.word(BPF + 16, addr(BPF_LIST));
        image.word(BPF, 0xffff_ffff_c200_0000);
        image.put(BPF + 8, b"bpf_lab");
        image
    }

    fn list(&self, typetab: bool) -> Result<Vec<LoadedSymbol>, KernelError> {
        let rows = [(START + LIST as u64, 'd', "modules"), (START + BPF_LIST as u64, 'd', "bpf_kallsyms")];
        let rows = rows.map(|(addr, letter, name)| (addr, letter, name.to_owned()));
        let start = VirtAddr::new(START);
        list(&Kernel {
            map: testing::map(start, 0),
            memory: Arc::new(Flat { start, bytes: self.0.clone() }),
            symbols: Some(Relocated::new(Box::new(writer::table(&rows, 0)), 0)),
            types: Some(Arc::new(types(typetab))),
            policy: UserMemory::All,
        })
    }
}

fn shown(symbols: &[LoadedSymbol]) -> Vec<String> {
    let line = |symbol: &LoadedSymbol| {
        let LoadedSymbol { name, addr, size, letter, module } = symbol;
        format!("{:x} {letter} {name} {size} [{module}]", addr.raw())
    };
    symbols.iter().map(line).collect()
}

#[test]
fn symbols_of_a_module_and_of_a_program() {
    let expected = [
        "ffffffffc1000000 t demo_init 32 [demo]",
        "ffffffffc1000040 T demo_get 16 [demo]",
        // Global and at an exported place, but not exported under this name.
        "ffffffffc1000040 t demo_get_alias 16 [demo]",
        "ffffffffc2000000 t bpf_lab 0 [bpf]",
    ];
    assert_eq!(shown(&Image::new().list(true).unwrap()), expected);
}

#[test]
fn types_over_the_elf_symbol_where_there_is_no_table_of_them() {
    let mut image = Image::new();
    assert_eq!(shown(&image.list(false).unwrap())[0], "ffffffffc1000000 t demo_init 0 [demo]");
    // For a while the size was what made room.
    image.symbol(1, 1, 2, 0xffff_ffff_c100_0000, u64::from(b'd'));
    assert_eq!(shown(&image.list(false).unwrap())[0], "ffffffffc1000000 d demo_init 0 [demo]");
}

#[test]
fn impossible_numbers_are_refused_before_they_are_read() {
    for at in [KALLSYMS + 8, MODULE + 0x38] {
        let mut image = Image::new();
        image.put(at, &u32::MAX.to_le_bytes());
        let error = image.list(true).unwrap_err().to_string();
        assert!(error.contains("an impossible number of symbols of module demo"), "{error}");
    }
    let mut image = Image::new();
    image.symbol(3, 0x1000_0000, b'T', 0, 0);
    let error = image.list(true).unwrap_err().to_string();
    assert!(error.contains("names that lie 0x10000000 bytes apart"), "{error}");
}

#[test]
fn a_name_without_an_end_is_none() {
    let mut image = Image::new();
    image.put(0x800, &[b'x'; 0x800]);
    image.symbol(2, (0x800 - NAMES) as u32, b'T', 0xffff_ffff_c100_0040, 0x10);
    let names: Vec<String> = image.list(true).unwrap().into_iter().map(|symbol| symbol.name).collect();
    assert_eq!(names, ["demo_init", "demo_get_alias", "bpf_lab"]);
}

#[test]
fn a_list_that_leads_into_itself_ends() {
    let mut image = Image::new();
    image.word(BPF + 16, START + BPF as u64 + 16);
    let error = image.list(true).unwrap_err().to_string();
    assert!(
        error.contains("walking bpf_kallsyms") && error.contains("the list leads back into itself"),
        "{error}"
    );
}

#[test]
fn a_name_may_cross_into_the_next_page() {
    let mut image = Image::new();
    let names = 0x1000 - 15;
    image.word(KALLSYMS + 16, START + names as u64);
    image.put(names, b"\0demo_init\0demo_get\0demo_get_alias\0");
    let all = image.list(true).unwrap();
    assert_eq!(
        all.iter().map(|symbol| &*symbol.name).collect::<Vec<_>>()[1..3],
        ["demo_get", "demo_get_alias"]
    );
}

proptest! {
    #[test]
    fn damage_anywhere(damage in prop::collection::vec((0..0x600_usize, any::<u8>()), 1..16), typetab: bool) {
        let mut image = Image::new();
        for (at, byte) in damage {
            image.0[at] = byte;
        }
        if let Ok(all) = image.list(typetab) {
            prop_assert!(all.len() <= MAX_SYMBOLS as usize + 1);
        }
    }
}
