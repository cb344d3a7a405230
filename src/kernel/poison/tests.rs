use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::*;
use crate::{
    kernel::{
        locate::vmcoreinfo::VmcoreInfo,
        testing::{self, Structs},
    },
    mem::sparse::Sparse,
    paging::{Translation, VirtError, VirtFault, VirtMem, VirtOp},
};

const BASE: VirtAddr = VirtAddr::new(0xffff_ea00_0000_0000);
const SIZE: u64 = 64;
const POISON: u64 = 1 << 20;
const MIB: u64 = 1 << 20;

/// The array: words of the structs that are not zero; those of frames in `hole` are not mapped.
struct Array {
    structs: BTreeMap<u64, [u64; 2]>,
    hole: Range<u64>,
    batches: AtomicUsize,
}

impl Array {
    fn new(structs: impl IntoIterator<Item = (u64, [u64; 2])>, hole: Range<u64>) -> Self {
        Self { structs: structs.into_iter().collect(), hole, batches: AtomicUsize::new(0) }
    }
}

impl VirtMem for Array {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        self.batches.fetch_add(usize::from(!ops.is_empty()), Relaxed);
        for op in ops {
            let first = op.addr.wrapping_offset_from(BASE) / SIZE;
            let len = op.buf.len() as u64;
            op.buf.fill(0);
            let frames = first..first + len / SIZE;
            for (frame, words) in self.structs.range(frames.clone()) {
                let at = ((frame - first) * SIZE) as usize;
                op.buf[at..at + 8].copy_from_slice(&words[0].to_le_bytes());
                op.buf[at + 8..at + 16].copy_from_slice(&words[1].to_le_bytes());
            }
            op.result = match self.hole.start < frames.end && self.hole.end > frames.start {
                true => Err(VirtError { addr: op.addr, len: op.buf.len(), fault: VirtFault::NonCanonical }),
                false => Ok(()),
            };
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        Err(VirtError { addr, len: 0, fault: VirtFault::NonCanonical })
    }
}

/// Its tail pages' words.
fn tails(head: u64, pages: u64) -> impl Iterator<Item = (u64, [u64; 2])> {
    (head + 1..head + pages).map(move |frame| (frame, [0, BASE.raw() + head * SIZE + 1]))
}

fn marks<'k>(array: &'k Array, ram: &'k [PhysRange], certain: bool) -> Marks<'k> {
    let pages = PageArray::usual(array, BASE);
    Marks { pages, flag: POISON, ram, certain, known: Mutex::default() }
}

fn ranges<const N: usize>(texts: [&str; N]) -> [PhysRange; N] {
    texts.map(|text| text.parse().unwrap())
}

/// What becomes of reads, all in one batch.
fn outcomes<const N: usize>(phys: &dyn PhysMem, reads: [(u64, u64); N]) -> [String; N] {
    let mut buffers = reads.map(|(_, len)| vec![0; len as usize]);
    let mut ops: Vec<ReadOp<'_>> = reads
        .iter()
        .zip(&mut buffers)
        .map(|((addr, _), buffer)| ReadOp::new(PhysAddr::new(*addr), buffer))
        .collect();
    phys.read_batch(&mut ops);
    let said =
        |op: ReadOp<'_>| op.result.map_or_else(|error| error.fault.to_string(), |()| "read".to_owned());
    ops.into_iter().map(said).collect::<Vec<_>>().try_into().unwrap()
}

fn poisoned(addr: u64) -> String {
    Fault::Poisoned(PhysAddr::new(addr)).to_string()
}

#[test]
fn a_page_is_told_by_its_own_mark_and_by_its_heads() {
    let ram = ranges(["0-0x9fc00", "1M-3G"]);
    let memory = Sparse::new(ram);
    // A page of its own; a huge page of 2 MiB, whose first struct has the mark; one of 1 GiB likewise; and a mark that
    // belongs to no RAM.
    let huge = (64 * MIB) / PAGE_SIZE;
    let giant = (1 << 30) / PAGE_SIZE;
    let structs = [(0x9f, [POISON, 0]), (0xa0, [POISON, 0]), (0x1234, [POISON | 1, 0])]
        .into_iter()
        .chain([(huge, [POISON, 0]), (giant, [POISON, 0]), (huge + 512, [1 << 21, 0])])
        .chain(tails(huge, 512))
        .chain(tails(huge + 512, 512))
        .chain(tails(giant, 1 << 18));
    let array = Array::new(structs, 0..0);
    let sound = Unpoisoned { phys: &memory, marks: Some(marks(&array, &ram, true)) };

    let page = 0x1234 * PAGE_SIZE;
    assert_eq!(
        outcomes(&sound, [(page - 8, 8), (page - 8, 9), (page + 4095, 1), (page + 4096, 8), (0x9f000, 8)]),
        ["read".to_owned(), poisoned(page), poisoned(page), "read".to_owned(), poisoned(0x9f000)]
    );
    assert_eq!(array.batches.load(Relaxed), 1, "both stretches together");
    outcomes(&sound, [(page, 8), (page + 4096, 8)]);
    assert_eq!(array.batches.load(Relaxed), 1, "what was seen is known");

    let (huge, giant) = (huge * PAGE_SIZE, giant * PAGE_SIZE);
    assert_eq!(
        outcomes(&sound, [(huge - 8, 16), (huge + 2 * MIB - 8, 8), (huge + 2 * MIB, 8), (huge - 64, 64)]),
        [poisoned(huge), poisoned(huge + 2 * MIB - 4096), "read".to_owned(), "read".to_owned()]
    );
    // The middle of it, whose head is in another stretch; and what lies behind it.
    let middle = giant + 512 * MIB;
    assert_eq!(
        outcomes(&sound, [(middle, 8), (giant + (1 << 30), 8), (giant - 4096, 64 << 10)]),
        [poisoned(middle), "read".to_owned(), poisoned(giant)]
    );
    // No struct says anything of what is no RAM: whoever is below refuses it.
    assert_eq!(
        outcomes(&sound, [(0xa0000, 8), (u64::MAX - 7, 8)]),
        [Fault::Hole.to_string(), Fault::Hole.to_string()]
    );
}

#[test]
fn where_marks_cannot_be_read_nothing_is_on_a_host_that_has_some() {
    let ram = ranges(["0-64M"]);
    let memory = Sparse::new(ram);
    let array = Array::new([(1, [POISON, 0]), (5000, [0, BASE.raw() + 9000 * SIZE + 1])], 4096..8192);
    let sound = Unpoisoned { phys: &memory, marks: Some(marks(&array, &ram, true)) };
    let refused = Fault::Refused(UNTOLD).to_string();
    let reads = [(0, 8), (16 * MIB, 8), (32 * MIB - 8, 8), (32 * MIB, 8)];
    assert_eq!(outcomes(&sound, reads), ["read", &refused, &refused, "read"]);

    let sound = Unpoisoned { phys: &memory, marks: Some(marks(&array, &ram, false)) };
    assert_eq!(outcomes(&sound, reads), ["read"; 4]);
    assert_eq!(outcomes(&sound, [(PAGE_SIZE, 8)]), [poisoned(PAGE_SIZE)]);
}

#[test]
fn a_head_that_cannot_be_read_leaves_its_tails_untold() {
    let ram = ranges(["16M-32M"]);
    let memory = Sparse::new(ram);
    // Heads at frames 100 and 200; the first is not mapped.
    let tail = |head: u64| [0, BASE.raw() + head * SIZE + 1];
    let array = Array::new([(4096, tail(100)), (4097, tail(200)), (200, [POISON, 0])], 100..101);
    let sound = Unpoisoned { phys: &memory, marks: Some(marks(&array, &ram, true)) };
    let refused = Fault::Refused(UNTOLD).to_string();
    let at = 16 * MIB;
    assert_eq!(
        outcomes(&sound, [(at, 8), (at + 4096, 8), (at + 8192, 8)]),
        [refused, poisoned(at + 4096), "read".to_owned()]
    );
    assert_eq!(array.batches.load(Relaxed), 2);
}

/// A kernel without symbols, whose VMCOREINFO says `lines`.
fn kernel(array: Array, lines: &str) -> Kernel {
    let types = Structs::new().enumeration("pageflags", &[("PG_hwpoison", 20)]);
    let mut kernel = testing::kernel(Arc::new(array), Arc::new(types), VirtAddr::NULL);
    kernel.map.vmcoreinfo = Some(VmcoreInfo::parse_text(format!("OSRELEASE=6\n{lines}").as_bytes()).unwrap());
    kernel.map.vmemmap_base = Some(BASE);
    kernel.map.ram = ranges(["0-64M"]).to_vec();
    kernel
}

#[test]
fn without_symbols_vmcoreinfo_decides() {
    let memory = Sparse::new(ranges(["0-64M"]));
    let page = (5, [POISON, 0]);
    let cases = [
        ("NUMBER(PG_lru)=4\n", Some(0), "read".to_owned()),
        ("NUMBER(PG_lru)=4\nNUMBER(PG_hwpoison)=20\n", None, poisoned(5 * PAGE_SIZE)),
        ("NUMBER(PG_lru)=4\nNUMBER(PG_hwpoison)=21\n", None, "read".to_owned()),
        ("NUMBER(PG_lru)=4\nNUMBER(PG_hwpoison)=64\n", None, "read".to_owned()),
        // Types have the bit too.
        ("", None, poisoned(5 * PAGE_SIZE)),
    ];
    for (lines, counted, expected) in cases {
        let kernel = kernel(Array::new([page], 0..0), lines);
        assert_eq!(count(&kernel).map(|count| count.pages), counted, "{lines}");
        assert_eq!(outcomes(&Unpoisoned::new(&kernel, &memory), [(5 * PAGE_SIZE, 8)]), [expected], "{lines}");
    }
}
