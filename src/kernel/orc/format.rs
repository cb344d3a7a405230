//! What an ORC entry says, whatever its format.

use crate::{
    kernel::structure::present,
    types::{Field, TypeError, TypeSource},
};

/// Functions of C, with an ordinary prologue, of which every kernel has some.
pub(super) const KNOWN_FUNCTIONS: &[&str] = &[
    "schedule",
    "panic",
    "do_exit",
    "vfs_read",
    "kmem_cache_alloc",
    "wake_up_process",
    "kfree",
    "mutex_lock",
];

/// No `struct orc_entry` has been longer than 6 bytes.
const MAX_ENTRY: u64 = 64;

/// How to get from a place in code to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// No table says anything of this code.
    Unknown,
    /// The table says that nothing is known: code that no stack can be unwound through.
    Undefined,
    /// The outermost frame of a stack.
    End,
    /// There is a caller.
    Frame {
        /// What stands at the place found.
        kind: FrameKind,
        /// The caller was interrupted: its address is that of an instruction and not a return address.
        signal: bool,
        /// What the place is computed from.
        base: Base,
        /// Added to the base, in bytes.
        offset: i64,
        /// The caller's frame pointer.
        frame_pointer: FramePointer,
    },
}

/// What stands at the place that a [`Rule::Frame`] leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// It is the caller's stack pointer; the return address is 8 bytes below it.
    Call,
    /// A whole `pt_regs`.
    Registers,
    /// Its end from `ip` on: what the processor pushes.
    InterruptFrame,
}

/// A register that a place is computed from; `...Indirect`: the word that it points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own names")]
pub enum Base {
    Rsp,
    Rbp,
    Rax,
    Rdx,
    Rdi,
    R10,
    R13,
    RspIndirect,
    RbpIndirect,
}

/// Where a caller's frame pointer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramePointer {
    /// It was not touched.
    Unchanged,
    /// At this distance from the place the rule leads to.
    AtFrame(i64),
    /// At this distance from where the frame pointer leads now.
    AtFramePointer(i64),
}

/// What the numbers of registers mean, from 1 on; 0 is none.
type Numbers = [Number; 10];

#[derive(Clone, Copy)]
enum Number {
    Base(Base),
    PreviousStack,
}

use Base::{R10, R13, Rax, Rbp, RbpIndirect, Rdi, Rdx, Rsp, RspIndirect};
use Number::{Base as B, PreviousStack};

/// `ORC_REG_*` as they were first numbered; 10 was added in 6.17.
const FIRST: Numbers =
    [PreviousStack, B(Rdx), B(Rdi), B(Rbp), B(Rsp), B(R10), B(R13), B(RbpIndirect), B(RspIndirect), B(Rax)];
/// As they are numbered since 7.1.
const SECOND: Numbers =
    [B(Rax), B(Rdx), B(Rsp), B(Rbp), B(Rdi), B(R10), B(R13), PreviousStack, B(RspIndirect), B(RbpIndirect)];

/// A function that was just called.
pub(super) const ENTERED: Rule = Rule::Frame {
    kind: FrameKind::Call,
    signal: false,
    base: Rsp,
    offset: 8,
    frame_pointer: FramePointer::Unchanged,
};

/// Where the members of `struct orc_entry` are.
pub(super) struct Layout {
    len: usize,
    sp_offset: Field<i64>,
    bp_offset: Field<i64>,
    sp_reg: Field<u64>,
    bp_reg: Field<u64>,
    kind: Field<u64>,
    /// Since ffb1b4a41016 (6.3).
    signal: Option<Field<u64>>,
    /// Since d31a580266ee (4.18), until fb799447ae29 (6.4) made a type of it and renumbered the others.
    end: Option<Field<u64>>,
}

impl Layout {
    pub(super) fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let member = |name| Field::<u64>::resolve(types, "orc_entry", name);
        let len = types.struct_size("orc_entry")?;
        let damaged = || TypeError::NoMember { container: "orc_entry".to_owned(), member: "type".to_owned() };
        Ok(Self {
            len: usize::try_from(len.min(MAX_ENTRY)).map_err(|_| damaged())?,
            sp_offset: Field::resolve(types, "orc_entry", "sp_offset")?,
            bp_offset: Field::resolve(types, "orc_entry", "bp_offset")?,
            sp_reg: member("sp_reg")?,
            bp_reg: member("bp_reg")?,
            kind: member("type")?,
            signal: present(member("signal"))?,
            end: present(member("end"))?,
        })
    }

    /// Bytes of an entry.
    pub(super) fn entry_len(&self) -> usize {
        self.len
    }

    /// Chooses the numbers of the registers by entries for the first instruction of functions; `None` when they fit no
    /// known ones.
    pub(super) fn calibrate(self, entries: impl Iterator<Item = Vec<u8>>) -> Option<Format> {
        let mut votes = [0_usize; 2];
        for entry in entries {
            for (vote, numbers) in votes.iter_mut().zip([&FIRST, &SECOND]) {
                if self.rule(numbers, &entry) == Some(ENTERED) {
                    *vote += 1;
                }
            }
        }
        let numbers = match votes {
            [0, 0] => return None,
            [first, second] if first >= second => &FIRST,
            _ => &SECOND,
        };
        Some(Format { layout: self, numbers })
    }

    fn rule(&self, numbers: &Numbers, entry: &[u8]) -> Option<Rule> {
        let number = |field: &Field<u64>| {
            let value = field.get(entry)?;
            let at = usize::try_from(value).ok()?.checked_sub(1);
            Some((value, at.and_then(|at| numbers.get(at))))
        };
        let ((sp_reg, base), kind) = (number(&self.sp_reg)?, self.kind.get(entry)?);
        let renumbered = self.end.is_none() && self.signal.is_some();
        let kind = match (renumbered, kind) {
            (false, _) if sp_reg == 0 => {
                let end = self.end.as_ref().map_or(Some(0), |end| end.get(entry))?;
                return Some(if end != 0 { Rule::End } else { Rule::Undefined });
            }
            (true, 0) => return Some(Rule::Undefined),
            (true, 1) => return Some(Rule::End),
            (false, 0) | (true, 2) => FrameKind::Call,
            (false, 1) | (true, 3) => FrameKind::Registers,
            (false, 2) | (true, 4) => FrameKind::InterruptFrame,
            _ => return None,
        };
        let Some(Number::Base(base)) = base.copied() else { return None };
        let signal = match &self.signal {
            Some(signal) => signal.get(entry)? != 0,
            None => kind != FrameKind::Call,
        };
        let bp_offset = self.bp_offset.get(entry)?;
        let frame_pointer = match number(&self.bp_reg)? {
            (0, _) => FramePointer::Unchanged,
            (_, Some(Number::PreviousStack)) => FramePointer::AtFrame(bp_offset),
            (_, Some(Number::Base(Rbp))) => FramePointer::AtFramePointer(bp_offset),
            _ => return None,
        };
        Some(Rule::Frame { kind, signal, base, offset: self.sp_offset.get(entry)?, frame_pointer })
    }
}

/// A [`Layout`] whose registers have names.
pub(super) struct Format {
    layout: Layout,
    numbers: &'static Numbers,
}

impl Format {
    pub(super) fn entry_len(&self) -> usize {
        self.layout.len
    }

    /// What an entry says; an impossible one says nothing.
    pub(super) fn rule(&self, entry: &[u8]) -> Rule {
        self.layout.rule(self.numbers, entry).unwrap_or(Rule::Undefined)
    }
}
