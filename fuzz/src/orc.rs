//! ORC tables of a small kernel: of each format, with and without the table of blocks.

use std::{collections::BTreeMap, sync::Arc};

use nettlp_gdb::{
    addr::{LinkAddr, VirtAddr},
    kernel::{Kernel, UserMemory, orc::Orc},
    paging::{Translation, VirtError, VirtFault, VirtMem, VirtOp},
    symbols::{Relocated, Symbol, SymbolKind, SymbolRef, SymbolTable},
    types::{Aggregate, Encoding, Member, Tag, Type, TypeError, TypeId, TypeSource},
};

use super::{Input, machine};

const TEXT: u64 = 0xffff_ffff_8100_0000;
const TEXT_LEN: u64 = 0x1000;
/// Where the words of the table of blocks would be, after which come the tables themselves.
const BLOCKS: u64 = TEXT + TEXT_LEN;
const TABLES: u64 = BLOCKS + 4 * (TEXT_LEN / 256 + 1);
const ENTRY: u64 = 6;

/// Bytes from the table of blocks on; the text itself is not read.
struct Tables(Vec<u8>);

impl VirtMem for Tables {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        for op in ops {
            let start = op.addr.raw().wrapping_sub(BLOCKS) as usize;
            let found = start.checked_add(op.buf.len()).and_then(|end| self.0.get(start..end));
            op.result = match found {
                Some(found) => {
                    op.buf.copy_from_slice(found);
                    Ok(())
                }
                None => Err(VirtError { addr: op.addr, len: op.buf.len(), fault: VirtFault::NonCanonical }),
            };
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        Err(VirtError { addr, len: 0, fault: VirtFault::NonCanonical })
    }
}

/// `struct orc_entry`: the struct is type 0, its members are the following ones.
struct OrcEntry(Vec<(&'static str, u64, u64, bool)>);

impl OrcEntry {
    /// To 6.2, of 6.3, and since 6.4.
    fn of(format: u64) -> Self {
        let mut members = vec![
            ("sp_offset", 0, 16, true),
            ("bp_offset", 16, 16, true),
            ("sp_reg", 32, 4, false),
            ("bp_reg", 36, 4, false),
        ];
        members.extend(match format {
            0 => vec![("type", 40, 2, false), ("end", 42, 1, false)],
            1 => vec![("type", 40, 2, false), ("signal", 42, 1, false), ("end", 43, 1, false)],
            _ => vec![("type", 40, 3, false), ("signal", 43, 1, false)],
        });
        Self(members)
    }
}

impl TypeSource for OrcEntry {
    fn source_name(&self) -> &str {
        "fuzz"
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        match (tag, name) {
            (Tag::Struct, "orc_entry") => Ok(TypeId(0)),
            _ => Err(TypeError::NoType {
                source_name: "fuzz".to_owned(),
                tag: "struct",
                name: name.to_owned(),
            }),
        }
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        if let Some((_, _, bits, signed)) = (id.0 as usize).checked_sub(1).and_then(|at| self.0.get(at)) {
            let encoding = if *signed { Encoding::Signed } else { Encoding::Unsigned };
            return Ok(Type::Base {
                name: "int".to_owned(),
                size: if *bits == 16 { 2 } else { 4 },
                encoding,
            });
        }
        let members = (1..).zip(&self.0).map(|(ty, (name, bit_offset, bits, _))| Member {
            name: Some((*name).to_owned()),
            bit_offset: *bit_offset,
            bit_size: (*bits != 16).then_some(*bits),
            ty: TypeId(ty),
        });
        Ok(Type::Aggregate(Aggregate {
            tag: Tag::Struct,
            name: Some("orc_entry".to_owned()),
            size: ENTRY,
            members: members.collect(),
        }))
    }
}

struct Names(BTreeMap<&'static str, u64>);

impl SymbolTable for Names {
    fn table_name(&self) -> &str {
        "fuzz"
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        let addr = LinkAddr::new(*self.0.get(name)?);
        Some(Symbol { name: name.to_owned(), addr, size: 0, kind: SymbolKind::Other })
    }

    fn containing(&self, _: LinkAddr) -> Option<Symbol> {
        None
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        None
    }

    fn for_each(&self, _: &mut dyn FnMut(SymbolRef<'_>)) {}
}

/// Format, number of entries, whether there are blocks; then the table of blocks, the addresses and the entries.
pub fn orc(data: &[u8]) {
    let mut input = Input(data);
    let (format, count, blocks) = (input.number(1) % 3, input.number(3), input.number(1) & 1 == 0);
    let tables = input.0.to_vec();
    let entries = TABLES + count * 4;
    let mut names = BTreeMap::from([
        ("_stext", TEXT),
        ("_etext", TEXT + TEXT_LEN),
        ("__start_orc_unwind_ip", TABLES),
        ("__stop_orc_unwind_ip", entries),
        ("__start_orc_unwind", entries),
        ("__stop_orc_unwind", entries + count * ENTRY),
        ("schedule", TEXT + 0x100),
        ("panic", TEXT + 0x800),
    ]);
    if blocks {
        names.extend([("orc_lookup", BLOCKS), ("orc_lookup_end", TABLES)]);
    }
    let kernel = Kernel {
        map: machine::target().session.kernel.map.clone(),
        memory: Arc::new(Tables(tables)),
        symbols: Some(Relocated::new(Box::new(Names(names)), 0)),
        types: Some(Arc::new(OrcEntry::of(format))),
        policy: UserMemory::All,
    };
    let Ok(Some(orc)) = Orc::find(&kernel) else { return };
    let addrs: Vec<VirtAddr> = (0..TEXT_LEN + 64).step_by(61).map(|at| VirtAddr::new(TEXT + at)).collect();
    let together = orc.rules(&addrs);
    assert_eq!(together.len(), addrs.len());
    assert_eq!(together, orc.rules(&addrs), "what was looked up is remembered");
}
