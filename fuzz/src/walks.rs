//! Virtual memory whose every word is one of a few: every pointer leads somewhere, trees without end grow from it.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use nettlp_gdb::{
    addr::VirtAddr,
    kernel::{Kernel, UserMemory, maple::Maple, mm, path, vma, xarray::XArray},
    machine::{Description, PerCpu},
    paging::{Translation, VirtError, VirtFault, VirtMem, VirtOp},
    symbols::{Relocated, elf::ElfSymbols},
    types::dwarf::Dwarf,
};

use super::{Input, machine};

/// Bytes that repeat for ever.
#[derive(Default)]
struct Repeating {
    bytes: Mutex<Vec<u8>>,
    read: AtomicU64,
}

impl VirtMem for Repeating {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            self.read.fetch_add(op.buf.len() as u64, Relaxed);
            let mut at = op.addr.raw() as usize % bytes.len().max(1);
            let mut rest = &mut *op.buf;
            while !rest.is_empty() {
                let source = bytes.get(at..).filter(|source| !source.is_empty()).unwrap_or(&[0]);
                let (now, after) = rest.split_at_mut(source.len().min(rest.len()));
                now.copy_from_slice(source.get(..now.len()).unwrap_or_default());
                (at, rest) = (0, after);
            }
            op.result = Ok(());
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        Err(VirtError { addr, len: 0, fault: VirtFault::NonCanonical })
    }
}

/// A kernel with maple trees, over such memory.
fn kernel() -> &'static (Arc<Repeating>, Kernel) {
    static KERNEL: OnceLock<(Arc<Repeating>, Kernel)> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let map = &machine::target().session.kernel.map;
        let file = machine::vmlinux(&Description { percpu: PerCpu::Ordinary, ..machine::small() });
        let symbols = ElfSymbols::new(Arc::clone(&file)).expect("symbols");
        let memory = Arc::new(Repeating::default());
        let kernel = Kernel {
            map: map.clone(),
            memory: memory.clone(),
            symbols: Some(Relocated::new(Box::new(symbols), map.slide.unwrap_or(0))),
            types: Some(Arc::new(Dwarf::new(file).expect("types"))),
            policy: UserMemory::All,
        };
        (memory, kernel)
    })
}

/// One of the trees, or one of the walks, over memory in which nothing ends: each is bounded by itself.
pub fn walks(data: &[u8]) {
    /// An XArray or a maple tree may have 131,072 nodes; the other walks end with the few words there are.
    const MAX_BYTES: u64 = 512 << 20;
    const TREES: usize = 4;

    let (memory, kernel) = kernel();
    let mut input = Input(data);
    let [root, head] = [input.number(8), input.number(8)];
    let what = input.number(1) as usize % (TREES + machine::QUESTIONS.len());
    *memory.bytes.lock().unwrap_or_else(PoisonError::into_inner) = input.0.to_vec();
    memory.read.store(0, Relaxed);
    let types = kernel.types.as_deref().expect("the machine has types");
    match what {
        0 => {
            let ranges = Maple::resolve(types).expect("maple trees").ranges(kernel, root).ranges;
            assert!(ranges.windows(2).all(|pair| pair[0].last < pair[1].first), "ranges overlap");
        }
        1 => {
            let entries = XArray::resolve(types).expect("XArrays").entries(kernel, head).entries;
            assert!(entries.windows(2).all(|pair| pair[0].index < pair[1].index), "an index twice");
        }
        2 => {
            let areas = mm::at(kernel, VirtAddr::new(root)).and_then(|mm| vma::list(kernel, &mm));
            if let Ok(list) = areas {
                let apart = list.areas.windows(2).all(|pair| pair[0].end <= pair[1].start);
                assert!(apart || list.torn.is_some(), "mappings overlap, and nobody says so");
            }
        }
        3 => {
            let place = path::Place { mount: VirtAddr::new(root), dentry: VirtAddr::new(head) };
            let _ = path::paths(kernel, &[place]);
        }
        _ => machine::QUESTIONS[what - TREES](kernel, 1),
    }
    let read = memory.read.load(Relaxed);
    assert!(read < MAX_BYTES, "{read} bytes");
}
