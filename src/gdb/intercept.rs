//! Packets answered before [`gdbstub`] sees them: those it has no hook for, and those it answers less well.
//!
//! * `qSupported`: what is announced is one list, ours. It leaves out `multiprocess`, so that a thread's id is all
//!   GDB prints, and adds `qXfer:threads:read`; `qXfer:exec-file:read` only when there is a file to hand out.
//! * `qXfer:threads:read`: all threads with their names in one answer, instead of two packets per thread.
//! * `qnettlp.list`: of [our own](list).
//! * `vFile:pread`: a symbol file has millions of bytes, and `gdbstub` sends them one by one.
//! * `QStartNoAckMode`: acknowledgements are the event loop's.
//! * `M`, `X`: what became of a write is a sentence. GDB prints one for registers only, so those of memory are logged.
//! * `Z`: conditions are not announced; `gdbstub` reads more spellings of the rest than the audit does.
//! * `G`, `P` and `vKill`: refused with a sentence.
//! * `?`: nothing has happened to the target (`T00`); `gdbstub` says that it was trapped.
//! * `x`: memory byte by byte, half of what `m` takes; GDB asks for it since 16 (`binary-upload`).
//! * `m`, most of what GDB sends: `gdbstub` looks through all of its 64 KiB for each packet, writes digit by digit, reads
//!   on after a short read, and has no bound of its own; here the length is cut to one reply.

use gdbstub::target::ext::host_io::HostIoErrno;

use super::{
    list,
    packet::{self, PACKET_SIZE, hex_pair},
    target::GdbTarget,
    tid::Tid,
    write::Write,
};
use crate::addr::VirtAddr;

/// Most bytes of memory in one reply: two digits each.
const MAX_MEMORY: u64 = (PACKET_SIZE / 2) as u64;

/// Most bytes of memory in one reply that holds them as they are: escaping at worst doubles a byte.
const MAX_ESCAPED: u64 = MAX_MEMORY - 1;

/// What is announced beside `PacketSize`.
const FEATURES: &str = ";QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;binary-upload+;qXfer:features:read+;\
     qXfer:threads:read+";

/// What is announced besides when there is a symbol file.
const EXEC_FILE: &str = ";qXfer:exec-file:read+";

const KILL_REFUSAL: &str = "the target cannot be killed: nettlp-gdb has no hold on its CPUs";
const REGISTER_REFUSAL: &str =
    "registers are read-only: nettlp-gdb reads memory from outside and has no hold on the CPUs";

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Send this body.
    Reply(Vec<u8>),
    /// Send `OK`, then acknowledge no more packets.
    StopAcks,
    /// Let `gdbstub` answer.
    Forward,
}

/// The packets answered here, for one client.
#[derive(Debug, Default)]
pub(super) struct Interceptor {
    /// The thread list being transferred: its parts must belong together.
    threads: Vec<u8>,
    /// The last complaint about a write that was logged.
    complaint: String,
}

impl Interceptor {
    /// Looks at a packet of a client whose thread is `selected` before `gdbstub` does.
    pub(super) fn answer(&mut self, target: &mut GdbTarget, selected: Option<Tid>, body: &[u8]) -> Answer {
        match body.split_first() {
            Some((b'm', place)) => Answer::Reply(read(target, selected, place, MAX_MEMORY, packet::hex)),
            Some((b'x', place)) => Answer::Reply(read(target, selected, place, MAX_ESCAPED, binary)),
            Some((b'?', [])) => Answer::Reply(format!("T00thread:{:x};", target.first_thread()).into_bytes()),
            Some((b'M' | b'X', _)) => Answer::Reply(self.write(target, body)),
            Some((b'Z', place)) if breakpoint(place).is_none() => Answer::Reply(b"E16".to_vec()),
            Some((b'G' | b'P', _)) => Answer::Reply(packet::error_text(REGISTER_REFUSAL)),
            _ if body.starts_with(b"vKill") => Answer::Reply(packet::error_text(KILL_REFUSAL)),
            _ if body == b"QStartNoAckMode" => Answer::StopAcks,
            _ if body.starts_with(b"qSupported") => {
                let file = if target.has_symbol_file() { EXEC_FILE } else { "" };
                Answer::Reply(format!("PacketSize={PACKET_SIZE:x}{FEATURES}{file}").into_bytes())
            }
            _ => {
                if let Some(range) = body.strip_prefix(b"qXfer:threads:read::") {
                    Answer::Reply(self.threads(target, range))
                } else if let Some(place) = body.strip_prefix(list::PREFIX) {
                    Answer::Reply(list::reply(target, place))
                } else if let Some(place) = body.strip_prefix(b"vFile:pread:") {
                    Answer::Reply(read_file(target, place))
                } else {
                    Answer::Forward
                }
            }
        }
    }

    fn write(&mut self, target: &GdbTarget, body: &[u8]) -> Vec<u8> {
        let Some(Write { addr, data }) = Write::parse(body) else {
            return packet::error_text("this is no write: its length is not that of its data");
        };
        match target.write_memory(VirtAddr::new(addr), &data) {
            Ok(()) => b"OK".to_vec(),
            Err(error) => {
                let sentence = error.to_string();
                if sentence != self.complaint {
                    log::warn!("a debugger's write of {} bytes at {addr:#x} failed: {sentence}", data.len());
                    self.complaint.clone_from(&sentence);
                }
                packet::error_text(&sentence)
            }
        }
    }

    fn threads(&mut self, target: &mut GdbTarget, range: &[u8]) -> Vec<u8> {
        let Some((offset, len)) = hex_pair(range) else { return b"E16".to_vec() };
        if offset == 0 {
            self.threads = target.threads_xml().into_bytes();
        }
        part(&self.threads, offset, len)
    }
}

/// The reply to `vFile:pread: FD,COUNT,OFFSET`: `F`, how many bytes, and those.
fn read_file(target: &GdbTarget, place: &[u8]) -> Vec<u8> {
    let comma = place.iter().position(|byte| *byte == b',').unwrap_or(place.len());
    let (fd, range) = place.split_at(comma);
    let fd = std::str::from_utf8(fd).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let (Some(fd), Some((count, offset))) = (fd, range.get(1..).and_then(hex_pair)) else {
        return file_error(HostIoErrno::EINVAL);
    };
    match target.read_file(fd, count.min(PACKET_SIZE as u64), offset) {
        Ok(bytes) => {
            let mut reply = format!("F{:x};", bytes.len()).into_bytes();
            reply.extend(packet::escape(bytes));
            reply
        }
        Err(errno) => file_error(errno),
    }
}

fn file_error(errno: HostIoErrno) -> Vec<u8> {
    format!("F-1,{:x}", errno as u32).into_bytes()
}

/// The reply to `qXfer:...:read`: `m` and a part, `l` and the last part.
fn part(document: &[u8], offset: u64, len: u64) -> Vec<u8> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(document.len());
    // Escaping at worst doubles a byte.
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(PACKET_SIZE / 2 - 1);
    let end = start.saturating_add(len).min(document.len());
    let mark = if end == document.len() { b'l' } else { b'm' };
    let mut reply = vec![mark];
    reply.extend(packet::escape(document.get(start..end).unwrap_or_default()));
    reply
}

/// The reply to a packet for memory at `place`: at most `most` bytes of it, as `write_out` has them.
fn read(
    target: &mut GdbTarget,
    selected: Option<Tid>,
    place: &[u8],
    most: u64,
    write_out: fn(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let Some((addr, len @ 1..)) = hex_pair(place) else { return b"E16".to_vec() };
    let mut bytes = vec![0; len.min(most) as usize];
    match target.read(selected, VirtAddr::new(addr), &mut bytes) {
        Ok(len) => write_out(bytes.get(..len).unwrap_or_default()),
        Err(number) => format!("E{number:02x}").into_bytes(),
    }
}

/// `b` and the bytes.
fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut reply = b"b".to_vec();
    reply.extend(packet::escape(bytes));
    reply
}

/// The type, address and length of `Z TYPE,ADDR,LEN`, with nothing after them.
pub(super) fn breakpoint(place: &[u8]) -> Option<(u8, u64, u64)> {
    let (kind, rest) = place.split_first()?;
    let (addr, len) = hex_pair(rest.strip_prefix(b",")?)?;
    Some((*kind, addr, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_in_parts() {
        assert_eq!(part(b"hello", 0, 3), b"mhel");
        assert_eq!(part(b"hello", 3, 3), b"llo");
        assert_eq!(part(b"hello", 9, 3), b"l");
        assert_eq!(part(b"a#", 0, u64::MAX), b"la}\x03");
    }
}
