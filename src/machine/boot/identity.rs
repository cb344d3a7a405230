//! Who the kernel says it is: banner, names, notes, VMCOREINFO (init/version.c, kernel/vmcore_info.c).

use std::fmt::Write;

use super::Boot;
use crate::{
    machine::{
        MachineError,
        link::{Kind, POISON, TEXT},
    },
    paging::Levels,
    types::TypeSource,
};

const UTS_MEMBERS: [&str; 6] = ["sysname", "nodename", "release", "version", "machine", "domainname"];
/// Type of a note that names the build (`NT_GNU_BUILD_ID`).
const GNU_BUILD_ID: u32 = 3;

/// The image's `.notes`: one of a hypervisor first, as in distributions, then the build id.
pub(in crate::machine) fn notes(build_id: &[u8; 20]) -> Vec<u8> {
    [note("Xen", 6, b"linux\0"), note("GNU", GNU_BUILD_ID, build_id), note("Linux", 0x100, &[0; 4])].concat()
}

/// An ELF note (System V ABI, "Note Section").
fn note(name: &str, kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() as u32 + 1, descriptor.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [name.as_bytes(), b"\0"] {
        bytes.extend(part);
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(descriptor);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl Boot<'_> {
    pub(super) fn load_image(&mut self) -> Result<(), MachineError> {
        let parts: [(Kind, &[u8]); 3] =
            [(Kind::Text, &self.image.text), (Kind::Notes, &self.image.notes), (Kind::InitText, &POISON)];
        for (kind, bytes) in parts {
            if let Some(section) = self.image.section(kind) {
                self.write(self.run_time(section.addr), bytes)?;
            }
        }
        if let Some((addr, bytes)) = &self.image.carried {
            self.write(self.run_time(*addr), bytes)?;
            self.set_global("kallsyms_relative_base", self.run_time(TEXT))?;
        }
        self.write(self.symbol("linux_banner")?, self.truth.banner.as_bytes())?;
        let handlers = ["__x64_sys_read", "__x64_sys_write", "__x64_sys_wait4", "__x64_sys_epoll_wait"];
        let mut slot = self.symbol("sys_call_table")?;
        for handler in handlers {
            if let Ok(addr) = self.symbol(handler) {
                self.write_word(slot, addr.into(), 8)?;
            }
            slot = slot.wrapping_add(8);
        }
        Ok(())
    }

    pub(super) fn set_identity(&mut self) -> Result<(), MachineError> {
        let (truth, description) = (&self.truth, self.description);
        self.set_global("phys_base", truth.phys_base)?;
        self.set_global("page_offset_base", self.bases.page_offset)?;
        self.set_global("vmalloc_base", self.bases.vmalloc)?;
        self.set_global("vmemmap_base", self.bases.vmemmap)?;
        self.set_global("__pgtable_l5_enabled", description.levels == Levels::Five)?;
        let uts = self.global("uts_namespace", "init_uts_ns")?;
        let values =
            ["Linux", &description.nodename, &description.release, &description.version, "x86_64", "(none)"];
        for (member, value) in UTS_MEMBERS.iter().zip(values) {
            self.set_text(uts, &format!("name.{member}"), value)?;
        }
        let command_line = self.alloc_string(&description.command_line)?;
        self.set_global("saved_command_line", command_line)
    }

    /// The note and the bare copy of its text.
    pub(super) fn write_vmcoreinfo(&mut self) -> Result<(), MachineError> {
        if !self.description.vmcoreinfo {
            return Ok(());
        }
        let text = self.vmcoreinfo()?;
        let bytes = note("VMCOREINFO", 0, text.as_bytes());
        let data = self.alloc(4096, 4096)?;
        self.write(data, text.as_bytes())?;
        self.set_global("vmcoreinfo_data", data)?;
        self.set_global("vmcoreinfo_size", text.len())?;
        let note = self.alloc((bytes.len() as u64).next_multiple_of(4096), 4096)?;
        self.write(note, &bytes)?;
        self.set_global("vmcoreinfo_note", note)?;
        self.truth.vmcoreinfo = Some(text);
        Ok(())
    }

    fn vmcoreinfo(&self) -> Result<String, MachineError> {
        let mut text = format!("OSRELEASE={}\n", self.description.release);
        let build_id: String = self.build_id.iter().map(|byte| format!("{byte:02x}")).collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "BUILD-ID={build_id}\nPAGESIZE=4096\n");
        self.describe_symbols(&mut text, &["init_uts_ns"])?;
        self.describe_struct(&mut text, "uts_namespace", &["name"], false)?;
        let _ = writeln!(text, "SYMBOL(swapper_pg_dir)={:x}", self.symbol("init_top_pgt")?.raw());
        self.describe_symbols(&mut text, &["_stext"])?;
        if self.has("printk_info", "seq") {
            self.describe_symbols(&mut text, &["prb", "printk_rb_static", "_printk_rb_static_descs"])?;
            let ring = ["desc_ring", "text_data_ring", "fail"];
            self.describe_struct(&mut text, "printk_ringbuffer", &ring, true)?;
            let descs = ["count_bits", "descs", "infos", "head_id", "tail_id"];
            self.describe_struct(&mut text, "prb_desc_ring", &descs, true)?;
            self.describe_struct(&mut text, "prb_desc", &["state_var", "text_blk_lpos"], true)?;
            self.describe_struct(&mut text, "prb_data_blk_lpos", &["begin", "next"], true)?;
            let infos = ["seq", "ts_nsec", "text_len", "caller_id", "dev_info"];
            self.describe_struct(&mut text, "printk_info", &infos, true)?;
            let data = ["size_bits", "data", "head_lpos", "tail_lpos"];
            self.describe_struct(&mut text, "prb_data_ring", &data, true)?;
            text += "OFFSET(atomic_long_t.counter)=0\n";
        } else {
            let symbols = ["log_buf", "log_buf_len", "log_first_idx", "clear_idx", "log_next_idx"];
            self.describe_symbols(&mut text, &symbols)?;
            let members = ["ts_nsec", "len", "text_len", "dict_len"];
            self.describe_struct(&mut text, "printk_log", &members, true)?;
        }
        if self.image.carried.is_some() {
            let tables = ["names", "num_syms", "token_table", "token_index", "offsets", "relative_base"];
            for table in tables.map(|table| format!("kallsyms_{table}")) {
                self.describe_symbols(&mut text, &[&table])?;
            }
        }
        for flag in ["PG_lru", "PG_hwpoison"] {
            let bit = (&self.declarations.types as &dyn TypeSource).enumerator("pageflags", flag)?;
            let _ = writeln!(text, "NUMBER({flag})={bit}");
        }
        let _ = writeln!(text, "NUMBER(phys_base)={}", self.truth.phys_base as i64);
        self.describe_symbols(&mut text, &["init_top_pgt"])?;
        let five = u32::from(self.description.levels == Levels::Five);
        let _ = writeln!(text, "NUMBER(pgtable_l5_enabled)={five}");
        let _ = writeln!(text, "KERNELOFFSET={:x}", self.description.slide);
        text += "NUMBER(KERNEL_IMAGE_SIZE)=1073741824\nNUMBER(sme_mask)=0\n";
        Ok(text)
    }

    fn describe_symbols(&self, text: &mut String, names: &[&str]) -> Result<(), MachineError> {
        for name in names {
            let _ = writeln!(text, "SYMBOL({name})={:x}", self.symbol(name)?.raw());
        }
        Ok(())
    }

    fn describe_struct(
        &self,
        text: &mut String,
        ty: &'static str,
        members: &[&str],
        sized: bool,
    ) -> Result<(), MachineError> {
        if sized {
            let size = (&self.declarations.types as &dyn TypeSource).struct_size(ty)?;
            let _ = writeln!(text, "SIZE({ty})={size}");
        }
        for member in members {
            let _ = writeln!(text, "OFFSET({ty}.{member})={}", self.field(ty, member)?.offset);
        }
        Ok(())
    }
}
