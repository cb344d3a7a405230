//! The real-mode blob below 1 MiB that starts the other processors and is left where it was
//! (arch/x86/realmode/init.c, arch/x86/realmode/rm).

use super::{Boot, Object};
use crate::{
    addr::PhysAddr,
    machine::MachineError,
    mem::{PhysMem, PhysWrite},
    paging::Levels,
};

/// Where things lie in the blob of a 6.1 kernel.
const TEXT: u64 = 0x1000;
const TEXT_64: u64 = 0x10e0;
const RO_END: u64 = 0x20f4;
const PGD: u64 = 0x4000;
const HEADER: u64 = 0x5000;
const SIGNATURE: u64 = 0x6260;

/// `REALMODE_END_SIGNATURE`
const END_SIGNATURE: u32 = 0x65a2_2c82;
/// `EFER` with SCE, LME and NX set; the kernel clears LMA.
const EFER: u64 = 0x901;
/// `CR4` with PSE, PAE, MCE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE, SMEP, SMAP set.
const CR4: u32 = 0x37_06f0;
/// `X86_CR4_LA57`
const CR4_LA57: u32 = 1 << 12;

impl Boot<'_> {
    pub(super) fn install_trampoline(&mut self) -> Result<(), MachineError> {
        let Some(base) = self.description.real_mode else { return Ok(()) };
        self.set_global("real_mode_header", self.direct(base))?;
        let header = Object { ty: "real_mode_header", addr: self.direct(base) };
        let addresses = [
            ("text_start", TEXT),
            ("ro_end", RO_END),
            ("trampoline_start", TEXT),
            ("trampoline_header", HEADER),
            ("trampoline_start64", TEXT_64),
            ("trampoline_pgd", PGD),
        ];
        for (member, offset) in addresses {
            self.set(header, member, base.wrapping_add(offset))?;
        }
        self.copy_top_level(base.wrapping_add(PGD))?;
        let header = Object { ty: "trampoline_header", addr: self.direct(base.wrapping_add(HEADER)) };
        let five = if self.description.levels == Levels::Five { CR4_LA57 } else { 0 };
        self.set(header, "start", self.symbol("secondary_startup_64")?)?;
        self.set(header, "efer", EFER)?;
        self.set(header, "cr4", CR4 | five)?;
        self.truth.real_mode = Some(base);
        Ok(self.memory.write(base.wrapping_add(SIGNATURE), &END_SIGNATURE.to_le_bytes())?)
    }

    /// The kernel's half of `init_top_pgt`, and in slot 0 the direct map, where physical and virtual agree.
    fn copy_top_level(&self, to: PhysAddr) -> Result<(), MachineError> {
        let (from, mut upper) = (self.truth.root, [0; 2048]);
        self.memory.read(from.wrapping_add(2048), &mut upper)?;
        self.memory.write(to.wrapping_add(2048), &upper)?;
        let bits = self.description.levels.address_bits();
        let direct = self.bases.page_offset.raw() >> (bits - 9) & 511;
        let entry = self.memory.read_u64(from.wrapping_add(direct * 8))?;
        Ok(self.memory.write(to, &entry.to_le_bytes())?)
    }
}
