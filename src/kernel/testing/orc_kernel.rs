//! A kernel small enough to be corrupted a million times: code with ORC tables, tasks with stacks, one CPU.
//!
//! All of it is one stretch of memory that begins with the code, so that a test finds and damages any part of it.

use std::{collections::BTreeMap, sync::Arc};

use super::{Flat, Structs, kernel};
use crate::{
    addr::{LinkAddr, PhysRange, VirtAddr},
    kernel::Kernel,
    paging::{Translation, VirtError, VirtMem, VirtOp},
    symbols::{Relocated, Symbol, SymbolKind, SymbolRef, SymbolTable},
    types::TypeSource,
};

pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
/// Bytes of each function.
const FUNCTION: u64 = 0x100;
/// Where in a function its only call returns to.
pub(crate) const RETURN: u64 = 0x40;
pub(crate) const FUNCTIONS: [&str; 10] = [
    "entry_SYSCALL_64",
    "ret_from_fork",
    "schedule",
    "vfs_read",
    "ksys_read",
    "do_syscall_64",
    "kthread",
    "panic",
    "stop_this_cpu",
    "asm_sysvec_reboot",
];
/// Offsets from the start of the code.
pub(crate) const LOOKUP: u64 = 0x1000;
pub(crate) const IPS: u64 = 0x1100;
pub(crate) const ENTRIES: u64 = 0x1400;
pub(crate) const VARIABLES: u64 = 0x1800;
pub(crate) const TASKS: u64 = 0x2000;
/// A module's code, behind all tasks; what it has besides follows.
pub(crate) const MODULE: u64 = 0x4000;
const MODULE_IPS: u64 = MODULE + FUNCTION;
const MODULE_ENTRIES: u64 = MODULE_IPS + 0x10;
const MODULE_STRUCT: u64 = MODULE_ENTRIES + 0x10;
const MODULES: u64 = MODULE_STRUCT + 0x80;
/// Of a `module_memory` or `module_layout`.
const MEMORY_LEN: u64 = 16;
/// A trampoline of ftrace, a copy of [`TRACED`], and the list of it alone.
pub(crate) const TRAMPOLINE: u64 = 0x5000;
const FTRACE_OPS: u64 = TRAMPOLINE + FUNCTION;
const FTRACE_LIST: u64 = FTRACE_OPS + 0x80;
/// The function that stands for `ftrace_regs_caller`.
const TRACED: &str = "vfs_read";
/// Bytes of its function's frame, its return address not among them.
const MODULE_FRAME: u64 = 24;
pub(crate) const STACKS: u64 = 0x8000;
pub(crate) const STACK_LEN: u64 = 0x4000;
pub(crate) const LEN: u64 = STACKS + 3 * STACK_LEN;
const PT_REGS: u64 = 168;

/// Which numbers an entry is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Neither: to 4.17.
    First,
    /// `end`, no `signal`: to 6.2.
    End,
    /// `end` and `signal`: 6.3.
    Signal,
    /// Types for both ends: from 6.4.
    Types,
    /// The same with other registers: from 7.1.
    Renumbered,
}

pub(crate) const FORMATS: [Format; 4] = [Format::End, Format::Signal, Format::Types, Format::Renumbered];

/// An entry before it is packed.
#[derive(Clone, Copy)]
enum Entry {
    Call(i16),
    Regs(i16),
    End,
}

impl Format {
    fn pack(self, entry: Entry) -> [u8; 6] {
        let new = matches!(self, Self::Types | Self::Renumbered);
        let rsp = if self == Self::Renumbered { 3_u16 } else { 5 };
        let (offset, sp_reg, kind, signal, end) = match entry {
            Entry::Call(offset) => (offset, rsp, if new { 2 } else { 0 }, 0, 0),
            Entry::Regs(offset) => (offset, rsp, if new { 3 } else { 1 }, 1, 0),
            Entry::End => (0, 0, u16::from(new), 0, 1),
        };
        let flags = match self {
            Self::First => kind,
            Self::End => kind | end << 2,
            Self::Signal => kind | signal << 2 | end << 3,
            Self::Types | Self::Renumbered => kind | signal << 3,
        };
        let [o0, o1] = offset.to_le_bytes();
        let [f0, f1] = (sp_reg | flags << 8).to_le_bytes();
        [o0, o1, 0, 0, f0, f1]
    }

    fn types(self) -> Structs {
        let mut members = vec![
            ("sp_offset", 0, 16, true),
            ("bp_offset", 16, 16, true),
            ("sp_reg", 32, 4, false),
            ("bp_reg", 36, 4, false),
        ];
        members.extend(match self {
            Self::First => vec![("type", 40, 2, false)],
            Self::End => vec![("type", 40, 2, false), ("end", 42, 1, false)],
            Self::Signal => vec![("type", 40, 2, false), ("signal", 42, 1, false), ("end", 43, 1, false)],
            Self::Types | Self::Renumbered => vec![("type", 40, 3, false), ("signal", 43, 1, false)],
        });
        let words = |names: &[&'static str]| -> Vec<(&str, u64, u64)> {
            names.iter().zip((0..).step_by(8)).map(|(name, at)| (*name, at, 8)).collect()
        };
        let frame = words(&["r15", "r14", "r13", "r12", "bx", "bp", "ret_addr"]);
        let regs = words(&[
            "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
            "orig_ax", "ip", "cs", "flags", "sp", "ss",
        ]);
        let mut module = vec![
            ("list.next", 16, 8),
            ("name", 24, 8),
            ("state", 32, 4),
            ("arch.num_orcs", 36, 4),
            ("arch.orc_unwind_ip", 40, 8),
            ("arch.orc_unwind", 48, 8),
        ];
        let area = |names: [&'static str; 3], at: u64| {
            [(names[0], at, 8), (names[1], at + 8, 4), (names[2], at + 12, 4)]
        };
        let memory = [("base", 0, 8), ("size", 8, 4)];
        let structs = if matches!(self, Self::Types | Self::Renumbered) {
            module.push(("mem", 56, 2 * MEMORY_LEN));
            Structs::new()
                .add("module_memory", MEMORY_LEN, &memory)
                .enumeration("mod_mem_type", &[("MOD_TEXT", 0), ("MOD_INIT_TEXT", 1)])
        } else {
            let core = ["core_layout.base", "core_layout.size", "core_layout.text_size"];
            let init = ["init_layout.base", "init_layout.size", "init_layout.text_size"];
            module.extend(area(core, 56));
            module.extend(area(init, 56 + MEMORY_LEN));
            Structs::new()
        };
        structs
            .add("module", 56 + 2 * MEMORY_LEN, &module)
            .add(
                "ftrace_ops",
                40,
                &[("list.next", 0, 8), ("flags", 8, 8), ("trampoline", 16, 8), ("trampoline_size", 24, 8)],
            )
            .add_bits("orc_entry", 6, &members)
            .add("inactive_task_frame", 56, &frame)
            .add("pt_regs", PT_REGS, &regs)
            .add(
                "task_struct",
                0x40,
                &[("stack", 8, 8), ("on_cpu", 16, 4), ("thread.sp", 24, 8), ("pid", 32, 4)],
            )
            .add("irq_stack", STACK_LEN, &[("stack", 0, 8)])
    }
}

/// Symbols by name; those of code have the size of a function.
pub(crate) struct Names(BTreeMap<String, u64>);

impl SymbolTable for Names {
    fn table_name(&self) -> &str {
        "test"
    }

    fn lookup(&self, name: &str) -> Option<Symbol> {
        let addr = LinkAddr::new(*self.0.get(name)?);
        Some(Symbol { name: name.to_owned(), addr, size: 0, kind: SymbolKind::Function })
    }

    fn containing(&self, addr: LinkAddr) -> Option<Symbol> {
        let at = addr.raw().checked_sub(TEXT)? / FUNCTION;
        self.lookup(FUNCTIONS.get(usize::try_from(at).ok()?)?)
    }

    fn zero_based_percpu(&self) -> Option<(LinkAddr, LinkAddr)> {
        None
    }

    fn for_each(&self, _: &mut dyn FnMut(SymbolRef<'_>)) {}
}

/// The address of a function.
pub(crate) fn function(name: &str) -> u64 {
    TEXT + FUNCTIONS.iter().position(|own| *own == name).unwrap() as u64 * FUNCTION
}

/// Bytes of a function's frame, its return address not among them.
fn frame_len(name: &str) -> u64 {
    8 * (1 + FUNCTIONS.iter().position(|own| *own == name).unwrap() as u64 % 4)
}

/// The memory, and where everything is.
#[derive(Clone)]
pub(crate) struct OrcKernel {
    pub(crate) bytes: Vec<u8>,
    pub(crate) format: Format,
}

/// How a stack begins, at its end.
#[derive(Clone, Copy)]
pub(crate) enum Outside {
    User,
    Thread,
}

impl OrcKernel {
    pub(crate) fn new(format: Format) -> Self {
        let mut made = Self { bytes: vec![0; LEN as usize], format };
        let mut count = 0;
        for (at, name) in (0..).step_by(FUNCTION as usize).zip(FUNCTIONS) {
            made.bytes[(at + RETURN - 5) as usize] = 0xe8;
            let inside = match name {
                "entry_SYSCALL_64" | "asm_sysvec_reboot" => Entry::Regs(frame_len(name) as i16),
                "ret_from_fork" => Entry::End,
                _ => Entry::Call(8 + frame_len(name) as i16),
            };
            for (offset, entry) in [(at, Entry::Call(8)), (at + 0x10, inside)] {
                let place = IPS + 4 * count;
                let distance = (TEXT + offset).wrapping_sub(TEXT + place) as i64 as i32;
                made.put(place, &distance.to_le_bytes());
                made.put(ENTRIES + 6 * count, &format.pack(entry));
                count += 1;
            }
        }
        for block in 0..=FUNCTIONS.len() as u64 {
            let first = (block * 2).min(count - 1) as u32;
            made.put(LOOKUP + 4 * block, &first.to_le_bytes());
        }
        made.put(VARIABLES, &u32::MAX.to_le_bytes());
        made.word(TEXT + MODULES, TEXT + MODULES);
        made.word(TEXT + FTRACE_LIST, TEXT + FTRACE_LIST);
        made
    }

    /// Loads a module: one function, of its start if it is `starting`, and a table of its own.
    pub(crate) fn load_module(&mut self, starting: bool) {
        self.put(MODULE + RETURN - 5, &[0xe8]);
        let entries = [(0, Entry::Call(8)), (0x10, Entry::Call(8 + MODULE_FRAME as i16))];
        for (at, (offset, entry)) in (0..).zip(entries) {
            let place = MODULE_IPS + 4 * at;
            let distance = (MODULE + offset).wrapping_sub(place) as i64 as i32;
            self.put(place, &distance.to_le_bytes());
            self.put(MODULE_ENTRIES + 6 * at, &self.format.pack(entry));
        }
        let memory = MODULE_STRUCT + 56 + if starting { MEMORY_LEN } else { 0 };
        self.word(TEXT + memory, TEXT + MODULE);
        self.put(memory + 8, &(FUNCTION as u32).to_le_bytes());
        self.put(memory + 12, &(FUNCTION as u32).to_le_bytes());
        self.word(TEXT + MODULE_STRUCT + 16, TEXT + MODULES);
        self.put(MODULE_STRUCT + 36, &(entries.len() as u32).to_le_bytes());
        self.word(TEXT + MODULE_STRUCT + 40, TEXT + MODULE_IPS);
        self.word(TEXT + MODULE_STRUCT + 48, TEXT + MODULE_ENTRIES);
        self.word(TEXT + MODULES, TEXT + MODULE_STRUCT + 16);
    }

    /// Makes a trampoline of ftrace.
    pub(crate) fn trace(&mut self) {
        let save_regs = 1 << 2;
        for (at, word) in [(0, TEXT + FTRACE_LIST), (8, save_regs), (16, TEXT + TRAMPOLINE), (24, FUNCTION)] {
            self.word(TEXT + FTRACE_OPS + at, word);
        }
        self.word(TEXT + FTRACE_LIST, TEXT + FTRACE_OPS);
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn word(&mut self, addr: u64, value: u64) {
        self.put(addr - TEXT, &value.to_le_bytes());
    }

    /// Writes a task that sleeps in `path`, outermost first, on stack number `number`.
    pub(crate) fn sleeper(&mut self, number: u64, outside: Outside, path: &[&str]) -> VirtAddr {
        let sp = self.stack(number, outside, path);
        self.sleeping_at(number, sp, path.last().unwrap())
    }

    /// As [`OrcKernel::sleeper`], the last function of `path` having called the module's, and that one `last`.
    pub(crate) fn sleeper_in_module(&mut self, outside: Outside, path: &[&str], last: &str) -> VirtAddr {
        self.sleeper_through((MODULE, MODULE_FRAME), outside, path, last)
    }

    /// The same with a trampoline of ftrace.
    pub(crate) fn sleeper_traced(&mut self, outside: Outside, path: &[&str], last: &str) -> VirtAddr {
        self.sleeper_through((TRAMPOLINE, frame_len(TRACED)), outside, path, last)
    }

    fn sleeper_through(
        &mut self,
        (code, code_frame): (u64, u64),
        outside: Outside,
        path: &[&str],
        last: &str,
    ) -> VirtAddr {
        let mut sp = self.stack(0, outside, path);
        for (place, frame) in [(function(path.last().unwrap()), code_frame), (TEXT + code, frame_len(last))] {
            sp -= 8;
            self.word(sp, place + RETURN);
            sp -= frame;
        }
        self.sleeping_at(0, sp, last)
    }

    fn sleeping_at(&mut self, number: u64, sp: u64, last: &str) -> VirtAddr {
        let task = TEXT + TASKS + number * 0x100;
        let sp = sp - 56;
        self.word(sp + 48, function(last) + RETURN);
        self.word(task + 8, TEXT + STACKS + number * STACK_LEN);
        self.word(task + 24, sp);
        VirtAddr::new(task)
    }

    /// Fills stack number `number` with the calls of `path`; returns where the next one would push.
    pub(crate) fn stack(&mut self, number: u64, outside: Outside, path: &[&str]) -> u64 {
        let top = TEXT + STACKS + (number + 1) * STACK_LEN;
        let mut sp = top - PT_REGS;
        if matches!(outside, Outside::User) {
            for (offset, value) in
                [(80, 7), (128, 0x40_1000), (136, 0x33), (144, 0x246), (152, 0x7ffd_0000), (160, 0x2b)]
            {
                self.word(sp + offset, value);
            }
        }
        for (at, name) in path.iter().enumerate() {
            sp -= frame_len(name);
            if at + 1 < path.len() {
                sp -= 8;
                self.word(sp, function(name) + RETURN);
            }
        }
        sp
    }

    pub(crate) fn kernel(&self) -> Kernel {
        self.kernel_of(Arc::new(Flat { start: VirtAddr::new(TEXT), bytes: self.bytes.clone() }))
    }

    fn kernel_of(&self, memory: Arc<dyn VirtMem>) -> Kernel {
        let types: Arc<dyn TypeSource> = Arc::new(self.format.types());
        let count = 2 * FUNCTIONS.len() as u64;
        let code_end = TEXT + FUNCTIONS.len() as u64 * FUNCTION;
        let places = [
            ("_stext", TEXT),
            ("_etext", code_end),
            ("orc_lookup", TEXT + LOOKUP),
            ("orc_lookup_end", TEXT + LOOKUP + 4 * (FUNCTIONS.len() as u64 + 1)),
            ("__start_orc_unwind_ip", TEXT + IPS),
            ("__stop_orc_unwind_ip", TEXT + IPS + 4 * count),
            ("__start_orc_unwind", TEXT + ENTRIES),
            ("__stop_orc_unwind", TEXT + ENTRIES + 6 * count),
            ("modules", TEXT + MODULES),
            ("ftrace_ops_trampoline_list", TEXT + FTRACE_LIST),
            ("ftrace_regs_caller", function(TRACED)),
            ("panic_cpu", TEXT + VARIABLES),
            ("hardirq_stack_ptr", TEXT + VARIABLES + 8),
        ];
        let functions = FUNCTIONS.map(|name| (name, function(name)));
        let names = places.into_iter().chain(functions).map(|(name, addr)| (name.to_owned(), addr)).collect();
        let mut made = kernel(memory, types, VirtAddr::new(TEXT + TASKS));
        made.symbols = Some(Relocated::new(Box::new(Names(names)), 0));
        made.map.text = VirtAddr::new(TEXT);
        made.map.image = PhysRange::with_len(made.map.image.start, STACKS).unwrap();
        made
    }
}

/// As [`Flat`], without bytes of its own: for memory that is damaged and mended many times.
pub(crate) struct Shared(pub(crate) Arc<std::sync::Mutex<Vec<u8>>>);

impl VirtMem for Shared {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        let bytes = self.0.lock().unwrap();
        for op in ops {
            let start = op.addr.raw().wrapping_sub(TEXT) as usize;
            let found = start.checked_add(op.buf.len()).and_then(|end| bytes.get(start..end));
            op.result = match found {
                Some(found) => {
                    op.buf.copy_from_slice(found);
                    Ok(())
                }
                None => {
                    let fault = crate::paging::VirtFault::NonCanonical;
                    Err(VirtError { addr: op.addr, len: op.buf.len(), fault })
                }
            };
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        Err(VirtError { addr, len: 0, fault: crate::paging::VirtFault::NonCanonical })
    }
}

impl OrcKernel {
    /// A kernel over memory that the caller goes on changing.
    pub(crate) fn shared(&self) -> (Kernel, Arc<std::sync::Mutex<Vec<u8>>>) {
        let bytes = Arc::new(std::sync::Mutex::new(self.bytes.clone()));
        (self.kernel_of(Arc::new(Shared(Arc::clone(&bytes)))), bytes)
    }
}
