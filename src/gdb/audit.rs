//! What a client asks for, written down before it is answered.
//!
//! One place sees every packet. Memory is written down by page, and a page of one address space once per client: GDB
//! reads the same structures again and again, and a line per packet would say nothing more.

use std::collections::HashSet;

use super::{
    intercept::breakpoint,
    list,
    packet::{PACKET_SIZE, hex_pair, unhex},
    target::GdbTarget,
    tid::Tid,
    write::Write,
};
use crate::{
    addr::{PAGE_SIZE, VirtAddr},
    audit::{AuditError, Event, Space, Trail},
};

/// Pages remembered as written down; more than these are written down again.
const MAX_PAGES: usize = 1 << 20;

/// The audit of one client; does nothing where none was asked for.
#[derive(Debug, Default)]
pub(super) struct PacketAudit {
    trail: Option<Trail>,
    /// Of a task's address space, or the kernel's.
    pages: HashSet<(Option<i32>, u64)>,
}

impl PacketAudit {
    pub(super) fn new(trail: Option<Trail>) -> Self {
        Self { trail, pages: HashSet::new() }
    }

    /// Writes down what the packet `body` asks of `target`, whose thread is `selected`.
    ///
    /// # Errors
    /// [`AuditError`]: the packet must not be answered.
    pub(super) fn packet(
        &mut self,
        target: &mut GdbTarget,
        selected: Option<Tid>,
        body: &[u8],
    ) -> Result<(), AuditError> {
        let Some(trail) = &self.trail else { return Ok(()) };
        match body.split_first() {
            Some((b'm' | b'x', place)) => match hex_pair(place) {
                Some((addr, len @ 1..)) if !VirtAddr::new(addr).is_upper_half() => {
                    let task = target.task_of(selected).map(|task| task.pid);
                    self.read(Space::User, task, addr, len)
                }
                Some((addr, len @ 1..)) => self.read(Space::Virtual, None, addr, len),
                _ => Ok(()),
            },
            Some((b'M' | b'X', place)) => {
                let place = place.split(|byte| *byte == b':').next().and_then(hex_pair);
                // GDB asks in this way whether binary writes are known.
                if matches!(place, Some((_, 0))) {
                    return Ok(());
                }
                let ranges: Vec<String> = place.map(|(addr, len)| shown(addr, len)).into_iter().collect();
                let allowed = Write::parse(body)
                    .is_some_and(|write| target.may_write(VirtAddr::new(write.addr), write.data.len()));
                trail.append(&Event::Write { space: Space::Virtual, ranges: &ranges, allowed })
            }
            // What is watched will be read, again and again.
            Some((b'Z', place)) => match breakpoint(place) {
                Some((b'2' | b'4', addr, len)) if target.may_watch(addr, len) => {
                    self.read(Space::Virtual, None, addr, len)
                }
                _ => Ok(()),
            },
            Some((b'G' | b'P', _)) => {
                trail.append(&Event::Write { space: Space::Registers, ranges: &[], allowed: false })
            }
            _ if body.starts_with(list::PREFIX) => {
                trail.append(&Event::Command { command: &String::from_utf8_lossy(body) })
            }
            _ => {
                let called = |prefix: &[u8], name: &str| {
                    let argument = body.strip_prefix(prefix)?.split(|byte| *byte == b',').next()?;
                    Some(format!("{name} {}", String::from_utf8_lossy(&unhex(argument)?)))
                };
                // What a file holds was read from the target's memory too.
                match called(b"qRcmd,", "monitor").or_else(|| called(b"vFile:open:", "open")) {
                    Some(command) => trail.append(&Event::Command { command: &command }),
                    None => Ok(()),
                }
            }
        }
    }

    /// Writes down the pages that are not yet.
    fn read(&mut self, space: Space, task: Option<i32>, addr: u64, len: u64) -> Result<(), AuditError> {
        let Some(trail) = &self.trail else { return Ok(()) };
        let last = addr.saturating_add(len.saturating_sub(1)) / PAGE_SIZE;
        // No reply holds more than a packet.
        let pages = (addr / PAGE_SIZE..=last).take(PACKET_SIZE / PAGE_SIZE as usize + 2);
        let new: Vec<u64> = pages.filter(|page| !self.pages.contains(&(task, *page))).collect();
        if new.is_empty() {
            return Ok(());
        }
        let runs = new.chunk_by(|page, next| page + 1 == *next);
        let ranges: Vec<String> = runs
            .filter_map(|run| Some(shown(run.first()? * PAGE_SIZE, run.len() as u64 * PAGE_SIZE)))
            .collect();
        trail.append(&Event::Read { space, task, ranges: &ranges })?;
        if self.pages.len() + new.len() > MAX_PAGES {
            self.pages.clear();
        }
        self.pages.extend(new.into_iter().map(|page| (task, page)));
        Ok(())
    }
}

fn shown(addr: u64, len: u64) -> String {
    format!("{}-{}", VirtAddr::new(addr), VirtAddr::new(addr.saturating_add(len)))
}
