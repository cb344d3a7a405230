//! The kernel's log, in either of its forms (kernel/printk/printk.c, printk_ringbuffer.c, and kernels before
//! 5.10): messages are stored one after the other, so that a log longer than the buffer wraps as it would.

use std::collections::VecDeque;

use super::{Boot, Object};
use crate::{
    addr::VirtAddr,
    machine::{
        self, MachineError,
        description::{LogLine, Printk},
    },
};

/// `LOG_NEWLINE`
const NEWLINE: u8 = 2;
/// States of a descriptor, in the top two bits of `state_var`.
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
const REUSABLE: u64 = 3;
const STATE_SHIFT: u32 = 62;
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
/// Bytes of the id that starts each data block.
const BLOCK_HEADER: u64 = 8;
/// `SYSLOG_FACILITY` of the kernel.
const FACILITY: u8 = 0;
/// A caller that is a task has this bit clear; 1 stands for pid 1.
const CALLER: u32 = 1;

impl Boot<'_> {
    pub(super) fn write_log(&mut self) -> Result<(), MachineError> {
        let log = self.description.log.clone();
        match self.description.printk {
            Printk::Ring { text_bits } => self.write_ring(&log, text_bits),
            Printk::Records { buffer_bits } => self.write_records(&log, buffer_bits),
        }
    }

    fn write_ring(&mut self, log: &[LogLine], text_bits: u32) -> Result<(), MachineError> {
        let count_bits = machine::desc_bits(text_bits);
        let mut ring = Ring::new(count_bits, text_bits);
        let text = self.symbol("__log_buf")?;
        let descs = self.global("prb_desc", "_printk_rb_static_descs")?;
        let infos = self.global("printk_info", "_printk_rb_static_infos")?;
        for (seq, line) in log.iter().enumerate() {
            let (slot, begin, block) = ring.reserve(line.text.len() as u64)?;
            for start in [begin, block] {
                self.write(text.wrapping_add(start), &ring.head_id.to_le_bytes())?;
            }
            self.write(text.wrapping_add(block + BLOCK_HEADER), line.text.as_bytes())?;
            let info = self.element(infos, slot)?;
            self.set(info, "seq", seq)?;
            self.set(info, "ts_nsec", line.ts_nsec)?;
            self.set(info, "text_len", line.text.len())?;
            self.set(info, "facility", FACILITY)?;
            self.set(info, "flags", NEWLINE)?;
            self.set(info, "level", line.level)?;
            self.set(info, "caller_id", CALLER)?;
        }
        for (slot, desc) in ring.descs.iter().enumerate() {
            let object = self.element(descs, slot)?;
            self.set(object, "state_var", desc.state_var)?;
            self.set(object, "text_blk_lpos.begin", desc.begin)?;
            self.set(object, "text_blk_lpos.next", desc.next)?;
        }
        let kept = ring.kept();
        self.truth.log = log.get(log.len() - kept..).unwrap_or_default().to_vec();
        let rb = self.global("printk_ringbuffer", "printk_rb_static")?;
        self.set(rb, "desc_ring.count_bits", count_bits)?;
        self.set(rb, "desc_ring.descs", descs.addr)?;
        self.set(rb, "desc_ring.infos", infos.addr)?;
        self.set(rb, "desc_ring.head_id", ring.head_id)?;
        self.set(rb, "desc_ring.tail_id", ring.tail_id)?;
        self.set_if(rb, "desc_ring.last_finalized_seq", log.len().saturating_sub(2))?;
        self.set(rb, "text_data_ring.size_bits", text_bits)?;
        self.set(rb, "text_data_ring.data", text)?;
        self.set(rb, "text_data_ring.head_lpos", ring.head_lpos)?;
        self.set(rb, "text_data_ring.tail_lpos", ring.tail_lpos)?;
        self.set_global("prb", rb.addr)?;
        self.set_global("log_buf", text)?;
        self.set_global("log_buf_len", 1_u64 << text_bits)
    }

    fn write_records(&mut self, log: &[LogLine], buffer_bits: u32) -> Result<(), MachineError> {
        let (buffer, len) = (self.symbol("__log_buf")?, 1_u64 << buffer_bits);
        let header = self.after(Object { ty: "printk_log", addr: VirtAddr::NULL })?.raw();
        let mut records = Records { len, header, first: 0, next: 0, held: VecDeque::new() };
        for line in log {
            let size = (header + line.text.len() as u64).next_multiple_of(4);
            let (wrapped, at) = records.store(size)?;
            if let Some(mark) = wrapped {
                self.write(buffer.wrapping_add(mark), &[0; 16])?;
            }
            let record = Object { ty: "printk_log", addr: buffer.wrapping_add(at) };
            self.set(record, "ts_nsec", line.ts_nsec)?;
            self.set(record, "len", size)?;
            self.set(record, "text_len", line.text.len())?;
            self.set(record, "dict_len", 0)?;
            self.set(record, "facility", FACILITY)?;
            self.set(record, "flags", NEWLINE)?;
            self.set(record, "level", line.level)?;
            self.write(record.addr.wrapping_add(header), line.text.as_bytes())?;
        }
        let first_seq = log.len() - records.held.len();
        self.truth.log = log.get(first_seq..).unwrap_or_default().to_vec();
        self.set_global("log_buf", buffer)?;
        self.set_global("log_buf_len", len)?;
        self.set_global("log_first_seq", first_seq)?;
        self.set_global("log_first_idx", records.first)?;
        self.set_global("log_next_seq", log.len())?;
        self.set_global("log_next_idx", records.next)
    }

    fn element(&self, array: Object, index: usize) -> Result<Object, MachineError> {
        let size = self.after(array)?.wrapping_offset_from(array.addr);
        Ok(Object { addr: array.addr.wrapping_add(size * index as u64), ..array })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Desc {
    state_var: u64,
    begin: u64,
    next: u64,
}

/// The lockless ring of descriptors and the ring of text blocks they point to.
struct Ring {
    descs: Vec<Desc>,
    size: u64,
    head_id: u64,
    tail_id: u64,
    head_lpos: u64,
    tail_lpos: u64,
}

impl Ring {
    /// As it is before the first message: ids and positions start one lap below zero.
    fn new(count_bits: u32, text_bits: u32) -> Self {
        let (count, size) = (1_u64 << count_bits, 1_u64 << text_bits);
        let first_id = (count + 1).wrapping_neg() & ID_MASK;
        let mut descs = vec![Desc::default(); count as usize];
        if let Some(last) = descs.last_mut() {
            // Position 1 stands for a record without data.
            *last = Desc { state_var: first_id | REUSABLE << STATE_SHIFT, begin: 1, next: 1 };
        }
        let lpos = size.wrapping_neg();
        Self { descs, size, head_id: first_id, tail_id: first_id, head_lpos: lpos, tail_lpos: lpos }
    }

    fn slot(&self, id: u64) -> usize {
        (id % self.descs.len() as u64) as usize
    }

    fn desc(&mut self, id: u64) -> Result<&mut Desc, MachineError> {
        let slot = self.slot(id);
        self.descs.get_mut(slot).ok_or_else(|| super::wrong("an empty printk ring"))
    }

    fn set_state(&mut self, id: u64, state: u64) -> Result<(), MachineError> {
        self.desc(id)?.state_var = id | state << STATE_SHIFT;
        Ok(())
    }

    /// Takes the next descriptor and a block for `len` bytes of text: the descriptor's slot, where the block
    /// begins in the buffer, and where its data is: the same unless it wraps.
    fn reserve(&mut self, len: u64) -> Result<(usize, u64, u64), MachineError> {
        let id = (self.head_id + 1) & ID_MASK;
        if self.tail_id == id.wrapping_sub(self.descs.len() as u64) & ID_MASK {
            self.drop_oldest_text(self.tail_id)?;
            self.tail_id = (self.tail_id + 1) & ID_MASK;
        }
        if self.desc(self.head_id)?.state_var >> STATE_SHIFT == COMMITTED {
            self.set_state(self.head_id, FINALIZED)?;
        }
        self.head_id = id;
        let len = (BLOCK_HEADER + len).next_multiple_of(8);
        if len > self.size / 4 {
            return Err(super::wrong("a message too long for the log buffer"));
        }
        let begin = self.head_lpos;
        // A block that would straddle the end of the buffer starts at its beginning instead.
        let mut next = begin.wrapping_add(len);
        let wraps = begin / self.size != next / self.size;
        if wraps {
            next = (next & !(self.size - 1)).wrapping_add(len);
        }
        while next.wrapping_sub(self.tail_lpos) > self.size {
            let oldest = self.oldest_with_text()?;
            self.drop_oldest_text(oldest)?;
        }
        self.head_lpos = next;
        *self.desc(id)? = Desc { state_var: id | COMMITTED << STATE_SHIFT, begin, next };
        let begin = begin & (self.size - 1);
        Ok((self.slot(id), begin, if wraps { 0 } else { begin }))
    }

    fn oldest_with_text(&mut self) -> Result<u64, MachineError> {
        let (mut id, head) = (self.tail_id, self.head_id);
        while id != head {
            if self.desc(id)?.state_var >> STATE_SHIFT != REUSABLE {
                return Ok(id);
            }
            id = (id + 1) & ID_MASK;
        }
        Err(super::wrong("a message too long for the log buffer"))
    }

    /// Frees the text of a descriptor that still has some.
    fn drop_oldest_text(&mut self, id: u64) -> Result<(), MachineError> {
        let desc = *self.desc(id)?;
        if desc.state_var >> STATE_SHIFT != REUSABLE {
            self.set_state(id, REUSABLE)?;
            self.tail_lpos = desc.next;
        }
        Ok(())
    }

    /// Messages that can still be read.
    fn kept(&self) -> usize {
        let live = |desc: &&Desc| matches!(desc.state_var >> STATE_SHIFT, COMMITTED | FINALIZED);
        self.descs.iter().filter(live).count()
    }
}

/// The buffer of records before 5.10.
struct Records {
    len: u64,
    header: u64,
    first: u64,
    next: u64,
    /// Position and size of the records still there, oldest first.
    held: VecDeque<(u64, u64)>,
}

impl Records {
    /// Makes room for `size` bytes: where a mark says that the rest of the buffer is unused, and where the
    /// record goes.
    fn store(&mut self, size: u64) -> Result<(Option<u64>, u64), MachineError> {
        while !self.has_room(size) {
            let oldest = self.held.pop_front();
            let (at, size) = oldest.ok_or_else(|| super::wrong("a message too long for the log buffer"))?;
            self.first = at + size;
        }
        let wraps = self.next + size + self.header > self.len;
        let mark = wraps.then_some(self.next);
        let at = if wraps { 0 } else { self.next };
        self.held.push_back((at, size));
        self.next = at + size;
        Ok((mark, at))
    }

    /// Whether the record and the mark that may have to follow it fit.
    fn has_room(&self, size: u64) -> bool {
        let free = if self.held.is_empty() || self.next > self.first {
            (self.len - self.next).max(self.first)
        } else {
            self.first - self.next
        };
        free >= size + self.header
    }
}
