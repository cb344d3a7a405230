//! The root complex: what a memory request does to the machine's memory, and the completions it gets.
//!
//! In: one decoded request. Out: completions, in address order. It knows neither sockets nor time. Source: PCI
//! Express Base Specification, sections 2.3.1.1 (how a completion may be cut) and 2.2.5 (byte enables).

use std::sync::Arc;

use super::Backing;
use crate::{
    addr::PhysAddr,
    link::tlp::{Completion, DW, MemRequest, Status},
    mem::{Fault, MemError, PhysMem as _},
};

/// Memory and how answers about it are cut.
pub(super) struct RootComplex {
    pub(super) memory: Arc<dyn Backing>,
    pub(super) rcb: u16,
    pub(super) max_payload: u16,
}

impl RootComplex {
    /// Reads the double words of `request` into `data`.
    pub(super) fn read(&self, request: &MemRequest, data: &mut Vec<u8>) -> Result<(), Status> {
        data.clear();
        data.resize(usize::from(request.dwords) * DW, 0);
        self.memory.read(PhysAddr::new(request.addr), data).map_err(|error| status_of(&error))
    }

    /// Writes the enabled bytes of `request`. Data shorter than the header says are taken as far as they go:
    /// some clients cut what is not enabled.
    pub(super) fn write(&self, request: &MemRequest, data: &[u8]) -> Result<(), Status> {
        let Some(writer) = self.memory.writer() else { return Ok(()) };
        let mut at = 0;
        while at < data.len() {
            let enabled = request.enables(at);
            let run =
                data.iter().enumerate().skip(at).take_while(|&(i, _)| request.enables(i) == enabled).count();
            if let (true, Some(bytes)) = (enabled, data.get(at..at + run)) {
                let addr = PhysAddr::new(request.addr.wrapping_add(at as u64));
                writer.write(addr, bytes).map_err(|error| status_of(&error))?;
            }
            at += run;
        }
        Ok(())
    }

    /// The completions that carry `data`, the answer to `request`.
    pub(super) fn completions<'d>(&self, request: MemRequest, data: &'d [u8]) -> Completions<'d> {
        let skip = (request.first_byte() - request.addr) as usize;
        let end = skip + usize::from(request.byte_count());
        Completions {
            request,
            rest: data,
            at: 0,
            skip,
            end,
            rcb: self.rcb.into(),
            max: self.max_payload.into(),
        }
    }
}

fn status_of(error: &MemError) -> Status {
    match error.fault {
        Fault::Hole | Fault::NotInImage(_) | Fault::Refused(_) | Fault::Forbidden(_) | Fault::Poisoned(_) => {
            Status::Unsupported
        }
        _ => Status::Abort,
    }
}

/// Cuts an answer at the last multiple of the RCB that the maximum payload reaches.
pub(super) struct Completions<'d> {
    request: MemRequest,
    rest: &'d [u8],
    at: usize,
    skip: usize,
    end: usize,
    rcb: u64,
    max: u64,
}

impl<'d> Iterator for Completions<'d> {
    type Item = Completion<'d>;

    fn next(&mut self) -> Option<Completion<'d>> {
        if self.rest.is_empty() {
            return None;
        }
        let addr = self.request.addr.wrapping_add(self.at as u64);
        let room = self.max - addr % self.rcb;
        let (data, rest) = self.rest.split_at(self.rest.len().min(room as usize));
        let first = self.at.max(self.skip);
        let byte_count = self.end.saturating_sub(first).max(1) as u16;
        let lower_address = (self.request.addr.wrapping_add(first as u64) & 0x7f) as u8;
        (self.rest, self.at) = (rest, self.at + data.len());
        Some(Completion::with_data(&self.request, byte_count, lower_address, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        emulator::{Ram, ReadOnly, Writable},
        link::Requester,
    };

    fn ram(len: u8) -> Ram {
        Ram::new(PhysAddr::new(0x1000), (0..len).collect())
    }

    fn over(ram: Ram) -> RootComplex {
        RootComplex { memory: Arc::new(Writable(ram)), rcb: 64, max_payload: 256 }
    }

    fn cuts(addr: u64, len: usize) -> Vec<(u16, u8, usize)> {
        let request = MemRequest::for_bytes(addr, len, Requester::from_raw(0x1b00), 0);
        let data = vec![0; usize::from(request.dwords) * DW];
        let completions = over(ram(0)).completions(request, &data);
        completions.map(|cut| (cut.byte_count, cut.lower_address, cut.data.len())).collect()
    }

    #[test]
    fn cuts_fall_on_read_completion_boundaries() {
        assert_eq!(cuts(0x1000, 512), [(512, 0, 256), (256, 0, 256)]);
        assert_eq!(cuts(0x1003, 1), [(1, 3, 4)]);
        assert_eq!(cuts(0x1001, 600), [(600, 1, 256), (345, 0, 256), (89, 0, 92)]);
        assert_eq!(cuts(0x1034, 300), [(300, 0x34, 204), (96, 0, 96)]);
        assert_eq!(cuts(0x2000, 4096).len(), 16);
    }

    #[test]
    fn a_read_with_no_byte_enabled_returns_one_double_word() {
        let request = MemRequest { first_be: 0, ..MemRequest::for_bytes(0x1000, 4, Requester::default(), 0) };
        let complex = over(ram(16));
        let mut data = Vec::new();
        complex.read(&request, &mut data).unwrap();
        let cuts: Vec<_> = complex.completions(request, &data).collect();
        assert_eq!(cuts.len(), 1);
        assert_eq!((cuts[0].byte_count, cuts[0].lower_address, cuts[0].dwords), (1, 0, 1));
    }

    #[test]
    fn writes_obey_byte_enables_and_tolerate_short_data() {
        let complex = over(ram(16));
        let written = |request: &MemRequest, data: &[u8]| {
            complex.write(request, data).unwrap();
            let mut now = [0; 16];
            complex.memory.read(PhysAddr::new(0x1000), &mut now).unwrap();
            now
        };
        let request = |addr, len| MemRequest::for_bytes(addr, len, Requester::default(), 0);
        let mut expected = std::array::from_fn(|index| index as u8);
        expected[2] = 0xa0;
        assert_eq!(written(&request(0x1002, 1), &[0, 0, 0xa0]), expected);
        expected[6..11].copy_from_slice(&[1, 2, 3, 4, 5]);
        assert_eq!(written(&request(0x1006, 5), &[9, 9, 1, 2, 3, 4, 5, 9]), expected);
        let holes = MemRequest { first_be: 0b1001, ..request(0x100c, 4) };
        (expected[12], expected[15]) = (0xb0, 0xb3);
        assert_eq!(written(&holes, &[0xb0, 0xb1, 0xb2, 0xb3]), expected);
    }

    #[test]
    fn holes_are_unsupported_and_read_only_memory_ignores_writes() {
        let request = MemRequest::for_bytes(0x2000, 4, Requester::default(), 0);
        let complex = RootComplex { memory: Arc::new(ReadOnly(ram(16))), rcb: 64, max_payload: 256 };
        assert_eq!(complex.read(&request, &mut Vec::new()), Err(Status::Unsupported));
        assert_eq!(complex.write(&request, &[0; 4]), Ok(()));
        assert_eq!(over(ram(16)).write(&request, &[0; 4]), Err(Status::Unsupported));
    }
}
