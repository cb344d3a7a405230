//! Watchpoints without a hold on the CPUs: memory is read again and again, and compared.
//!
//! All ranges are read with one batch, past the cache. What changes and changes back between two readings is missed;
//! `monitor help` says so. A reading begins with the resume: what memory held then is the old value.

use std::fmt::Write as _;

use gdbstub::target::ext::breakpoints::WatchKind;

use crate::{
    addr::{VirtAddr, little_endian},
    gdb::host::Host,
    paging::{VirtError, VirtOp},
};

/// Most ranges watched at once.
pub(super) const MAX_RANGES: usize = 16;
/// Most bytes watched at once: what crosses the link at each reading.
pub(super) const MAX_BYTES: u64 = 4096;
/// Most ranges that are remembered.
const MAX_KNOWN: usize = 1024;
/// Bytes of a value that are shown.
const SHOWN: usize = 8;

/// Memory that is watched for writes.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    addr: VirtAddr,
    len: usize,
    kind: WatchKind,
    /// What was there when last read since the resume.
    last: Option<Vec<u8>>,
}

/// A change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hit {
    /// First address of the range as GDB named it.
    pub(super) addr: u64,
    pub(super) kind: WatchKind,
    /// What changed, of all ranges, a line each.
    pub(super) message: String,
}

impl Watches {
    /// Whether there was room for it. What is more than can be watched is for who resumes the target to refuse.
    pub(super) fn add(&mut self, addr: u64, len: u64, kind: WatchKind) -> bool {
        let addr = VirtAddr::new(addr);
        if self.position(addr, len, kind).is_some() {
            return true;
        }
        if !self.fits(addr, len) {
            return false;
        }
        self.0.push(Watched { addr, len: len as usize, kind, last: None });
        true
    }

    /// Whether there is room for a range.
    pub(super) fn fits(&self, addr: VirtAddr, len: u64) -> bool {
        len > 0 && addr.checked_add(len).is_some() && self.0.len() < MAX_KNOWN
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, addr: u64, len: u64, kind: WatchKind) -> bool {
        let position = self.position(VirtAddr::new(addr), len, kind);
        position.map(|at| self.0.remove(at)).is_some()
    }

    fn position(&self, addr: VirtAddr, len: u64, kind: WatchKind) -> Option<usize> {
        self.0
            .iter()
            .position(|watched| (watched.addr, watched.len as u64, watched.kind) == (addr, len, kind))
    }

    /// A range in the lower half, where addresses are those of processes.
    pub(super) fn of_a_process(&self) -> Option<VirtAddr> {
        self.0.iter().map(|watched| watched.addr).find(|addr| !addr.is_upper_half())
    }

    pub(super) fn ranges(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().fold(0, |sum, watched| sum.saturating_add(watched.len as u64))
    }

    /// Reads what later readings are compared with.
    pub(super) fn start(&mut self, host: &dyn Host) -> Result<(), VirtError> {
        self.0.iter_mut().for_each(|watched| watched.last = None);
        self.poll(host).map(|_| ())
    }

    /// Reads again; says what has changed.
    pub(super) fn poll(&mut self, host: &dyn Host) -> Result<Option<Hit>, VirtError> {
        let mut buffers: Vec<Vec<u8>> = self.0.iter().map(|watched| vec![0; watched.len]).collect();
        let places = self.0.iter().zip(&mut buffers);
        let mut ops: Vec<VirtOp<'_>> =
            places.map(|(watched, buffer)| VirtOp::new(watched.addr, buffer)).collect();
        host.read_now(&mut ops);
        ops.into_iter().try_for_each(|op| op.result)?;
        let mut hit: Option<Hit> = None;
        for (watched, new) in self.0.iter_mut().zip(buffers) {
            let Some(old) = watched.last.replace(new) else { continue };
            let new = watched.last.as_deref().unwrap_or_default();
            if old != new {
                let line = change(watched.addr, &old, new);
                let (addr, kind) = (watched.addr.raw(), watched.kind);
                hit.get_or_insert_with(|| Hit { addr, kind, message: String::new() }).message.push_str(&line);
            }
        }
        Ok(hit)
    }
}

/// `8 bytes at 0x...: old 0x1, new 0x2`; of more than eight bytes, those from the first that differs.
fn change(addr: VirtAddr, old: &[u8], new: &[u8]) -> String {
    let mut line = format!("{} bytes at {addr}", old.len());
    let (mut at, mut old, mut new) = (0, old, new);
    if old.len() > SHOWN {
        let differs = old.iter().zip(new).position(|(old, new)| old != new).unwrap_or(0);
        at = differs & !(SHOWN - 1);
        let part =
            |bytes: &'_ [u8]| -> (usize, usize) { (at.min(bytes.len()), (at + SHOWN).min(bytes.len())) };
        let (start, end) = part(old);
        (old, new) = (old.get(start..end).unwrap_or_default(), new.get(start..end).unwrap_or_default());
    }
    if at > 0 {
        let _ = write!(line, ", from byte {at} on");
    }
    let _ = writeln!(line, ": old {:#x}, new {:#x}", little_endian(old), little_endian(new));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_both_values() {
        let addr = VirtAddr::new(0xffff_ffff_8200_0000);
        let shown = |old: &[u8], new: &[u8]| change(addr, old, new);
        assert_eq!(
            shown(&[1, 0, 0, 0], &[2, 1, 0, 0]),
            "4 bytes at 0xffffffff82000000: old 0x1, new 0x102\n"
        );
        let (old, mut new) = ([0; 20], [0; 20]);
        new[17] = 7;
        assert_eq!(
            shown(&old, &new),
            "20 bytes at 0xffffffff82000000, from byte 16 on: old 0x0, new 0x700\n"
        );
    }

    #[test]
    fn what_is_watched_is_bounded() {
        let mut watches = Watches::default();
        assert!(!watches.add(0, 0, WatchKind::Write), "nothing");
        assert!(!watches.add(u64::MAX, 8, WatchKind::Write), "past the end");
        for at in 0..MAX_KNOWN as u64 {
            assert!(watches.add(at * 8, 8, WatchKind::Write));
        }
        assert_eq!((watches.ranges(), watches.bytes()), (MAX_KNOWN, 8 * MAX_KNOWN as u64));
        assert!(watches.add(0, 8, WatchKind::Write), "it is there already");
        assert!(!watches.add(0x1000_0000, 8, WatchKind::Write));
        assert!(watches.remove(0, 8, WatchKind::Write) && !watches.remove(0, 8, WatchKind::Write));
        assert!(watches.add(0x1000_0000, u64::MAX / 2, WatchKind::ReadWrite));
        assert_eq!(watches.of_a_process(), Some(VirtAddr::new(8)));
    }
}
