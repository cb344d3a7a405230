//! `qnettlp.list`: the entries of a linked list, many in one packet.
//!
//! To walk a list GDB needs a packet for each entry, because each says where the next one is; to a server at the other
//! end of a network these are as many round trips. The server follows the links itself and sends what a packet holds.
//! The name follows the GDB manual, "General Query Packets": a prefix of our own, so that other servers answer with
//! nothing.
//!
//! Asked is `qnettlp.list:NODE,HEAD,BEFORE,LEN,NEXT`, all hexadecimal: the entry with its link at `NODE` begins `BEFORE`
//! bytes before it; `LEN` bytes from there are wanted; of these, the eight from `NEXT` on are the address of the next
//! link. The reply is the bytes of one entry after the other, two digits each: until one leads to `HEAD`, leads to what
//! is no kernel address, or cannot be read, until no further one fits, or until [`TIME`] is over. It is an error if it
//! would be empty. Lists that lead back into themselves are for the client to see, as it does without this packet.

use std::time::{Duration, Instant};

use super::{
    errno,
    packet::{self, PACKET_SIZE},
    target::GdbTarget,
};
use crate::addr::VirtAddr;

/// What such a packet begins with.
pub(super) const PREFIX: &[u8] = b"qnettlp.list:";

/// No new entry is begun after this: GDB gives a reply two seconds (`set remotetimeout`).
const TIME: Duration = Duration::from_millis(500);

/// Entries of a list, as a client wants them.
#[derive(Debug, PartialEq, Eq)]
struct List {
    node: VirtAddr,
    head: VirtAddr,
    before: u64,
    len: usize,
    next: usize,
}

impl List {
    fn parse(text: &[u8]) -> Option<Self> {
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let numbers: Option<Vec<u64>> = std::str::from_utf8(text).ok()?.split(',').map(number).collect();
        let [node, head, before, len, next] = <[u64; 5]>::try_from(numbers?).ok()?;
        let (len, next) = (usize::try_from(len).ok()?, usize::try_from(next).ok()?);
        let fits = len <= PACKET_SIZE / 2 && next.checked_add(size_of::<u64>())? <= len;
        fits.then_some(Self { node: VirtAddr::new(node), head: VirtAddr::new(head), before, len, next })
    }

    /// The entries that `target` has, one after the other, or the number that says why there is none.
    fn read(&self, target: &mut GdbTarget) -> Result<Vec<u8>, u8> {
        let (mut entries, mut node, begun) = (Vec::new(), self.node, Instant::now());
        while entries.len() + self.len <= PACKET_SIZE / 2 {
            let filled = entries.len();
            entries.resize(filled + self.len, 0);
            let entry = entries.get_mut(filled..).unwrap_or_default();
            if let Err(number) = whole(target, node.wrapping_sub(self.before), entry) {
                entries.truncate(filled);
                return if entries.is_empty() { Err(number) } else { Ok(entries) };
            }
            let Some(next) = entry.get(self.next..).and_then(<[u8]>::first_chunk) else { break };
            node = VirtAddr::new(u64::from_le_bytes(*next));
            if node == self.head || begun.elapsed() >= TIME {
                break;
            }
        }
        Ok(entries)
    }
}

/// Reads all of `entry` from the kernel's memory at `start`.
fn whole(target: &mut GdbTarget, start: VirtAddr, entry: &mut [u8]) -> Result<(), u8> {
    if !start.is_upper_half() {
        return Err(errno::EFAULT);
    }
    match target.read(None, start, entry)? {
        read if read == entry.len() => Ok(()),
        _ => Err(errno::EFAULT),
    }
}

/// The reply to a packet that begins with [`PREFIX`] and goes on with `place`.
pub(super) fn reply(target: &mut GdbTarget, place: &[u8]) -> Vec<u8> {
    let list = List::parse(place).ok_or(errno::EINVAL);
    match list.and_then(|list| list.read(target)) {
        Ok(entries) => packet::hex(&entries),
        Err(number) => format!("E{number:02x}").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked() {
        let list = List::parse(b"ffff888000001010,ffffffff82000000,10,20,18").unwrap();
        assert_eq!(
            (list.node.raw(), list.before, list.len, list.next),
            (0xffff_8880_0000_1010, 0x10, 0x20, 0x18)
        );
        for wrong in
            ["", "1,2,3,20", "1,2,3,20,18,5", "1,2,3,20,19", "1,2,3,8001,18", "1,2,3,20,ffffffffffffffff"]
        {
            assert_eq!(List::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
