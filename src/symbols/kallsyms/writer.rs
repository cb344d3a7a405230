//! Writes tables as each generation of kernels has them, for tests.

use std::collections::BTreeMap;

use super::{
    Kallsyms, Names,
    addresses::Encoding,
    names::{Lengths, MARKED},
};

/// Tokens of more than a letter, from 0x80 on.
const WORDS: [&str; 6] = ["__", "Tsys_", "tdo_", "_lock", "per_cpu", "ini"];

/// What differs between generations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    /// Addresses before the count (to 6.3), or after the tokens.
    pub(crate) addresses_first: bool,
    pub(crate) encoding: Encoding,
    pub(crate) lengths: Lengths,
    /// Bytes of a marker.
    pub(crate) marker: usize,
    /// Bytes of an entry of the sequence of names.
    pub(crate) seqs: Option<usize>,
    pub(crate) align: usize,
}

const fn recipe(name: &'static str, addresses_first: bool, encoding: Encoding, lengths: Lengths) -> Recipe {
    Recipe { name, addresses_first, encoding, lengths, marker: 4, seqs: None, align: 8 }
}

pub(crate) const RECIPES: [Recipe; 10] = [
    Recipe { marker: 8, ..recipe("4.15", true, Encoding::AbsolutePercpu, Lengths::Byte) },
    Recipe { marker: 8, ..recipe("4.15 without a base", true, Encoding::Absolute, Lengths::Byte) },
    recipe("5.10", true, Encoding::AbsolutePercpu, Lengths::Byte),
    recipe("5.10 without per-CPU variables", true, Encoding::Relative, Lengths::Byte),
    recipe("6.1", true, Encoding::AbsolutePercpu, Lengths::ByteOrTwo),
    Recipe { seqs: Some(3), ..recipe("6.2", true, Encoding::AbsolutePercpu, Lengths::ByteOrTwo) },
    Recipe { seqs: Some(3), ..recipe("6.4", false, Encoding::AbsolutePercpu, Lengths::ByteOrTwo) },
    Recipe { seqs: Some(3), ..recipe("6.4 without a base", false, Encoding::Absolute, Lengths::ByteOrTwo) },
    Recipe { seqs: Some(3), ..recipe("6.15", false, Encoding::Relative, Lengths::ByteOrTwo) },
    Recipe { seqs: Some(3), align: 4, ..recipe("7.0", false, Encoding::PlaceRelative, Lengths::ByteOrTwo) },
];

/// A symbol to write: address, letter of its type, name.
pub(crate) type Row = (u64, char, String);

/// Tables, and where each begins.
pub(crate) struct Written {
    pub(crate) bytes: Vec<u8>,
    /// Run-time addresses by name, without `kallsyms_`.
    pub(crate) places: BTreeMap<&'static str, u64>,
}

struct Writer<'a> {
    recipe: Recipe,
    rows: &'a [Row],
    start: u64,
    written: Written,
}

/// Writes `rows` to run-time address `start`, a multiple of the page size, after `lead` bytes of other things.
pub(crate) fn write(recipe: Recipe, rows: &[Row], start: u64, lead: usize) -> Written {
    let bytes = (0..lead).map(|at| (at % 251) as u8).collect();
    let mut writer = Writer { recipe, rows, start, written: Written { bytes, places: BTreeMap::new() } };
    if recipe.addresses_first {
        writer.addresses();
    }
    writer.names();
    if recipe.addresses_first {
        writer.seqs();
    }
    writer.tokens();
    if !recipe.addresses_first {
        writer.addresses();
        writer.seqs();
    }
    writer.label("end");
    writer.written
}

impl Writer<'_> {
    fn label(&mut self, name: &'static str) -> u64 {
        let len = self.written.bytes.len().next_multiple_of(self.recipe.align);
        self.written.bytes.resize(len, 0);
        let addr = self.start + len as u64;
        self.written.places.insert(name, addr);
        addr
    }

    fn put(&mut self, value: u64, width: usize) {
        self.written.bytes.extend(&value.to_le_bytes()[..width]);
    }

    fn addresses(&mut self) {
        let relative = self.rows.iter().filter(|(_, letter, _)| *letter != 'A').map(|(addr, ..)| *addr);
        let base = relative.min().unwrap_or(0);
        let encoding = self.recipe.encoding;
        let table = self.label(if encoding == Encoding::Absolute { "addresses" } else { "offsets" });
        for (index, (addr, letter, _)) in self.rows.iter().enumerate() {
            match encoding {
                Encoding::Absolute => self.put(*addr, 8),
                Encoding::AbsolutePercpu if *letter == 'A' => self.put(*addr, 4),
                Encoding::AbsolutePercpu => self.put(base.wrapping_sub(*addr).wrapping_sub(1), 4),
                Encoding::Relative => self.put(addr.wrapping_sub(base), 4),
                Encoding::PlaceRelative => self.put(addr.wrapping_sub(table + index as u64 * 4), 4),
            }
        }
        if encoding.needs_base() {
            self.label("relative_base");
            self.put(base, 8);
        }
    }

    fn names(&mut self) {
        self.label("num_syms");
        self.put(self.rows.len() as u64, 4);
        let start = self.label("names");
        let mut marks = Vec::new();
        for (index, (_, letter, name)) in self.rows.iter().enumerate() {
            if index % MARKED == 0 {
                marks.push(self.start + self.written.bytes.len() as u64 - start);
            }
            let tokens = compress(&format!("{letter}{name}"));
            match self.recipe.lengths {
                Lengths::ByteOrTwo if tokens.len() > 0x7f => {
                    self.put(tokens.len() as u64 & 0x7f | 0x80 | (tokens.len() as u64 >> 7) << 8, 2);
                }
                _ => self.put(tokens.len() as u64, 1),
            }
            self.written.bytes.extend(tokens);
        }
        self.label("markers");
        marks.into_iter().for_each(|mark| self.put(mark, self.recipe.marker));
    }

    fn seqs(&mut self) {
        let Some(width) = self.recipe.seqs else { return };
        self.label("seqs_of_names");
        (0..self.rows.len()).for_each(|seq| self.put(seq as u64, width));
    }

    fn tokens(&mut self) {
        let start = self.label("token_table");
        let mut index = Vec::new();
        for token in 0..=255_u8 {
            index.push(self.start + self.written.bytes.len() as u64 - start);
            let letter = char::from(token).to_string();
            let word = usize::from(token).checked_sub(0x80).and_then(|word| WORDS.get(word).copied());
            let text = word.unwrap_or(if token.is_ascii_graphic() { &letter } else { "" });
            self.written.bytes.extend(text.bytes().chain([0]));
        }
        self.label("token_index");
        index.into_iter().for_each(|offset| self.put(offset, 2));
    }
}

fn compress(mut text: &str) -> Vec<u8> {
    let mut tokens = Vec::new();
    while let Some(first) = text.bytes().next() {
        let word = (0x80..).zip(WORDS).find(|(_, word)| text.starts_with(word));
        let (token, len) = word.map_or((first, 1), |(token, word)| (token, word.len()));
        tokens.push(token);
        text = &text[len..];
    }
    tokens
}

/// A table of `rows` in a kernel that runs `slide` above its link address.
pub(crate) fn table(rows: &[Row], slide: u64) -> Kallsyms {
    let mut names = Names::default();
    rows.iter().for_each(|(_, letter, name)| names.push(*letter as u8, name.as_bytes()));
    Kallsyms::new(names, rows.iter().map(|(addr, ..)| *addr).collect(), slide)
}

/// Symbols of a small kernel whose `_text` is at `text`, with per-CPU variables at 0 if `percpu`.
pub(crate) fn kernel(text: u64, percpu: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |addr, letter, name: &str| rows.push((addr, letter, name.to_owned()));
    if percpu {
        add(0, 'A', "__per_cpu_start");
        add(0x1000, 'A', "cpu_tss_rw");
        add(0x3_4000, 'A', "__per_cpu_end");
    }
    add(text, 'T', "startup_64");
    add(text, 'T', "_stext");
    add(text, 'T', "_text");
    for index in 0..700 {
        add(
            text + 0x100 + index * 0x40,
            if index % 3 == 0 { 'T' } else { 't' },
            &format!("do_thing_{index}"),
        );
    }
    add(text + 0x1_0000, 't', "init_once");
    add(text + 0x1_0080, 'T', "init_once");
    add(text + 0x2_0000, 'D', "init_task");
    add(text + 0x3_0000, 'B', "_end");
    rows
}
