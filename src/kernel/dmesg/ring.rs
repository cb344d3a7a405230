//! The lockless printk ring of 5.10 and later (`kernel/printk/printk_ringbuffer.h`).
//!
//! Descriptors and infos are two arrays indexed by `id % 2^count_bits`; text lies in a byte ring addressed by
//! logical positions that only grow. A descriptor is used if it still carries the id looked for and is committed
//! or finalized; its text block must begin with that id. One that is reserved, or reusable, has no message (yet): what the
//! kernel is writing at the moment is no loss. A block that would cross the end of the byte ring lies
//! at its start instead.

use super::{Log, MAX_RECORDS, MAX_TEXT, Record, read_all, ring_stretches};
use crate::{
    addr::VirtAddr,
    kernel::{Kernel, KernelError, structure::Structure},
    types::{Field, TypeError, TypeSource},
};

/// The two top bits of `state_var` hold the state (`DESC_FLAGS_SHIFT`).
const STATE_SHIFT: u32 = 62;
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
const REUSABLE: u64 = 3;
/// A text block begins with the id of its descriptor.
const ID_BYTES: u64 = 8;
/// The position of a record whose text is empty (`EMPTY_LINE_LPOS`, earlier `NO_LPOS`).
const EMPTY_LINE: u64 = 3;
/// That of a record the kernel had no room for (`FAILED_LPOS`); its own dmesg leaves it out as well.
const FAILED: u64 = 1;

const STEP: &str = "reading the printk ring";

/// The layout of the ring's structures in this kernel.
#[derive(Debug)]
pub struct Layout {
    desc_size: u64,
    state_var: Field<u64>,
    begin: Field<u64>,
    next: Field<u64>,
    info_size: u64,
    seq: Field<u64>,
    ts_nsec: Field<u64>,
    text_len: Field<u64>,
    facility: Field<u8>,
    level: Field<u8>,
    caller_id: Option<Field<u32>>,
}

impl Layout {
    /// Resolves the members.
    ///
    /// # Errors
    /// [`TypeError`] naming the one that is missing.
    pub fn resolve(types: &dyn TypeSource) -> Result<Self, TypeError> {
        let [mut desc, mut info] = ["prb_desc", "printk_info"].map(|name| Structure::new(types, name));
        Ok(Self {
            desc_size: types.struct_size("prb_desc")?,
            state_var: desc.field(&["state_var"])?,
            begin: desc.field(&["text_blk_lpos.begin"])?,
            next: desc.field(&["text_blk_lpos.next"])?,
            info_size: types.struct_size("printk_info")?,
            seq: info.field(&["seq"])?,
            ts_nsec: info.field(&["ts_nsec"])?,
            text_len: info.field(&["text_len"])?,
            facility: info.field(&["facility"])?,
            level: info.field(&["level"])?,
            caller_id: info.optional(&["caller_id"])?,
        })
    }
}

/// `struct printk_ringbuffer`: where the arrays are and which part of them is in use.
struct Control {
    descs: VirtAddr,
    infos: VirtAddr,
    count_bits: u32,
    head_id: u64,
    tail_id: u64,
    data: VirtAddr,
    size_bits: u32,
    head_lpos: u64,
    tail_lpos: u64,
}

impl Control {
    fn read(kernel: &Kernel, types: &dyn TypeSource) -> Result<Self, KernelError> {
        let prb = kernel.variable("the kernel log", "prb")?;
        let read = |source| KernelError::Read { step: STEP, source };
        let addr = kernel.memory.read_ptr(prb).map_err(read)?;
        let len = types.struct_size("printk_ringbuffer")?.min(4096) as usize;
        let bytes = kernel.memory.read_vec(addr, len).map_err(read)?;
        let get = |path: &str| -> Result<u64, KernelError> {
            let field: Field<u64> = Field::resolve(types, "printk_ringbuffer", path)?;
            let short =
                || KernelError::Inconsistent { step: STEP, addr, reason: format!("no room for {path}") };
            field.get(&bytes).ok_or_else(short)
        };
        let bits = |path: &str, most: u64| {
            let bits = get(path)?;
            let reason = || format!("{path} is {bits}");
            u32::try_from(bits)
                .ok()
                .filter(|bits| 1_u64.checked_shl(*bits).is_some_and(|size| size <= most))
                .ok_or_else(|| KernelError::Inconsistent { step: STEP, addr, reason: reason() })
        };
        Ok(Self {
            descs: VirtAddr::new(get("desc_ring.descs")?),
            infos: VirtAddr::new(get("desc_ring.infos")?),
            count_bits: bits("desc_ring.count_bits", MAX_RECORDS)?,
            head_id: get("desc_ring.head_id")? & ID_MASK,
            tail_id: get("desc_ring.tail_id")? & ID_MASK,
            data: VirtAddr::new(get("text_data_ring.data")?),
            size_bits: bits("text_data_ring.size_bits", MAX_TEXT)?,
            head_lpos: get("text_data_ring.head_lpos")?,
            tail_lpos: get("text_data_ring.tail_lpos")?,
        })
    }
}

/// The part of the ring that is in use, copied.
#[derive(Debug, Default)]
pub struct Ring {
    /// Id of the first descriptor in `descs`.
    pub tail_id: u64,
    /// `struct prb_desc`, from the oldest on.
    pub descs: Vec<u8>,
    /// `struct printk_info`, likewise.
    pub infos: Vec<u8>,
    /// log2 of the byte ring's size.
    pub size_bits: u32,
    /// Logical position of the first byte of `text`.
    pub text_start: u64,
    /// Text blocks from `text_start` to the head, the ring unrolled.
    pub text: Vec<u8>,
}

/// Reads the log of a kernel that has `prb`.
///
/// # Errors
/// [`KernelError`].
pub fn read(kernel: &Kernel) -> Result<Log, KernelError> {
    let types = kernel.types("the kernel log")?;
    let layout = Layout::resolve(types)?;
    let control = Control::read(kernel, types)?;
    let (capacity, size) = (1_u64 << control.count_bits, 1_u64 << control.size_bits);
    let used = (control.head_id.wrapping_sub(control.tail_id) & ID_MASK).saturating_add(1).min(capacity);
    let first = control.tail_id & (capacity - 1);
    let descs = ring_stretches(control.descs, layout.desc_size, capacity, first, used);
    let infos = ring_stretches(control.infos, layout.info_size, capacity, first, used);
    let used_text = control.head_lpos.wrapping_sub(control.tail_lpos).min(size);
    let text = ring_stretches(control.data, 1, size, control.tail_lpos & (size - 1), used_text);

    let memory = &*kernel.memory;
    let all: Vec<(VirtAddr, u64)> = descs.into_iter().chain(infos).chain(text).collect();
    let mut parts = read_all(memory, STEP, &all)?.into_iter();
    let mut joined = || {
        let mut bytes = parts.next().unwrap_or_default();
        bytes.append(&mut parts.next().unwrap_or_default());
        bytes
    };
    let ring = Ring {
        tail_id: control.tail_id,
        descs: joined(),
        infos: joined(),
        size_bits: control.size_bits,
        text_start: control.tail_lpos,
        text: joined(),
    };
    // A running kernel may have reused a descriptor while its text was read.
    let after = read_all(memory, STEP, &descs)?.concat();
    Ok(parse(&layout, &ring, &after))
}

/// The messages of a copied ring whose descriptors did not change until `after` was copied.
#[must_use]
pub fn parse(layout: &Layout, ring: &Ring, after: &[u8]) -> Log {
    let (desc_size, info_size) = (layout.desc_size.max(1) as usize, layout.info_size.max(1) as usize);
    let descs = ring.descs.chunks_exact(desc_size).zip(after.chunks_exact(desc_size));
    // No two messages share a byte: a few blocks that many claim would stand for gigabytes.
    let mut left = ring.text.len();
    let (mut log, mut unwritten) = (Log::default(), 0);
    for (((before, after), info), index) in descs.zip(ring.infos.chunks_exact(info_size)).zip(0_u64..) {
        let id = ring.tail_id.wrapping_add(index) & ID_MASK;
        let states = (layout.state_var.get(before), layout.state_var.get(after));
        match States::of(id, states) {
            States::Empty => {}
            States::Unwritten => unwritten += 1,
            States::Lost => log.lost += 1,
            States::Message => {
                // Only the newest are still to be written.
                log.lost += std::mem::take(&mut unwritten);
                match record(layout, ring, before, info, id, &mut left) {
                    Ok(message) => log.records.extend(message),
                    Err(Lost) => log.lost += 1,
                }
            }
        }
    }
    log
}

/// What a descriptor's state says, before its text was read and after.
enum States {
    Message,
    /// There is none, or it is being written.
    Empty,
    /// It was given to a writer, and does not say so yet.
    Unwritten,
    Lost,
}

impl States {
    fn of(id: u64, (before, after): (Option<u64>, Option<u64>)) -> Self {
        let (Some(before), Some(after)) = (before, after) else { return Self::Lost };
        let (state, is_same) = (before >> STATE_SHIFT, after & ID_MASK == id);
        match before & ID_MASK == id {
            true if state == FINALIZED && before != after => Self::Lost,
            true if matches!(state, COMMITTED | FINALIZED) && before == after => Self::Message,
            // The newest may be gone on with.
            true if is_same || state == REUSABLE => Self::Empty,
            false if before == 0 || state == REUSABLE => Self::Unwritten,
            _ => Self::Lost,
        }
    }
}

/// A message that is there and cannot be told.
struct Lost;

/// The message of a descriptor; `None` where its text is not all in the copy, being newer, or the kernel itself had no
/// room for it.
fn record(
    layout: &Layout,
    ring: &Ring,
    desc: &[u8],
    info: &[u8],
    id: u64,
    left: &mut usize,
) -> Result<Option<Record>, Lost> {
    let begin = layout.begin.get(desc).ok_or(Lost)?;
    let next = layout.next.get(desc).ok_or(Lost)?;
    let text_len = layout.text_len.get(info).ok_or(Lost)?;
    let Some(text) = text(ring, id, begin, next, text_len)? else { return Ok(None) };
    *left = left.checked_sub(text.len()).ok_or(Lost)?;
    Ok(Some(Record {
        seq: layout.seq.get(info).ok_or(Lost)?,
        ts_nsec: layout.ts_nsec.get(info).ok_or(Lost)?,
        level: layout.level.get(info).ok_or(Lost)?,
        facility: layout.facility.get(info).ok_or(Lost)?,
        caller_id: layout.caller_id.as_ref().and_then(|field| field.get(info)),
        text: String::from_utf8_lossy(text).into_owned(),
    }))
}

/// The text of the block `begin..next`; `None` as in [`record`].
fn text(ring: &Ring, id: u64, begin: u64, next: u64, text_len: u64) -> Result<Option<&[u8]>, Lost> {
    match (begin, next) {
        (EMPTY_LINE, EMPTY_LINE) => return Ok(Some(&[])),
        (FAILED, FAILED) => return Ok(None),
        _ => {}
    }
    // The block's end may stand exactly on the end of the ring, which is the start of the next round. Positions
    // start one round below zero, so that the first lap of every kernel ends with them going round as well.
    let round = |lpos: u64| lpos >> ring.size_bits;
    let (start, size) = if round(begin) == round(next.wrapping_sub(1)) {
        (begin, next.wrapping_sub(begin))
    } else if round(begin.wrapping_add(1 << ring.size_bits)) == round(next) {
        let start = round(next) << ring.size_bits;
        (start, next.wrapping_sub(start))
    } else {
        return Err(Lost);
    };
    let from = start.wrapping_sub(ring.text_start);
    let end = from.checked_add(size).ok_or(Lost)?;
    let copied = ring.text.len() as u64;
    if (copied + 1..=copied + (1 << ring.size_bits)).contains(&end) {
        return Ok(None);
    }
    let block = ring.text.get(from as usize..end as usize).ok_or(Lost)?;
    let (block_id, text) = block.split_at_checked(ID_BYTES as usize).ok_or(Lost)?;
    if u64::from_le_bytes(block_id.try_into().map_err(|_| Lost)?) & ID_MASK != id {
        return Err(Lost);
    }
    Ok(Some(text.get(..usize::try_from(text_len).map_err(|_| Lost)?).unwrap_or(text)))
}

#[cfg(test)]
#[path = "ring/tests.rs"]
mod tests;
