//! ELF files for unit tests, written section by section.

/// A section to write.
#[derive(Clone, Default)]
pub(crate) struct TestSection {
    pub(crate) name: &'static str,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) addr: u64,
    pub(crate) bytes: Vec<u8>,
    /// For one without bytes in the file.
    pub(crate) size: u64,
}

/// A symbol to write; `section` is the position of its section in the file, counted from 1.
#[derive(Clone, Copy)]
pub(crate) struct TestSymbol {
    pub(crate) name: &'static str,
    pub(crate) addr: u64,
    pub(crate) size: u64,
    pub(crate) section: u16,
    pub(crate) info: u8,
}

pub(crate) const PROGBITS: u32 = 1;
pub(crate) const NOTE: u32 = 7;
pub(crate) const NOBITS: u32 = 8;
pub(crate) const ALLOC: u64 = 2;
pub(crate) const COMPRESSED: u64 = 0x800;

/// A file to write.
#[derive(Clone)]
pub(crate) struct TestElf {
    pub(crate) class: u8,
    pub(crate) machine: u16,
    pub(crate) kind: u16,
    pub(crate) sections: Vec<TestSection>,
    pub(crate) symbols: Vec<TestSymbol>,
}

impl Default for TestElf {
    fn default() -> Self {
        Self { class: 2, machine: 62, kind: 2, sections: Vec::new(), symbols: Vec::new() }
    }
}

impl TestElf {
    pub(crate) fn section(mut self, name: &'static str, bytes: Vec<u8>) -> Self {
        self.sections.push(TestSection { name, kind: PROGBITS, bytes, ..TestSection::default() });
        self
    }

    pub(crate) fn loaded(mut self, name: &'static str, addr: u64, size: u64) -> Self {
        self.sections.push(TestSection {
            name,
            kind: NOBITS,
            flags: ALLOC,
            addr,
            size,
            ..TestSection::default()
        });
        self
    }

    pub(crate) fn symbol(mut self, name: &'static str, addr: u64, size: u64, section: u16, info: u8) -> Self {
        self.symbols.push(TestSymbol { name, addr, size, section, info });
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let (class, machine, kind) = (self.class, self.machine, self.kind);
        let sections = self.with_tables();
        let mut names = vec![0];
        let mut body = Vec::new();
        let mut headers = vec![0; 64];
        for (section, link, entry_size) in &sections {
            body.resize(body.len().next_multiple_of(8), 0);
            let (name, offset) = (names.len() as u32, 64 + body.len() as u64);
            names.extend_from_slice(section.name.as_bytes());
            names.push(0);
            body.extend_from_slice(&section.bytes);
            let size = if section.bytes.is_empty() { section.size } else { section.bytes.len() as u64 };
            headers.extend(name.to_le_bytes());
            headers.extend(section.kind.to_le_bytes());
            let words = [section.flags, section.addr, offset, size];
            words.iter().for_each(|word| headers.extend(word.to_le_bytes()));
            headers.extend([*link, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
            headers.extend([8, *entry_size].iter().flat_map(|word: &u64| word.to_le_bytes()));
        }
        let (start, len) = (64 + body.len() as u64, names.len() as u64);
        body.extend_from_slice(&names);
        headers.extend(0_u32.to_le_bytes());
        headers.extend(3_u32.to_le_bytes());
        [0, 0, start, len, 0, 1, 0].iter().for_each(|word: &u64| headers.extend(word.to_le_bytes()));
        body.resize(body.len().next_multiple_of(8), 0);

        let count = sections.len() as u16 + 2;
        let mut file = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0];
        file.extend([0; 8]);
        file.extend([kind, machine].iter().flat_map(|half| half.to_le_bytes()));
        file.extend(1_u32.to_le_bytes());
        [0, 0, 64 + body.len() as u64].iter().for_each(|word: &u64| file.extend(word.to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        [64, 0, 0, 64, count, count - 1].iter().for_each(|half: &u16| file.extend(half.to_le_bytes()));
        file.extend(body);
        file.extend(headers);
        file
    }

    /// The sections with `sh_link` and `sh_entsize`, symbol and string table last if there are symbols.
    fn with_tables(self) -> Vec<(TestSection, u32, u64)> {
        const SYMTAB: u32 = 2;
        const STRTAB: u32 = 3;
        let mut sections: Vec<_> = self.sections.into_iter().map(|section| (section, 0, 0)).collect();
        if self.symbols.is_empty() {
            return sections;
        }
        let (mut table, mut strings) = (vec![0; 24], vec![0]);
        for symbol in &self.symbols {
            table.extend((strings.len() as u32).to_le_bytes());
            table.extend([symbol.info, 0]);
            table.extend(symbol.section.to_le_bytes());
            table.extend([symbol.addr, symbol.size].iter().flat_map(|word| word.to_le_bytes()));
            strings.extend_from_slice(symbol.name.as_bytes());
            strings.push(0);
        }
        let link = sections.len() as u32 + 2;
        let section = |name, kind, bytes| TestSection { name, kind, bytes, ..TestSection::default() };
        sections.push((section(".symtab", SYMTAB, table), link, 24));
        sections.push((section(".strtab", STRTAB, strings), 0, 0));
        sections
    }
}
