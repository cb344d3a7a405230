//! Families that are damaged or made to mislead, over memory that is a table of words.

use std::{collections::HashMap, sync::Arc};

use super::*;
use crate::{
    kernel::testing::{Structs, kernel},
    paging::{Translation, VirtFault, VirtMem, VirtOp},
};

const CHILDREN: u64 = 0x10;
const SIBLING: u64 = 0x20;
const PARENT: u64 = 0x30;
const NODE: u64 = 0x40;
const SIGNAL: u64 = 0x50;
const HEAD: u64 = 0x18;

/// The `n`th task; 0 is `init_task`.
const fn task(n: u64) -> u64 {
    0xffff_8880_0000_0000 + n * 0x1000
}

#[derive(Default)]
struct Words(HashMap<u64, u64>);

impl VirtMem for Words {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        for op in ops {
            op.result = match self.0.get(&op.addr.raw()) {
                Some(word) => {
                    op.buf.copy_from_slice(&word.to_le_bytes());
                    Ok(())
                }
                None => Err(VirtError { addr: op.addr, len: op.buf.len(), fault: VirtFault::NonCanonical }),
            };
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        Err(VirtError { addr, len: 1, fault: VirtFault::NotAttempted })
    }
}

impl Words {
    /// A task with its own lists empty.
    fn add(&mut self, n: u64, parent: u64) {
        let at = task(n);
        let own = [(CHILDREN, at + CHILDREN), (SIBLING, at + SIBLING), (PARENT, task(parent))];
        let signal = at + 0x800;
        for (offset, value) in own.into_iter().chain([(NODE, signal + HEAD), (SIGNAL, signal)]) {
            self.0.insert(at + offset, value);
        }
    }

    /// Tasks `children` of `parent`, in that order.
    fn family(&mut self, parent: u64, children: &[u64]) {
        let mut link = task(parent) + CHILDREN;
        for child in children {
            self.add(*child, parent);
            self.0.insert(link, task(*child) + SIBLING);
            link = task(*child) + SIBLING;
        }
        self.0.insert(link, task(parent) + CHILDREN);
    }

    /// `thread` as the second thread of `leader`.
    fn thread(&mut self, leader: u64, thread: u64) {
        self.add(thread, 0);
        self.0.insert(task(leader) + NODE, task(thread) + NODE);
        let signal = task(leader) + 0x800;
        self.0.insert(task(thread) + SIGNAL, signal);
        self.0.insert(task(thread) + NODE, signal + HEAD);
    }

    fn set(&mut self, n: u64, offset: u64, value: u64) {
        self.0.insert(task(n) + offset, value);
    }
}

/// 0 has the children 1 and 2, 1 has 3 and 4.
fn words() -> Words {
    let mut words = Words::default();
    words.add(0, 0);
    words.family(0, &[1, 2]);
    words.family(1, &[3, 4]);
    words
}

/// Numbers of the tasks in order, and what is wrong.
fn walked(words: Words) -> (Vec<u64>, Option<String>) {
    let members = [
        ("children", CHILDREN, 8),
        ("sibling", SIBLING, 8),
        ("real_parent", PARENT, 8),
        ("thread_node", NODE, 8),
        ("signal", SIGNAL, 8),
    ];
    let types = Structs::new().add("task_struct", 0x800, &members).add(
        "signal_struct",
        0x100,
        &[("thread_head", HEAD, 8)],
    );
    let kernel = kernel(Arc::new(words), Arc::new(types), VirtAddr::new(task(0)));
    let (order, torn) = depth_first(&kernel).unwrap();
    let number = |addr: VirtAddr| (addr.raw() - task(0)) / 0x1000;
    (order.into_iter().map(number).collect(), torn.map(|error| error.to_string()))
}

#[track_caller]
fn check_torn(words: Words, order: &[u64], said: &str) {
    let (found, torn) = walked(words);
    assert_eq!(found, order);
    let torn = torn.unwrap();
    assert!(torn.starts_with(STEP) && torn.contains(said), "{torn}");
}

#[test]
fn parents_stand_before_their_children() {
    assert_eq!(walked(words()), (vec![0, 1, 3, 4, 2], None));
}

#[test]
fn what_a_thread_forked_is_its_process_child() {
    let mut words = words();
    words.thread(1, 5);
    words.family(5, &[6]);
    words.family(6, &[7]);
    assert_eq!(walked(words), (vec![0, 1, 3, 4, 6, 7, 2], None));
}

#[test]
fn circles_are_met_once() {
    let mut own_child = words();
    own_child.set(2, CHILDREN, task(2) + SIBLING);
    check_torn(own_child, &[0, 1, 3, 4, 2], "a task is met twice");

    let mut own_sibling = words();
    own_sibling.set(3, SIBLING, task(3) + SIBLING);
    check_torn(own_sibling, &[0, 1, 3, 2], "a task is met twice");

    let mut grandparent = words();
    grandparent.set(4, CHILDREN, task(1) + SIBLING);
    check_torn(grandparent, &[0, 1, 3, 4, 2], "a task is met twice");

    let mut siblings = words();
    siblings.set(4, SIBLING, task(3) + SIBLING);
    check_torn(siblings, &[0, 1, 3, 4, 2], "a task is met twice");

    let mut threads = words();
    threads.thread(1, 5);
    threads.set(5, NODE, task(5) + NODE);
    check_torn(threads, &[0, 1, 3, 4, 2], "a task is met twice");
}

#[test]
fn another_parents_child_is_not_taken() {
    let mut words = words();
    words.set(4, PARENT, task(2));
    let said = format!("has the parent {}", VirtAddr::new(task(2)));
    check_torn(words, &[0, 1, 3, 2], &said);
}

#[test]
fn a_list_into_nowhere_costs_only_its_tail() {
    for poison in [0, 0xdead_0000_0000_0100, u64::MAX] {
        let mut words = words();
        words.set(3, SIBLING, poison);
        check_torn(words, &[0, 1, 3, 2], "cannot read 8 bytes at virtual address");
    }
    let mut unreadable = words();
    unreadable.0.remove(&(task(1) + CHILDREN));
    check_torn(unreadable, &[0, 1, 2], "cannot read 8 bytes at virtual address");
}

#[test]
fn long_chains_end() {
    const LONG: u64 = 100_000;
    let mut brothers = Words::default();
    brothers.add(0, 0);
    brothers.family(0, &(1..=LONG).collect::<Vec<_>>());
    let (order, torn) = walked(brothers);
    // Too long to be printed.
    assert!(order.into_iter().eq(0..=LONG));
    assert_eq!(torn, None);

    let mut descendants = Words::default();
    descendants.add(0, 0);
    for child in 1..=LONG {
        descendants.family(child - 1, &[child]);
    }
    descendants.set(LONG, CHILDREN, task(LONG / 2) + SIBLING);
    let (order, torn) = walked(descendants);
    assert!(order.into_iter().eq(0..=LONG));
    assert!(torn.unwrap().contains("a task is met twice"));
}
