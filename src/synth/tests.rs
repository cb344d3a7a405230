use std::sync::Arc;

use proptest::prelude::*;

use super::{
    modules,
    vmlinux::{Input, SynthError, Synthesized, write},
};
use crate::{
    addr::{LinkAddr, VirtAddr},
    kernel::{
        module::{Module, Part},
        module_symbols::LoadedSymbol,
    },
    symbols::{Symbol, SymbolKind, SymbolRef, SymbolTable, elf::ElfSymbols},
    types::{
        Tag, Type, TypeId, TypeSource,
        btf::{Btf, fixture},
        dwarf::Dwarf,
    },
    vmlinux::Vmlinux,
};

const TEXT: u64 = 0xffff_ffff_8100_0000;

/// Name, address, kind; global where the name is of a section's bound.
#[derive(Clone)]
struct Table(Vec<(&'static str, u64, SymbolKind)>);

impl Table {
    fn kernel() -> Self {
        use SymbolKind::{Function, Object, Other};
        Self(vec![
            ("__per_cpu_start", 0, Object),
            ("runqueues", 0x1000, Object),
            ("__per_cpu_end", 0x2000, Object),
            ("_text", TEXT, Function),
            ("schedule", TEXT + 0x100, Function),
            ("asm_only", TEXT + 0x180, Function),
            ("_etext", TEXT + 0x1000, Function),
            ("__start_rodata", TEXT + 0x20_0000, Object),
            ("linux_banner", TEXT + 0x20_0040, Object),
            ("__end_rodata", TEXT + 0x21_0000, Object),
            ("_sdata", TEXT + 0x40_0000, Object),
            // The letter of a section that holds code too.
            ("init_task", TEXT + 0x40_0040, Function),
            ("saved_command_line", TEXT + 0x40_0080, Object),
            ("prb", TEXT + 0x40_0088, Object),
            ("_edata", TEXT + 0x41_0000, Object),
            ("between", TEXT + 0x41_0008, Object),
            ("_sinittext", TEXT + 0x60_0000, Function),
            ("_einittext", TEXT + 0x60_1000, Function),
            ("__init_end", TEXT + 0x60_2000, Object),
            ("__bss_start", TEXT + 0x60_2000, Object),
            ("__bss_stop", TEXT + 0x60_3000, Object),
            ("magic_number", 0x1234_5678, Other),
        ])
    }

    fn symbol(&(name, addr, kind): &(&'static str, u64, SymbolKind)) -> Symbol {
        Symbol { name: name.to_owned(), addr: LinkAddr::new(addr), size: 0, kind }
    }
}

impl SymbolTable for Table {
    fn table_name(&self) -> &str {
        "test"
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        self.0.iter().find(|symbol| symbol.0 == name).map(Self::symbol)
    }

    fn containing(&self, _: LinkAddr) -> Option<Symbol> {
        None
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        let end = self.lookup("__per_cpu_end")?.addr;
        (end.raw() < TEXT).then_some((LinkAddr::new(0), end))
    }

    fn for_each(&self, visit: &mut dyn FnMut(SymbolRef<'_>)) {
        for (name, addr, kind) in &self.0 {
            let global = name.starts_with('_');
            visit(SymbolRef { name, addr: LinkAddr::new(*addr), size: 0, kind: *kind, global });
        }
    }
}

fn made_of(table: &Table, btf: &Btf) -> Result<Synthesized, SynthError> {
    write(&Input {
        symbols: table,
        btf,
        modules: &[],
        build_id: Some(&[7; 20]),
        release: Some("6.1.0"),
        banner: Some("Linux version 6.1.0"),
    })
}

fn kernel() -> (Arc<Vmlinux>, Btf) {
    let btf = Btf::parse("BTF", fixture::kernel().0).unwrap();
    let made = made_of(&Table::kernel(), &btf).unwrap();
    assert_eq!((made.symbols, made.functions), (22, 1));
    (Vmlinux::from_bytes("synthesized", made.bytes).unwrap(), btf)
}

/// A type with all it leads to, names only past a pointer or after some steps.
fn describe(types: &dyn TypeSource, id: TypeId, depth: u32) -> String {
    let inner = |id| if depth == 0 { String::new() } else { describe(types, id, depth - 1) };
    match types.get(id).unwrap() {
        Type::Pointer(target) => format!("{}*", inner(target)),
        Type::Array { element, count } => format!("{}[{count:?}]", inner(element)),
        Type::Typedef { name, target } => format!("{name}={}", inner(target)),
        Type::Qualified(target) => inner(target),
        Type::Aggregate(aggregate) => {
            let members = aggregate.members.iter().map(|member| {
                format!("{:?}@{}:{:?} {}", member.name, member.bit_offset, member.bit_size, inner(member.ty))
            });
            let members: Vec<String> = members.collect();
            format!("{:?} {:?} {} {members:?}", aggregate.tag, aggregate.name, aggregate.size)
        }
        Type::Function { result, params } => {
            let params: Vec<String> = params.into_iter().map(inner).collect();
            format!("{}({params:?})", inner(result))
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn types_come_back_as_they_went_in() {
    let (file, btf) = kernel();
    let dwarf = Dwarf::new(file).unwrap();
    let names = [
        (Tag::Struct, "task_struct"),
        (Tag::Enum, "state"),
        (Tag::Enum, "wide"),
        (Tag::Typedef, "pid_t"),
        (Tag::Base, "_Bool"),
        (Tag::Base, "char"),
        (Tag::Base, "long unsigned int"),
        (Tag::Base, "double"),
    ];
    for (tag, name) in names {
        let ours = describe(&dwarf, dwarf.find(tag, name).unwrap(), 8);
        assert_eq!(ours, describe(&btf, btf.find(tag, name).unwrap(), 8), "{name}");
    }
}

#[test]
fn types_of_a_module_refer_to_the_kernels() {
    let (bytes, ids) = fixture::kernel();
    let base = Arc::new(Btf::parse("BTF", bytes).unwrap());
    let mut module = fixture::Builder::split(base.ids().end - 1, base.strings_len());
    let pointer = module.record("", fixture::info(2, 0, false), ids.task, &[]);
    module.aggregate("fat_inode", (4, 16, false), &[("task", pointer, 0), ("count", ids.int, 64)]);
    let own = Btf::parse_split("fat", module.finish(), Arc::clone(&base)).unwrap();
    let made = write(&Input {
        symbols: &Table::kernel(),
        btf: &base,
        modules: &[("fat", &own)],
        build_id: None,
        release: None,
        banner: None,
    });
    let dwarf = Dwarf::new(Vmlinux::from_bytes("synthesized", made.unwrap().bytes).unwrap()).unwrap();
    let ours = describe(&dwarf, dwarf.find(Tag::Struct, "fat_inode").unwrap(), 8);
    assert_eq!(ours, describe(&own, own.find(Tag::Struct, "fat_inode").unwrap(), 8));
    assert!(ours.contains("comm"), "{ours}");
}

#[test]
fn a_file_of_modules_has_their_own_types_and_declares_the_kernels() {
    let (bytes, ids) = fixture::kernel();
    let base = Arc::new(Btf::parse("BTF", bytes).unwrap());
    let mut built = fixture::Builder::split(base.ids().end - 1, base.strings_len());
    let pointer = built.record("", fixture::info(2, 0, false), ids.task, &[]);
    built.aggregate("fat_inode", (4, 16, false), &[("task", pointer, 0), ("count", ids.int, 64)]);
    let own = Btf::parse_split("fat", built.finish(), Arc::clone(&base)).unwrap();
    let start = VirtAddr::new(0xffff_ffff_c000_0000);
    let part =
        |name: &str, offset, size| Part { name: name.to_owned(), start: start.wrapping_add(offset), size };
    let module = Module {
        addr: start.wrapping_add(0x2100),
        name: "fat".to_owned(),
        base: start,
        size: 0x3000,
        state: "live".to_owned(),
        references: None,
        parts: vec![part("text", 0, 0x1000), part("rodata", 0x1000, 0x1000), part("data", 0x2000, 0x1000)],
        percpu: Some(Part { name: "percpu".to_owned(), start: VirtAddr::new(0x3_0000), size: 0x10 }),
    };
    let symbol = |name: &str, addr, letter| LoadedSymbol {
        name: name.to_owned(),
        addr,
        size: 0,
        letter,
        module: "fat".to_owned(),
    };
    let at = |offset| start.wrapping_add(offset);
    let symbols = [
        symbol("fat_exit", at(0x40), 't'),
        symbol("fat_get", at(0x10), 'T'),
        symbol("fat_table", at(0x2010), 'd'),
        symbol("fat_percpu", VirtAddr::new(0x3_0008), 'a'),
        symbol("fat_version", VirtAddr::new(0x3_0010), 'a'),
    ];
    let loaded = modules::Loaded { module: &module, symbols: &symbols, types: Some(&own) };
    let made = modules::write(&[loaded], 0x1200_0000).unwrap();
    let file = Arc::new(Vmlinux::from_bytes("modules", made.bytes).unwrap());
    let sections: Vec<_> =
        file.sections().iter().map(|section| (&*section.name, section.addr.raw())).collect();
    assert_eq!(
        sections[1..4],
        [(".text.fat", start.raw()), (".rodata.fat", at(0x1000).raw()), (".data.fat", at(0x2000).raw())]
    );
    let table = ElfSymbols::new(Arc::clone(&file)).unwrap();
    let found =
        |name| table.lookup(name).map(|symbol| (symbol.addr.raw(), symbol.size, symbol.kind)).unwrap();
    assert_eq!(found("fat_get"), (at(0x10).raw(), 0x30, SymbolKind::Function));
    assert_eq!(found("fat_exit"), (at(0x40).raw(), 0xfc0, SymbolKind::Function), "to the end of the section");
    assert_eq!(found("fat_table").2, SymbolKind::Object);
    assert_eq!(found("fat_percpu"), (0x1203_0008, 0, SymbolKind::Other), "an offset is in no section");
    assert_eq!(found("fat_version"), (0x3_0010, 0, SymbolKind::Other), "a value is none");
    let dwarf = Dwarf::new(Arc::clone(&file)).unwrap();
    let ours = describe(&dwarf, dwarf.find(Tag::Struct, "fat_inode").unwrap(), 1);
    assert_eq!(ours, describe(&own, own.find(Tag::Struct, "fat_inode").unwrap(), 1));
    assert!(
        dwarf.find(Tag::Struct, "task_struct").is_err(),
        "declared, and defined in the kernel's own file"
    );
    assert!(entries(&file).iter().any(|(_, name, _)| name == "task_struct"));
}

#[test]
fn symbols_have_sections_and_sizes() {
    let (file, _) = kernel();
    assert_eq!(file.build_id(), Some([7; 20].as_slice()));
    let sections: Vec<&str> = file.sections().iter().map(|section| &*section.name).collect();
    assert_eq!(
        sections[1..9],
        [
            ".text",
            ".rodata",
            ".data",
            ".data..percpu",
            ".init.text",
            ".init.data",
            ".bss",
            ".note.gnu.build-id"
        ]
    );
    // Something stands between .data and what is freed after boot.
    assert_eq!(file.sections()[3].size, 0x20_0000);
    let symbols = ElfSymbols::new(file).unwrap();
    let at = |name| symbols.lookup(name).map(|symbol| (symbol.addr.raw(), symbol.size, symbol.kind)).unwrap();
    assert_eq!(at("schedule"), (TEXT + 0x100, 0x80, SymbolKind::Function));
    assert_eq!(at("_etext").1, 0, "no symbol reaches out of its section");
    assert_eq!(at("init_task"), (TEXT + 0x40_0040, 0x40, SymbolKind::Object));
    assert_eq!(at("linux_banner").1, "Linux version 6.1.0".len() as u64 + 2);
    assert_eq!(at("runqueues"), (0x1000, 0x1000, SymbolKind::Object));
    assert_eq!(at("magic_number"), (0x1234_5678, 0, SymbolKind::Other));
    assert_eq!(symbols.zero_based_percpu(), Some((LinkAddr::new(0), LinkAddr::new(0x2000))));
}

/// Tag, name and location of each entry below the units' own.
fn entries(file: &Vmlinux) -> Vec<(gimli::DwTag, String, Option<u64>)> {
    let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        Ok(gimli::EndianSlice::new(file.section(id.name()).unwrap_or_default(), gimli::LittleEndian))
    };
    let dwarf = gimli::Dwarf::load(section).unwrap();
    let (mut found, mut units) = (Vec::new(), dwarf.units());
    while let Some(header) = units.next().unwrap() {
        let unit = dwarf.unit(header).unwrap();
        let mut cursor = unit.entries();
        while let Some(entry) = cursor.next_dfs().unwrap() {
            let name = entry.attr_value(gimli::DW_AT_name);
            let name =
                name.map(|name| dwarf.attr_string(&unit, name).unwrap().to_string_lossy().into_owned());
            let place = match (entry.attr_value(gimli::DW_AT_location), entry.attr_value(gimli::DW_AT_low_pc))
            {
                (Some(gimli::AttributeValue::Exprloc(place)), _) => {
                    Some(u64::from_le_bytes(place.0.slice()[1..9].try_into().unwrap()))
                }
                (_, Some(gimli::AttributeValue::Addr(place))) => Some(place),
                _ => None,
            };
            found.push((entry.tag(), name.unwrap_or_default(), place));
        }
    }
    found
}

#[test]
fn functions_are_in_units_of_few_that_do_not_overlap() {
    let (mut table, code) = (Table::kernel(), TEXT + 0x200);
    table.0.extend((0..600).map(|number| ("schedule", code + 4 * number, SymbolKind::Function)));
    let btf = Btf::parse("BTF", fixture::kernel().0).unwrap();
    let file = Vmlinux::from_bytes("synthesized", made_of(&table, &btf).unwrap().bytes).unwrap();
    let (mut units, mut functions) = (Vec::new(), Vec::new());
    for (tag, _, place) in entries(&file).into_iter().rev() {
        match (tag, place) {
            (gimli::DW_TAG_subprogram, Some(place)) => functions.push(place),
            (gimli::DW_TAG_compile_unit, Some(start)) => units.push((start, std::mem::take(&mut functions))),
            _ => {}
        }
    }
    units.reverse();
    let counts: Vec<usize> = units.iter().map(|(_, functions)| functions.len()).collect();
    assert_eq!(counts, [256, 256, 89]);
    assert!(units.iter().all(|(start, functions)| functions.iter().min() == Some(start)));
    assert!(units.is_sorted_by(|(_, functions), (start, _)| functions.iter().all(|place| place < start)));
}

#[test]
fn functions_and_variables_have_places() {
    let (file, _) = kernel();
    let entries = entries(&file);
    let place = |tag, name: &str| {
        entries.iter().find(|(own, called, _)| *own == tag && called == name).map(|(_, _, place)| *place)
    };
    assert_eq!(place(gimli::DW_TAG_subprogram, "schedule"), Some(Some(TEXT + 0x100)));
    assert_eq!(place(gimli::DW_TAG_subprogram, "asm_only"), None);
    assert_eq!(place(gimli::DW_TAG_variable, "runqueues"), Some(Some(0x1000)));
    assert_eq!(place(gimli::DW_TAG_variable, "init_task"), Some(Some(TEXT + 0x40_0040)));
    assert_eq!(place(gimli::DW_TAG_variable, "saved_command_line"), Some(Some(TEXT + 0x40_0080)));
    assert_eq!(place(gimli::DW_TAG_variable, "prb"), None, "this kernel has no such type");
    assert!(place(gimli::DW_TAG_compile_unit, "kernel/printk/printk.c").is_some());
    // schedule's parameter, and the three dots.
    assert!(entries.iter().any(|(tag, name, _)| *tag == gimli::DW_TAG_formal_parameter && name == "task"));
    assert!(entries.iter().any(|(tag, ..)| *tag == gimli::DW_TAG_unspecified_parameters));
}

#[test]
fn a_kernel_whose_text_nobody_bounds_is_refused() {
    let mut table = Table::kernel();
    table.0.retain(|symbol| symbol.0 != "_etext");
    let btf = Btf::parse("BTF", fixture::kernel().0).unwrap();
    let error = made_of(&table, &btf).err().unwrap().to_string();
    assert_eq!(error, "test has no symbol `_etext`, without which the kernel's sections are not known");
}

#[test]
fn globals_are_named_once_for_each_type_and_files_name_globals() {
    let mut seen = std::collections::HashSet::new();
    for global in super::globals::GLOBALS {
        assert!(seen.insert((global.name, global.ty)), "{}", global.name);
    }
    for (_, names) in super::globals::FILES {
        for name in *names {
            assert!(super::globals::GLOBALS.iter().any(|global| global.name == *name), "{name}");
        }
    }
}

/// Two files have a function of one name, and the records do not say which symbol is whose.
#[test]
fn a_prototype_that_records_disagree_about_is_not_given() {
    // The names of the second one's parameters, and whether it gives another type.
    let made = |names: [&str; 2], other: bool| {
        let mut btf = fixture::Builder::new();
        let (int, long) = (btf.int("int", 4, 1), btf.int("long int", 8, 1));
        for (names, result) in [(["task", "flags"], int), (names, if other { long } else { int })] {
            let [one, two] = names.map(|name| btf.string(name));
            let prototype = btf.record("", fixture::info(13, 2, false), result, &[one, int, two, int]);
            btf.record("schedule", fixture::info(12, 0, false), prototype, &[]);
        }
        let btf = Btf::parse("BTF", btf.finish()).unwrap();
        let made = made_of(&Table::kernel(), &btf).unwrap();
        let file = Vmlinux::from_bytes("synthesized", made.bytes).unwrap();
        let params = entries(&file).into_iter().filter(|(tag, ..)| *tag == gimli::DW_TAG_formal_parameter);
        (made.functions, params.map(|(_, name, _)| name).collect::<Vec<_>>())
    };
    let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    assert_eq!(made(["task", "flags"], false), (1, names(["task", "flags"])));
    assert_eq!(
        made(["task", "mode"], false),
        (1, names(["task", ""])),
        "a name that one of them has is none"
    );
    assert_eq!(made(["task", "flags"], true), (0, Vec::new()));
}

/// Name and type, written out, of each variable.
fn variables(file: Arc<Vmlinux>) -> Vec<(String, u64, String)> {
    let dwarf = Dwarf::new(Arc::clone(&file)).unwrap();
    let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        Ok(gimli::EndianSlice::new(file.section(id.name()).unwrap_or_default(), gimli::LittleEndian))
    };
    let read = gimli::Dwarf::load(section).unwrap();
    let header = read.units().next().unwrap().unwrap();
    let unit = read.unit(header).unwrap();
    let (mut found, mut cursor) = (Vec::new(), unit.entries());
    while let Some(entry) = cursor.next_dfs().unwrap() {
        if entry.tag() != gimli::DW_TAG_variable {
            continue;
        }
        let name = read.attr_string(&unit, entry.attr_value(gimli::DW_AT_name).unwrap()).unwrap();
        let Some(gimli::AttributeValue::Exprloc(place)) = entry.attr_value(gimli::DW_AT_location) else {
            panic!()
        };
        let Some(gimli::AttributeValue::UnitRef(ty)) = entry.attr_value(gimli::DW_AT_type) else { panic!() };
        let place = u64::from_le_bytes(place.0.slice()[1..9].try_into().unwrap());
        found.push((name.to_string_lossy().into_owned(), place, describe(&dwarf, TypeId(ty.0 as u64), 0)));
    }
    found
}

#[test]
fn a_variable_of_the_table_has_the_type_that_this_kernel_gives_it() {
    let types_of = |member: &str, room: u64| {
        let mut btf = fixture::Builder::new();
        let int = btf.int("int", 4, 1);
        btf.aggregate("hlist_head", (4, 8, false), &[("first", int, 0)]);
        btf.aggregate("file_system_type", (4, 8, false), &[(member, int, 0)]);
        let last = btf.string("NR_VM_ZONE_STAT_ITEMS");
        btf.record("zone_stat_item", fixture::info(6, 1, false), 4, &[last, 11]);
        btf.record("atomic_long_t", fixture::info(8, 0, false), int, &[]);
        let mut table = Table::kernel();
        let bss = TEXT + 0x60_2000;
        table.0.extend([
            ("file_systems", bss, SymbolKind::Object),
            ("stack_pools", bss + 8, SymbolKind::Object),
            ("vm_zone_stat", bss + 8 + room, SymbolKind::Object),
        ]);
        let btf = Btf::parse("BTF", btf.finish()).unwrap();
        let file = Vmlinux::from_bytes("synthesized", made_of(&table, &btf).unwrap().bytes).unwrap();
        let variables = variables(file);
        ["file_systems", "stack_pools", "vm_zone_stat"]
            .map(|name| variables.iter().find(|(own, ..)| own == name).unwrap().2.clone())
    };
    let [file_systems, pools, counters] = types_of("next", 8);
    assert_eq!((file_systems.as_str(), pools.as_str(), counters.as_str()), ("*", "*", "[Some(11)]"));
    let [file_systems, pools, counters] = types_of("list", 512);
    assert!(file_systems.contains("hlist_head"), "{file_systems}");
    assert_eq!((pools.as_str(), counters.as_str()), ("[Some(64)]", "[Some(11)]"));
}

#[test]
fn of_several_symbols_a_per_cpu_variable_has_the_one_at_its_place() {
    let mut btf = fixture::Builder::new();
    let (int, long) = (btf.int("int", 4, 1), btf.int("long int", 8, 1));
    let variables_of = [(int, 0x1800), (long, 0x1400)];
    let records: Vec<u32> = variables_of
        .into_iter()
        .flat_map(|(ty, offset)| [btf.record("list", fixture::info(14, 0, false), ty, &[0]), offset, 8])
        .collect();
    btf.record(".data..percpu", fixture::info(15, 2, false), 0x2000, &records);
    let mut table = Table::kernel();
    table.0.extend([0x1400, 0x1800].map(|at| ("list", at, SymbolKind::Object)));
    let btf = Btf::parse("BTF", btf.finish()).unwrap();
    let made = made_of(&table, &btf).unwrap();
    assert_eq!(made.variables, 2);
    let found = variables(Vmlinux::from_bytes("synthesized", made.bytes).unwrap());
    let places: Vec<(u64, bool)> =
        found.iter().map(|(_, place, ty)| (*place, ty.contains("long int"))).collect();
    assert_eq!(places, [(0x1800, false), (0x1400, true)]);
}

proptest! {
    #[test]
    fn any_types_and_places(
        damage in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..12),
        moved in proptest::collection::vec((0_usize..64, any::<u64>()), 0..6),
    ) {
        let (mut bytes, _) = fixture::kernel();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let mut table = Table::kernel();
        for (at, addr) in moved {
            let at = at % table.0.len();
            table.0[at].1 = addr;
        }
        let Ok(btf) = Btf::parse("damaged", bytes) else { return Ok(()) };
        if let Ok(made) = made_of(&table, &btf) {
            Vmlinux::from_bytes("synthesized", made.bytes).unwrap();
        }
    }
}

#[test]
fn a_function_of_impossibly_many_parameters_is_not_described() {
    let functions = |count: u32| {
        let mut btf = fixture::Builder::new();
        let int = btf.int("int", 4, 1);
        let params = [0, int].repeat(count as usize);
        let prototype = btf.record("", fixture::info(13, count, false), int, &params);
        btf.record("schedule", fixture::info(12, 1, false), prototype, &[]);
        let btf = Btf::parse("BTF", btf.finish()).unwrap();
        made_of(&Table::kernel(), &btf).unwrap().functions
    };
    assert_eq!((functions(12), functions(1000)), (1, 0));
}
