//! The registers GDB is told of, and those of them that are known.
//!
//! DMA reads no register: each value here was found in memory, and what was not found is sent as `xx`, which
//! GDB shows as `<unavailable>`. Never as zero. The program counter alone is always sent, see [`UNKNOWN_PC`].
//! One table gives the target description, the numbering and the
//! layout of the `g` packet. Source: GDB manual, "i386 Features"; the control registers follow QEMU's naming,
//! which the kernel's `translate-vm` command expects.

use std::{fmt::Write as _, sync::LazyLock};

use gdbstub::arch;

struct Feature {
    name: &'static str,
    /// Types the registers of the feature use.
    types: &'static str,
}

const CORE: Feature = Feature {
    name: "org.gnu.gdb.i386.core",
    types: r#"<flags id="i386_eflags" size="4">
<field name="CF" start="0" end="0"/><field name="PF" start="2" end="2"/><field name="AF" start="4" end="4"/>
<field name="ZF" start="6" end="6"/><field name="SF" start="7" end="7"/><field name="TF" start="8" end="8"/>
<field name="IF" start="9" end="9"/><field name="DF" start="10" end="10"/><field name="OF" start="11" end="11"/>
</flags>
"#,
};
/// Of no use but to be there: GDB 13 ends with a failed assertion (`i387_collect_fxsave`) when it writes a core file of a
/// target without them.
const SSE: Feature = Feature {
    name: "org.gnu.gdb.i386.sse",
    types: r#"<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/><field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>
<flags id="i386_mxcsr" size="4">
<field name="IE" start="0" end="0"/><field name="DE" start="1" end="1"/><field name="ZE" start="2" end="2"/>
<field name="OE" start="3" end="3"/><field name="UE" start="4" end="4"/><field name="PE" start="5" end="5"/>
<field name="DAZ" start="6" end="6"/><field name="FZ" start="15" end="15"/>
</flags>
"#,
};
const LINUX: Feature = Feature { name: "org.gnu.gdb.i386.linux", types: "" };
const SEGMENTS: Feature = Feature { name: "org.gnu.gdb.i386.segments", types: "" };
const CONTROL: Feature = Feature {
    name: "org.nettlp-gdb.x86.control",
    types: r#"<flags id="x86_cr0" size="8">
<field name="PE" start="0" end="0"/><field name="WP" start="16" end="16"/><field name="PG" start="31" end="31"/>
</flags>
<flags id="x86_cr4" size="8">
<field name="PAE" start="5" end="5"/><field name="PGE" start="7" end="7"/><field name="LA57" start="12" end="12"/>
<field name="PCIDE" start="17" end="17"/><field name="SMEP" start="20" end="20"/>
<field name="SMAP" start="21" end="21"/><field name="PKE" start="22" end="22"/>
</flags>
"#,
};

struct Description {
    name: &'static str,
    bits: usize,
    gdb_type: &'static str,
    feature: &'static Feature,
}

macro_rules! registers {
    ($($feature:ident { $($variant:ident $name:literal $bits:literal $gdb_type:literal,)* })*) => {
        /// A register, by its place in the `g` packet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the processor's own names")]
        pub enum Register {
            $($($variant,)*)*
        }

        const TABLE: &[Description] = &[
            $($(Description { name: $name, bits: $bits, gdb_type: $gdb_type, feature: &$feature },)*)*
        ];
    };
}

registers! {
    CORE {
        Rax "rax" 64 "int64", Rbx "rbx" 64 "int64", Rcx "rcx" 64 "int64", Rdx "rdx" 64 "int64",
        Rsi "rsi" 64 "int64", Rdi "rdi" 64 "int64", Rbp "rbp" 64 "data_ptr", Rsp "rsp" 64 "data_ptr",
        R8 "r8" 64 "int64", R9 "r9" 64 "int64", R10 "r10" 64 "int64", R11 "r11" 64 "int64",
        R12 "r12" 64 "int64", R13 "r13" 64 "int64", R14 "r14" 64 "int64", R15 "r15" 64 "int64",
        Rip "rip" 64 "code_ptr", Eflags "eflags" 32 "i386_eflags",
        Cs "cs" 32 "int32", Ss "ss" 32 "int32", Ds "ds" 32 "int32", Es "es" 32 "int32", Fs "fs" 32 "int32",
        Gs "gs" 32 "int32",
        St0 "st0" 80 "i387_ext", St1 "st1" 80 "i387_ext", St2 "st2" 80 "i387_ext", St3 "st3" 80 "i387_ext",
        St4 "st4" 80 "i387_ext", St5 "st5" 80 "i387_ext", St6 "st6" 80 "i387_ext", St7 "st7" 80 "i387_ext",
        Fctrl "fctrl" 32 "int", Fstat "fstat" 32 "int", Ftag "ftag" 32 "int", Fiseg "fiseg" 32 "int",
        Fioff "fioff" 32 "int", Foseg "foseg" 32 "int", Fooff "fooff" 32 "int", Fop "fop" 32 "int",
    }
    SSE {
        Xmm0 "xmm0" 128 "vec128", Xmm1 "xmm1" 128 "vec128", Xmm2 "xmm2" 128 "vec128", Xmm3 "xmm3" 128 "vec128",
        Xmm4 "xmm4" 128 "vec128", Xmm5 "xmm5" 128 "vec128", Xmm6 "xmm6" 128 "vec128", Xmm7 "xmm7" 128 "vec128",
        Xmm8 "xmm8" 128 "vec128", Xmm9 "xmm9" 128 "vec128", Xmm10 "xmm10" 128 "vec128", Xmm11 "xmm11" 128 "vec128",
        Xmm12 "xmm12" 128 "vec128", Xmm13 "xmm13" 128 "vec128", Xmm14 "xmm14" 128 "vec128", Xmm15 "xmm15" 128 "vec128",
        Mxcsr "mxcsr" 32 "i386_mxcsr",
    }
    LINUX {
        OrigRax "orig_rax" 64 "int",
    }
    SEGMENTS {
        FsBase "fs_base" 64 "data_ptr", GsBase "gs_base" 64 "data_ptr",
    }
    CONTROL {
        Cr0 "cr0" 64 "x86_cr0", Cr2 "cr2" 64 "data_ptr", Cr3 "cr3" 64 "uint64", Cr4 "cr4" 64 "x86_cr4",
        Efer "efer" 64 "uint64",
    }
}

/// The target description GDB asks for.
static DESCRIPTION: LazyLock<String> = LazyLock::new(|| {
    let mut xml = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>\n\
         <architecture>i386:x86-64</architecture>\n<osabi>GNU/Linux</osabi>\n",
    );
    for group in TABLE.chunk_by(|one, next| one.feature.name == next.feature.name) {
        let Some(Description { feature, .. }) = group.first() else { continue };
        let _ = write!(xml, "<feature name=\"{}\">\n{}", feature.name, feature.types);
        for Description { name, bits, gdb_type, .. } in group {
            let _ = writeln!(xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{gdb_type}\"/>");
        }
        xml.push_str("</feature>\n");
    }
    xml.push_str("</target>\n");
    xml
});

/// The registers of one thread; all unknown at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    /// By place in [`TABLE`]; registers wider than 64 bits are never known.
    known: [Option<u64>; TABLE.len()],
}

impl Default for Registers {
    fn default() -> Self {
        Self { known: [None; TABLE.len()] }
    }
}

/// The program counter of a thread whose program counter is not known.
///
/// GDB 13 cannot do without one: it refuses to attach ("PC register is not available"), and a `continue` that
/// meets such a thread leaves it unusable. No instruction can be at this address, and GDB shows a frame there as
/// `0xffffffffffffffff in ?? ()`.
pub const UNKNOWN_PC: u64 = u64::MAX;

impl Registers {
    /// Makes a register known.
    pub fn set(&mut self, register: Register, value: u64) {
        if let Some(known) = self.known.get_mut(register as usize) {
            *known = Some(value);
        }
    }

    /// The register's value, if it is known.
    #[must_use]
    pub fn get(&self, register: Register) -> Option<u64> {
        self.known.get(register as usize).copied().flatten()
    }
}

impl arch::Registers for Registers {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.get(Register::Rip).unwrap_or(UNKNOWN_PC)
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        let mut registers = self.clone();
        registers.set(Register::Rip, self.pc());
        for (Description { bits, .. }, known) in TABLE.iter().zip(registers.known) {
            let value = known.map(u64::to_le_bytes);
            for at in 0..bits / 8 {
                write_byte(value.and_then(|bytes| bytes.get(at).copied()));
            }
        }
    }

    fn gdb_deserialize(&mut self, _: &[u8]) -> Result<(), ()> {
        Err(())
    }
}

/// x86-64 as [`gdbstub`] is told of it.
#[derive(Debug)]
pub(in crate::gdb) enum X86_64 {}

impl arch::Arch for X86_64 {
    type Usize = u64;
    type Registers = Registers;
    type BreakpointKind = usize;
    type RegId = ();

    fn target_description_xml() -> Option<&'static str> {
        Some(&DESCRIPTION)
    }
}

#[cfg(test)]
mod tests {
    use gdbstub::arch::{Arch as _, Registers as _};

    use super::*;

    fn serialized(registers: &Registers) -> Vec<Option<u8>> {
        let mut bytes = Vec::new();
        registers.gdb_serialize(|byte| bytes.push(byte));
        bytes
    }

    #[test]
    fn unknown_registers_are_never_zeros() {
        let bytes = serialized(&Registers::default());
        let size = |registers: &[Description]| registers.iter().map(|register| register.bits / 8).sum();
        let mut expected = vec![None; size(TABLE)];
        let pc: usize = size(&TABLE[..Register::Rip as usize]);
        expected[pc..pc + 8].fill(Some(0xff));
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_known_register_stands_at_its_place() {
        let mut registers = Registers::default();
        registers.set(Register::Rbx, 0x0102_0304_0506_0708);
        let bytes = serialized(&registers);
        assert_eq!(bytes[..8], [None; 8]);
        assert_eq!(bytes[8..16], [8, 7, 6, 5, 4, 3, 2, 1].map(Some));
        assert_eq!(registers.get(Register::Rbx), Some(0x0102_0304_0506_0708));
        assert_eq!(registers.get(Register::Rax), None);
    }

    #[test]
    fn the_description_lists_every_register_once() {
        let xml = X86_64::target_description_xml().unwrap();
        assert_eq!(xml.matches("<reg ").count(), TABLE.len());
        assert_eq!(xml.matches("<feature ").count(), 5);
        assert!(!xml.contains(['#', '$']), "would need escaping to be readable in a packet log");
    }
}
