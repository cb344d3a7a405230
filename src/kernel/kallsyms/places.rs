//! Tables whose places are known, to symbols.

use super::KallsymsError;
use crate::{
    addr::VirtAddr,
    kernel::locate::vmcoreinfo::VmcoreInfo,
    paging::VirtMem,
    symbols::kallsyms::{
        FormatError, Kallsyms, MAX_SYMBOLS, MIN_SYMBOLS, Names, Tokens,
        addresses::{Candidate, Encoding},
        names::{self, Lengths},
        tokens::{INDEX_LEN, MAX_TABLE_LEN},
    },
};

/// Bytes of a name in the compressed table: 11 to 12 on average.
const USUAL_NAME: usize = 12;
/// Names that are longer than usual are read with this much more at a time.
const MORE: usize = 128 << 10;
/// Bytes of `kallsyms_names` read at most.
const MAX_NAMES_LEN: usize = 32 << 20;

/// Where the names are.
#[derive(Debug, Clone)]
pub(super) enum NamesPlace {
    /// At `names`; nothing says where they end.
    At { num_syms: VirtAddr, names: VirtAddr },
    /// Read and measured.
    Read { addr: VirtAddr, bytes: Vec<u8>, count: usize, lengths: Lengths },
}

/// Where the tables are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) names: NamesPlace,
    pub(super) token_table: VirtAddr,
    pub(super) token_index: VirtAddr,
    /// Where the addresses may be, and in which form.
    pub(super) addresses: Vec<Candidate>,
}

impl Places {
    /// What VMCOREINFO says (from 6.0).
    pub(super) fn noted(info: &VmcoreInfo) -> Option<Self> {
        let symbol = |name: &str| info.symbol(&format!("kallsyms_{name}"));
        let base = symbol("relative_base").map(VirtAddr::raw);
        let offsets = symbol("offsets").map(VirtAddr::raw);
        let candidate = |encoding, table| Candidate { encoding, table, base };
        let relative = offsets.into_iter().flat_map(|table| {
            let forms: &[Encoding] = match base {
                Some(_) => &[Encoding::AbsolutePercpu, Encoding::Relative],
                None => &[Encoding::PlaceRelative],
            };
            forms.iter().map(move |form| candidate(*form, table))
        });
        let absolute = symbol("addresses").map(|table| candidate(Encoding::Absolute, table.raw()));
        Some(Self {
            names: NamesPlace::At { num_syms: symbol("num_syms")?, names: symbol("names")? },
            token_table: symbol("token_table")?,
            token_index: symbol("token_index")?,
            addresses: relative.chain(absolute).collect(),
        })
    }

    /// Reads the tables. `text` is where `_text` is.
    pub(super) fn read(
        self,
        memory: &dyn VirtMem,
        text: VirtAddr,
        slide: u64,
    ) -> Result<Kallsyms, KallsymsError> {
        let tokens = self.tokens(memory)?;
        let Self { names, addresses, .. } = self;
        let (addr, bytes, count, lengths) = match names {
            NamesPlace::Read { addr, bytes, count, lengths } => (addr, bytes, count, lengths),
            NamesPlace::At { num_syms, names } => {
                let count = count(memory, num_syms)?;
                (names, read_names(memory, names, count)?, count, Lengths::ByteOrTwo)
            }
        };
        let names = Names::expand(&bytes, count, lengths, &tokens)
            .map_err(|source| KallsymsError::Format { step: "reading kallsyms_names", addr, source })?;
        let candidate = choose(memory, &addresses, &names, text)?;
        let addresses = read_addresses(memory, &candidate, count)?;
        Ok(Kallsyms::new(names, addresses, slide))
    }

    fn tokens(&self, memory: &dyn VirtMem) -> Result<Tokens, KallsymsError> {
        let step = "reading kallsyms_token_table";
        let addr = self.token_table;
        let len = self.token_index.wrapping_offset_from(addr);
        let len = usize::try_from(len).ok().filter(|len| *len <= MAX_TABLE_LEN);
        let wrong = |source| KallsymsError::Format { step, addr, source };
        let len = len.ok_or(wrong(FormatError::Tokens { token: 0 }))?;
        let bytes = read(memory, step, addr, len + INDEX_LEN)?;
        let (table, index) = bytes.split_at_checked(len).unwrap_or_default();
        Tokens::parse(table, index).map_err(wrong)
    }
}

fn read(
    memory: &dyn VirtMem,
    step: &'static str,
    addr: VirtAddr,
    len: usize,
) -> Result<Vec<u8>, KallsymsError> {
    memory.read_vec(addr, len).map_err(|source| KallsymsError::Read { step, source })
}

fn count(memory: &dyn VirtMem, addr: VirtAddr) -> Result<usize, KallsymsError> {
    let step = "reading kallsyms_num_syms";
    let count = memory.read_u32(addr).map_err(|source| KallsymsError::Read { step, source })?;
    let plausible = usize::try_from(count).ok().filter(|count| (MIN_SYMBOLS..=MAX_SYMBOLS).contains(count));
    let source = FormatError::Count { count: u64::from(count) };
    plausible.ok_or(KallsymsError::Format { step, addr, source })
}

/// Reads as much as `count` names take.
fn read_names(memory: &dyn VirtMem, addr: VirtAddr, count: usize) -> Result<Vec<u8>, KallsymsError> {
    let step = "reading kallsyms_names";
    let mut bytes = read(memory, step, addr, count * USUAL_NAME)?;
    loop {
        let wrong = match names::measure(&bytes, count, Lengths::ByteOrTwo) {
            Ok((len, _)) => {
                bytes.truncate(len);
                return Ok(bytes);
            }
            Err(source) => KallsymsError::Format { step, addr, source },
        };
        if bytes.len() >= MAX_NAMES_LEN {
            return Err(wrong);
        }
        // A damaged length and an end of what was read look alike.
        let next = addr.wrapping_add(bytes.len() as u64);
        bytes.extend(read(memory, step, next, MORE).map_err(|_| wrong)?);
    }
}

/// The form and place of the addresses that has `_text` at `text`: one entry of each is read.
fn choose(
    memory: &dyn VirtMem,
    candidates: &[Candidate],
    names: &Names,
    text: VirtAddr,
) -> Result<Candidate, KallsymsError> {
    let step = "reading the addresses of kallsyms";
    let addr = VirtAddr::new(candidates.first().map_or(0, |candidate| candidate.table));
    let wrong = KallsymsError::Format { step, addr, source: FormatError::Addresses { text } };
    let index = names.position("_text").ok_or(wrong.clone())?;
    let fits = |candidate: &&Candidate| {
        let place = candidate.entry(index);
        let width = candidate.encoding.width() as usize;
        let base = candidate.base.map(|base| memory.read_u64(VirtAddr::new(base)));
        let base = base.transpose().ok().map(Option::unwrap_or_default);
        let entry = memory.read_vec(VirtAddr::new(place), width).ok();
        let address =
            entry.zip(base).and_then(|(entry, base)| candidate.encoding.address(&entry, place, base));
        address == Some(text.raw())
    };
    candidates.iter().find(fits).copied().ok_or(wrong)
}

fn read_addresses(
    memory: &dyn VirtMem,
    candidate: &Candidate,
    count: usize,
) -> Result<Vec<u64>, KallsymsError> {
    let step = "reading kallsyms_offsets";
    let len = count.saturating_mul(candidate.encoding.width() as usize);
    let table = read(memory, step, VirtAddr::new(candidate.table), len)?;
    let base = match candidate.base {
        Some(base) => memory
            .read_u64(VirtAddr::new(base))
            .map_err(|source| KallsymsError::Read { step: "reading kallsyms_relative_base", source })?,
        None => 0,
    };
    Ok(candidate.encoding.addresses(&table, candidate.table, base))
}
