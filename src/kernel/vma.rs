//! The mappings of an address space: every `vm_area_struct`, ascending.
//!
//! They hang in a maple tree or, before 6.1, in a red-black tree whose nodes are the mappings themselves; both are read
//! level by level. What does not fit its place in the tree (order, overlap, the list that links them, the number the
//! address space says) is reported: the process changed its mappings meanwhile, or somebody damaged them.

use std::collections::HashMap;

use super::{
    Kernel, KernelError,
    list::Visited,
    maple::Maple,
    mm::{Areas, Mm},
    structure::Structure,
    tree,
};
use crate::{
    addr::VirtAddr,
    types::{Field, TypeError, TypeSource},
};

const STEP: &str = "reading the mappings of a process";

/// Mappings of one process: `vm.max_map_count` is 65,530 unless somebody raised it.
const MAX_AREAS: usize = 1 << 18;

/// Mappings fetched at once.
const BATCH: usize = 4096;

/// `VM_*` (`include/linux/mm.h`): the same on every kernel.
pub mod flags {
    /// May be read.
    pub const READ: u64 = 1 << 0;
    /// May be written.
    pub const WRITE: u64 = 1 << 1;
    /// May be executed.
    pub const EXEC: u64 = 1 << 2;
    /// Shared with other processes, or mapped as such.
    pub const MAY_SHARE: u64 = 1 << 7;
    /// Page frames of a device, without `struct page`.
    pub const PFN_MAP: u64 = 1 << 10;
    /// Of both kinds.
    pub const MIXED_MAP: u64 = 1 << 28;
}

/// A mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Address of the `vm_area_struct`.
    pub addr: VirtAddr,
    /// First address mapped.
    pub start: VirtAddr,
    /// The address behind the last.
    pub end: VirtAddr,
    /// `vm_flags`, see [`flags`].
    pub flags: u64,
    /// Offset in the file, in pages.
    pub page_offset: u64,
    /// The `struct file` mapped; NULL of anonymous memory.
    pub file: VirtAddr,
    /// `vm_ops`
    pub ops: VirtAddr,
    /// `vm_private_data`
    pub private: VirtAddr,
    /// `anon_name`, of an anonymous mapping that was given a name (since 5.17).
    pub anon_name: VirtAddr,
}

/// Mappings, ascending, and why some are missing if they are.
#[derive(Debug)]
pub struct AreaList {
    /// What was read.
    pub areas: Vec<Area>,
    /// Set when the mappings changed while they were read, or are damaged.
    pub torn: Option<KernelError>,
}

/// The members of `vm_area_struct`, resolved once.
pub(super) struct Layout {
    bytes: usize,
    start: Field<VirtAddr>,
    end: Field<VirtAddr>,
    flags: Field<u64>,
    page_offset: Field<u64>,
    file: Field<VirtAddr>,
    ops: Field<VirtAddr>,
    private: Field<VirtAddr>,
    anon_name: Option<Field<VirtAddr>>,
    links: Option<Links>,
}

/// What only a red-black tree needs.
struct Links {
    node: u64,
    left: Field<VirtAddr>,
    right: Field<VirtAddr>,
    next: Field<VirtAddr>,
}

impl Layout {
    pub(super) fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let mut area = Structure::new(types, "vm_area_struct");
        let left = area.optional(&["vm_rb.rb_left"])?;
        let right = area.optional(&["vm_rb.rb_right"])?;
        let links = match (left, right, area.optional(&["vm_next"])?) {
            (Some(left), Some(right), Some(next)) => {
                Some(Links { node: types.field("vm_area_struct", "vm_rb")?.offset, left, right, next })
            }
            _ => None,
        };
        Ok(Self {
            start: area.field(&["vm_start"])?,
            end: area.field(&["vm_end"])?,
            flags: area.field(&["vm_flags"])?,
            page_offset: area.field(&["vm_pgoff"])?,
            file: area.field(&["vm_file"])?,
            ops: area.field(&["vm_ops"])?,
            private: area.field(&["vm_private_data"])?,
            anon_name: area.optional(&["anon_name"])?,
            links,
            bytes: area.bytes()?,
        })
    }

    /// The mapping that a whole structure's bytes are.
    pub(super) fn parse(&self, addr: VirtAddr, bytes: &[u8]) -> Option<Area> {
        Some(Area {
            addr,
            start: self.start.get(bytes)?,
            end: self.end.get(bytes)?,
            flags: self.flags.get(bytes)?,
            page_offset: self.page_offset.get(bytes)?,
            file: self.file.get(bytes)?,
            ops: self.ops.get(bytes)?,
            private: self.private.get(bytes)?,
            anon_name: match &self.anon_name {
                Some(name) => name.get(bytes)?,
                None => VirtAddr::NULL,
            },
        })
    }

    /// Reads mappings; what cannot be is the reason to call the list torn.
    pub(super) fn fetch(
        &self,
        kernel: &Kernel,
        addrs: &[VirtAddr],
        torn: &mut Option<KernelError>,
    ) -> Vec<(Area, Vec<u8>)> {
        let mut areas = Vec::with_capacity(addrs.len());
        for (addr, bytes) in addrs.iter().zip(kernel.memory.read_vecs(addrs, self.bytes)) {
            match bytes {
                Ok(bytes) => areas.extend(self.parse(*addr, &bytes).map(|area| (area, bytes))),
                Err(source) => {
                    torn.get_or_insert(KernelError::Read { step: STEP, source });
                }
            }
        }
        areas
    }
}

/// Every mapping of `mm`.
///
/// # Errors
/// [`KernelError`] when a type or member is missing.
pub fn list(kernel: &Kernel, mm: &Mm) -> Result<AreaList, KernelError> {
    let types = kernel.types("the mappings of a process")?;
    let layout = Layout::resolve(types)?;
    let mut list = match mm.areas {
        Areas::Maple(root) => of_maple(kernel, &layout, &Maple::resolve(types)?, root),
        Areas::RedBlack { root, first } => of_tree(kernel, &layout, root, first),
    };
    list.areas.sort_unstable_by_key(|area| area.start);
    let overlap = list.areas.iter().zip(list.areas.iter().skip(1)).find(|(one, next)| one.end > next.start);
    let backwards = list.areas.iter().find(|area| area.end <= area.start);
    let wrong = match (overlap, backwards) {
        (Some((_, next)), _) => Some((next.addr, "it overlaps the mapping before it".to_owned())),
        (None, Some(area)) => Some((area.addr, format!("it ends at {}, where it begins", area.end))),
        (None, None) if list.areas.len() != mm.map_count as usize => {
            let reason = format!("{} mappings were found of {}", list.areas.len(), mm.map_count);
            Some((mm.addr, reason))
        }
        _ => None,
    };
    if let Some((addr, reason)) = wrong {
        list.torn.get_or_insert(KernelError::Inconsistent { step: STEP, addr, reason });
    }
    Ok(list)
}

/// The mapping that holds `addr`.
#[must_use]
pub fn containing(areas: &[Area], addr: VirtAddr) -> Option<&Area> {
    areas.iter().find(|area| area.start <= addr && addr < area.end)
}

fn of_maple(kernel: &Kernel, layout: &Layout, maple: &Maple, root: u64) -> AreaList {
    let found = maple.ranges(kernel, root);
    let mut torn = found.torn;
    let places: HashMap<VirtAddr, (u64, u64)> =
        found.ranges.iter().map(|range| (range.pointer, (range.first, range.last))).collect();
    let addrs: Vec<VirtAddr> = found.ranges.iter().map(|range| range.pointer).collect();
    if let Some(addr) = addrs.get(MAX_AREAS) {
        let reason = format!("{} mappings; the first {MAX_AREAS} were read", addrs.len());
        torn.get_or_insert(KernelError::Inconsistent { step: STEP, addr: *addr, reason });
    }
    let mut areas = Vec::new();
    // Not all at once: what is fetched is larger than what is kept.
    for part in addrs.get(..MAX_AREAS).unwrap_or(&addrs).chunks(BATCH) {
        for (area, _) in layout.fetch(kernel, part, &mut torn) {
            let place = (area.start.raw(), area.end.raw().wrapping_sub(1));
            match places.get(&area.addr) {
                Some(range) if *range == place => areas.push(area),
                _ => {
                    let reason = format!("it maps {}-{}, which is not its place", area.start, area.end);
                    torn.get_or_insert(KernelError::Inconsistent { step: STEP, addr: area.addr, reason });
                }
            }
        }
    }
    AreaList { areas, torn }
}

fn of_tree(kernel: &Kernel, layout: &Layout, root: VirtAddr, first: VirtAddr) -> AreaList {
    let mut list = AreaList { areas: Vec::new(), torn: None };
    let Some(links) = &layout.links else { return list };
    let area_of = |node: VirtAddr| Some(node.non_null()?.wrapping_sub(links.node));
    let Some(root) = area_of(root) else { return list };
    let mut next_of = HashMap::new();
    let visited = Visited::new(MAX_AREAS, "mappings", "a mapping is met twice");
    list.torn = tree::levels(
        kernel,
        (root, layout.bytes),
        (STEP, visited),
        |area| *area,
        |addr, bytes, below| {
            below
                .extend([&links.left, &links.right].into_iter().filter_map(|side| area_of(side.get(bytes)?)));
            next_of.insert(*addr, links.next.get(bytes).unwrap_or_default());
            list.areas.extend(layout.parse(*addr, bytes));
            Ok(())
        },
    );
    list.areas.sort_unstable_by_key(|area| area.start);
    let mut expected = first;
    for area in &list.areas {
        if area.addr != expected {
            let reason = format!("the list of mappings has {expected} in its place");
            list.torn.get_or_insert(KernelError::Inconsistent { step: STEP, addr: area.addr, reason });
            break;
        }
        expected = next_of.get(&area.addr).copied().unwrap_or_default();
    }
    list
}
