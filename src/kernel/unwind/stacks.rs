//! Stacks as they were when they were read.

use crate::addr::{PAGE_SIZE, VirtAddr};

/// What a stack is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StackKind {
    /// The task's own.
    Task,
    /// A CPU's for interrupts.
    Irq,
    /// A CPU's for one kind of exception (`NMI`, `DF`, `DB`, `MCE`...).
    Exception,
}

/// A piece of a stack, up to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// What it is for.
    pub kind: StackKind,
    /// Address of the first byte.
    pub start: VirtAddr,
    /// From there to the stack's end.
    pub bytes: Vec<u8>,
}

impl Stack {
    /// The address behind its last byte, from which it grows down.
    #[must_use]
    pub fn end(&self) -> VirtAddr {
        self.start.wrapping_add(self.bytes.len() as u64)
    }

    /// Addresses and values of its words, lowest first.
    pub fn words(&self) -> impl Iterator<Item = (VirtAddr, u64)> + '_ {
        let addrs = (0..).step_by(8).map(|at| self.start.wrapping_add(at));
        addrs.zip(self.bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)))
    }

    fn get(&self, addr: VirtAddr, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(addr.wrapping_offset_from(self.start)).ok()?;
        self.bytes.get(at..at.checked_add(len)?)
    }
}

/// The stacks that a walk may go over: a task's, and those of the CPU it runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stacks(Vec<Stack>);

impl Stacks {
    /// `stacks` that do not overlap.
    #[must_use]
    pub fn new(stacks: Vec<Stack>) -> Self {
        Self(stacks)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Stack> {
        self.0.iter()
    }

    /// Bytes of one stack.
    #[must_use]
    pub fn get(&self, addr: VirtAddr, len: usize) -> Option<&[u8]> {
        self.0.iter().find_map(|stack| stack.get(addr, len))
    }

    /// A word of one stack.
    #[must_use]
    pub fn word(&self, addr: VirtAddr) -> Option<u64> {
        let bytes = self.get(addr, 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The stack that holds the byte at `addr`.
    #[must_use]
    pub fn holding(&self, addr: VirtAddr) -> Option<&Stack> {
        self.0.get(self.position(addr)?)
    }

    pub(super) fn position(&self, addr: VirtAddr) -> Option<usize> {
        self.0.iter().position(|stack| stack.get(addr, 1).is_some())
    }

    /// As [`Stacks::position`]; the place behind the last byte of stack number `current` is of it too.
    pub(super) fn position_or_end(&self, addr: VirtAddr, current: Option<usize>) -> Option<usize> {
        let at_end = |at: &usize| self.0.get(*at).is_some_and(|stack| stack.end() == addr);
        current.filter(at_end).or_else(|| self.position(addr))
    }

    /// The task's stack, when `addr` is in the guard page below it: what is interrupted there was about to use more than
    /// there is, and all that it was called from is above.
    pub(super) fn overflowed(&self, addr: VirtAddr) -> Option<usize> {
        let below = |stack: &Stack| stack.start.wrapping_offset_from(addr) <= PAGE_SIZE;
        self.0.iter().position(|stack| stack.kind == StackKind::Task && below(stack))
    }

    pub(super) fn kind(&self, at: usize) -> StackKind {
        self.0.get(at).map_or(StackKind::Task, |stack| stack.kind)
    }
}
