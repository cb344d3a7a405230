//! `qOffsets`: where the kernel runs, so that GDB moves a plain `vmlinux` there under KASLR.
//!
//! `TextSeg` moves every segment by the same distance, which is right for all of the kernel but a per-CPU
//! section linked at 0; [`super::percpu_rebase`] sees to that one. `Text=...;Data=...` would leave all sections
//! but those of these names where they were linked.

use gdbstub::target::ext::section_offsets::{Offsets, SectionOffsets};

use super::{GdbTarget, RebaseState};

impl SectionOffsets for GdbTarget {
    fn get_section_offsets(&mut self) -> Result<Offsets<u64>, Self::Error> {
        self.asked_offsets = true;
        if self.rebase != RebaseState::Off {
            self.rebase = RebaseState::Asked(self.host.percpu_rebase());
        }
        let text_seg = self.host.text().map_or(0, |text| text.raw());
        Ok(Offsets::Segments { text_seg, data_seg: None })
    }
}
