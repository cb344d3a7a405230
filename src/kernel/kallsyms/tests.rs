use proptest::prelude::*;

use super::*;
use crate::{
    kernel::{
        locate::vmcoreinfo::VmcoreInfo,
        testing::{self, Flat, Structs},
    },
    mem::sparse::Sparse,
    symbols::{
        Relocated,
        kallsyms::{
            names::Lengths,
            writer::{self, RECIPES, Recipe, Row, Written},
        },
    },
};

const TEXT: u64 = 0xffff_ffff_b600_0000;
const SLIDE: u64 = 0x3500_0000;
const RODATA: u64 = TEXT + 0x100_0000;
const RODATA_LEN: usize = 0x8_0000;

fn map(vmcoreinfo: Option<VmcoreInfo>) -> KernelMap {
    KernelMap { vmcoreinfo, ..testing::map(VirtAddr::new(TEXT), SLIDE) }
}

/// VMCOREINFO that names the tables.
fn noted(written: &Written) -> VmcoreInfo {
    let mut text = "OSRELEASE=6.1.0\n".to_owned();
    for (name, addr) in &written.places {
        text += &format!("SYMBOL(kallsyms_{name})={addr:x}\n");
    }
    let mut note: Vec<u8> = [11, text.len() as u32, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    note.extend(b"VMCOREINFO\0\0");
    note.extend(text.bytes());
    VmcoreInfo::parse_note(&note).unwrap()
}

fn rodata_span() -> [Span; 1] {
    [Span { start: VirtAddr::new(RODATA), len: RODATA_LEN as u64 }]
}

fn memory(written: &Written) -> Flat {
    let mut bytes = written.bytes.clone();
    assert!(bytes.len() <= RODATA_LEN);
    bytes.resize(RODATA_LEN, 0);
    Flat { start: VirtAddr::new(RODATA), bytes }
}

fn rows(table: &Kallsyms) -> Vec<Row> {
    let row = |symbol: crate::symbols::kallsyms::KernelSymbol<'_>| {
        (symbol.addr.raw(), symbol.letter, symbol.name.to_owned())
    };
    table.in_table_order().map(row).collect()
}

/// Symbols that a kernel of that recipe can have.
fn kernel(recipe: Recipe) -> Vec<Row> {
    use crate::symbols::kallsyms::addresses::Encoding;
    let percpu = matches!(recipe.encoding, Encoding::AbsolutePercpu | Encoding::Absolute);
    let mut rows = writer::kernel(TEXT, percpu);
    if recipe.lengths == Lengths::ByteOrTwo {
        rows.push((TEXT + 0x3_1000, 't', "x9".repeat(200)));
    }
    rows
}

#[test]
fn every_layout_is_found_by_its_structure() {
    for recipe in RECIPES {
        let expected = kernel(recipe);
        let written = writer::write(recipe, &expected, RODATA, 0x1_2345);
        let table = read(&memory(&written), &map(None), &rodata_span())
            .unwrap_or_else(|error| panic!("{}: {error}", recipe.name));
        assert_eq!(rows(&table), expected, "{}", recipe.name);
    }
}

#[test]
fn every_layout_is_read_where_vmcoreinfo_says() {
    for recipe in RECIPES {
        let expected = kernel(recipe);
        let written = writer::write(recipe, &expected, RODATA, 0x1_2345);
        // Nowhere to search.
        let table = read(&memory(&written), &map(Some(noted(&written))), &[])
            .unwrap_or_else(|error| panic!("{}: {error}", recipe.name));
        assert_eq!(rows(&table), expected, "{}", recipe.name);
    }
}

#[test]
fn a_wrong_note_leads_to_a_search() {
    let expected = kernel(RECIPES[4]);
    let mut written = writer::write(RECIPES[4], &expected, RODATA, 0x100);
    let memory = memory(&written);
    *written.places.get_mut("names").unwrap() += 3;
    let table = read(&memory, &map(Some(noted(&written))), &rodata_span()).unwrap();
    assert_eq!(rows(&table), expected);
}

#[test]
fn tables_of_another_kernel_do_not_count() {
    for recipe in RECIPES {
        let other: Vec<Row> = kernel(recipe)
            .into_iter()
            .map(|(addr, letter, name)| (if letter == 'A' { addr } else { addr + 0x20_0000 }, letter, name))
            .collect();
        let written = writer::write(recipe, &other, RODATA, 0x100);
        let error = read(&memory(&written), &map(None), &rodata_span()).unwrap_err();
        let expected = FormatError::Addresses { text: VirtAddr::new(TEXT) };
        assert!(
            matches!(&error, KallsymsError::Format { source, .. } if *source == expected),
            "{}: {error}",
            recipe.name
        );
    }
}

#[test]
fn none_at_all_says_how_much_was_searched() {
    let error = read(
        &Flat { start: VirtAddr::new(RODATA), bytes: vec![0; RODATA_LEN / 2] },
        &map(None),
        &rodata_span(),
    )
    .unwrap_err();
    let KallsymsError::NotFound { bytes, unread } = error else { panic!("{error}") };
    assert_eq!((bytes, unread), (RODATA_LEN as u64, RODATA_LEN as u64 / 2));
}

#[test]
fn a_count_beyond_reason_is_refused_before_anything_is_read() {
    let written = writer::write(RECIPES[4], &kernel(RECIPES[4]), RODATA, 0);
    let mut memory = memory(&written);
    let at = (written.places["num_syms"] - RODATA) as usize;
    memory.bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = read(&memory, &map(Some(noted(&written))), &[]).unwrap_err();
    assert!(!error.to_string().is_empty());
    let places = Places::noted(&noted(&written)).unwrap();
    let error = places.read(&memory, VirtAddr::new(TEXT), SLIDE).unwrap_err();
    assert!(matches!(error, KallsymsError::Format { source: FormatError::Count { .. }, .. }), "{error}");
}

/// Tokens that belong to nothing, behind a page that is not there, and then the tables.
#[test]
fn what_cannot_be_read_before_false_tokens_ends_no_search() {
    let chunk = 256 << 10;
    let recipe = RECIPES[7];
    let expected = kernel(recipe);
    let tables = writer::write(recipe, &expected, RODATA + chunk, 0x1_2345);
    let tokens = (tables.places["token_table"] - RODATA - chunk) as usize;
    let mut bytes = vec![0; chunk as usize];
    bytes[0x100..0x1000].copy_from_slice(&tables.bytes[tokens..][..0xf00]);
    bytes.extend(&tables.bytes);
    bytes.resize(2 * chunk as usize, 0);
    let memory = Flat { start: VirtAddr::new(RODATA), bytes };
    let span = |start, len| Span { start: VirtAddr::new(start), len };
    let spans = [span(RODATA - chunk, 2 * chunk), span(RODATA + chunk, chunk)];
    assert_eq!(rows(&read(&memory, &map(None), &spans).unwrap()), expected);
    let error = read(&memory, &map(None), &spans[..1]).unwrap_err();
    assert!(matches!(error, KallsymsError::Read { .. }), "{error}");
}

/// None of its memory is there: a page may be lost, so it is tried again, and until then said what failed.
#[test]
fn what_was_not_read_is_tried_again_and_named() {
    let memory = Arc::new(Flat { start: VirtAddr::new(RODATA), bytes: Vec::new() });
    let phys = Arc::new(Sparse::new(["0-64k".parse().unwrap()]));
    let symbols = Arc::new(TargetSymbols::new(memory.clone(), phys, map(None)));
    let mut kernel = testing::kernel(memory, Arc::new(Structs::new()), VirtAddr::NULL);
    kernel.symbols = Some(Relocated::new(Box::new(Arc::clone(&symbols)), SLIDE));
    let error = kernel.symbols("bt").err().unwrap().to_string();
    assert!(error.starts_with("bt needs symbols, and its own cannot be read (no kallsyms tables"), "{error}");
    assert!(error.ends_with("): give the kernel's own file with --vmlinux"), "{error}");
    assert!(symbols.failure.lock().unwrap().is_some());
    symbols.retry();
    assert!(symbols.failure.lock().unwrap().is_some(), "all was read, and there are none");
    *symbols.failure.lock().unwrap() = Some(KallsymsError::NotFound { bytes: 8192, unread: 4096 });
    symbols.retry();
    assert!(symbols.failure.lock().unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damaged tables give an error or symbols, never a panic; what is accepted has `_text` in its place.
    #[test]
    fn damage_anywhere(recipe in 0..RECIPES.len(), damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..24)) {
        let written = writer::write(RECIPES[recipe], &kernel(RECIPES[recipe]), RODATA, 0x40);
        let mut memory = memory(&written);
        for (at, byte) in damage {
            memory.bytes[at % written.bytes.len()] = byte;
        }
        for (info, spans) in [(Some(noted(&written)), &[][..]), (None, &rodata_span()[..])] {
            if let Ok(table) = read(&memory, &map(info), spans) {
                let texts: Vec<u64> = rows(&table).into_iter().filter(|row| row.2 == "_text").map(|row| row.0).collect();
                prop_assert_eq!(texts.first(), Some(&TEXT));
            }
        }
    }

    #[test]
    fn any_symbols(
        recipe in 0..RECIPES.len(),
        extra in prop::collection::vec((1_u64..0x10_0000, "[a-zA-Z_.$0-9]{1,60}"), 0..600),
        lead in 0_usize..5000,
    ) {
        let recipe = RECIPES[recipe];
        let mut expected = kernel(recipe);
        expected.extend(extra.into_iter().map(|(offset, name)| (TEXT + offset, 'd', format!("x{name}"))));
        let written = writer::write(recipe, &expected, RODATA, lead);
        for (info, spans) in [(Some(noted(&written)), &[][..]), (None, &rodata_span()[..])] {
            let table = read(&memory(&written), &map(info), spans).unwrap();
            prop_assert_eq!(rows(&table), expected.clone());
        }
    }
}
