//! Tasks by number (kernel/pid.c): the IDR of the first pid namespace, an XArray (lib/xarray.c).

use std::collections::BTreeMap;

use super::{Boot, Object};
use crate::{addr::VirtAddr, machine::MachineError};

/// Slots of a node (`XA_CHUNK_SIZE`).
const CHUNK: u64 = 64;
/// Its logarithm (`XA_CHUNK_SHIFT`).
const BITS: u32 = 6;
/// What marks an entry as a node (`xa_mk_internal`).
const NODE: u64 = 2;

impl Boot<'_> {
    pub(super) fn number_tasks(&mut self) -> Result<(), MachineError> {
        let namespace = self.global("pid_namespace", "init_pid_ns")?;
        let mut entries = BTreeMap::new();
        let numbered: Vec<(u32, VirtAddr)> =
            self.truth.tasks.iter().filter(|task| task.pid != 0).map(|task| (task.pid, task.addr)).collect();
        for (number, task) in numbered {
            let task = Object { ty: "task_struct", addr: task };
            let pid = self.alloc_object("pid")?;
            let link = Object { ty: "hlist_node", addr: self.at(task, "pid_links")? };
            self.set(pid, "count", 1)?;
            self.set(pid, "numbers.nr", number)?;
            self.set(pid, "numbers.ns", namespace.addr)?;
            self.set(pid, "tasks.first", link.addr)?;
            self.set(link, "pprev", self.at(pid, "tasks.first")?)?;
            self.set(task, "thread_pid", pid.addr)?;
            entries.insert(u64::from(number), pid.addr.raw());
        }
        self.set(namespace, "pid_allocated", entries.len())?;
        let head = self.grow_array(self.at(namespace, "idr.idr_rt")?, entries)?;
        self.set(namespace, "idr.idr_rt.xa_head", head)
    }

    /// The nodes above `entries`, level by level; returns the head of the array.
    fn grow_array(&mut self, array: VirtAddr, mut entries: BTreeMap<u64, u64>) -> Result<u64, MachineError> {
        let mut shift = 0;
        loop {
            let mut above = BTreeMap::new();
            for (index, entry) in entries {
                let node = match above.get(&(index / CHUNK)) {
                    Some(node) => node - NODE,
                    None => {
                        let node = self.alloc_object("xa_node")?;
                        self.set(node, "shift", shift)?;
                        self.set(node, "offset", index / CHUNK % CHUNK)?;
                        self.set(node, "array", array)?;
                        above.insert(index / CHUNK, node.addr.raw() + NODE);
                        node.addr.raw()
                    }
                };
                let node = Object { ty: "xa_node", addr: VirtAddr::new(node) };
                let slot = self.at(node, "slots")?.wrapping_add(index % CHUNK * 8);
                self.write_word(slot, entry.into(), 8)?;
                if shift > 0 {
                    let child = Object { ty: "xa_node", addr: VirtAddr::new(entry - NODE) };
                    self.set(child, "parent", node.addr)?;
                }
            }
            if above.keys().all(|index| *index == 0) {
                return Ok(above.into_values().next().unwrap_or(0));
            }
            (entries, shift) = (above, shift + BITS);
        }
    }
}
