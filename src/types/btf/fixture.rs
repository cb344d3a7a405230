//! BTF written by hand, record by record.

/// The sections of a `.BTF` in the making.
#[derive(Default)]
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Length of the base's strings.
    base_strings: u32,
    last: u32,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    /// A module's, whose kernel has `last` for its last id and so many bytes of strings.
    pub(crate) fn split(last: u32, base_strings: u32) -> Self {
        Self { base_strings, last, ..Self::default() }
    }

    /// Offset of a new string; 0 for the empty one.
    pub(crate) fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.base_strings + self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A record; `tail` is what follows the three words. The result is its id.
    pub(crate) fn record(&mut self, name: &str, info: u32, size_or_type: u32, tail: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, info, size_or_type].iter().chain(tail) {
            self.types.extend(word.to_le_bytes());
        }
        self.last += 1;
        self.last
    }

    pub(crate) fn int(&mut self, name: &str, bytes: u32, encoding: u32) -> u32 {
        self.record(name, info(1, 0, false), bytes, &[(encoding << 24) | (bytes * 8)])
    }

    /// A struct or union: members by name, type and raw offset word.
    pub(crate) fn aggregate(
        &mut self,
        name: &str,
        (kind, size, flag): (u32, u32, bool),
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let tail: Vec<u32> =
            members.iter().flat_map(|(name, ty, offset)| [self.string(name), *ty, *offset]).collect();
        self.record(name, info(kind, members.len() as u32, flag), size, &tail)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

pub(crate) fn info(kind: u32, count: u32, flag: bool) -> u32 {
    kind << 24 | count | u32::from(flag) << 31
}

/// The ids of a small kernel's types.
pub(crate) struct Ids {
    pub(crate) int: u32,
    pub(crate) task: u32,
    pub(crate) function: u32,
    pub(crate) section: u32,
}

/// A small kernel's types: every kind is there.
pub(crate) fn kernel() -> (Vec<u8>, Ids) {
    let mut btf = Builder::new();
    let int = btf.int("int", 4, 1);
    let ulong = btf.int("long unsigned int", 8, 0);
    let char = btf.int("char", 1, 0);
    btf.int("_Bool", 1, 4);
    btf.record("double", info(16, 0, false), 8, &[]);
    let constant = btf.record("", info(10, 0, false), char, &[]);
    let comm = btf.record("", info(3, 0, false), 0, &[constant, int, 16]);
    let forward = btf.record("mm_struct", info(7, 0, false), 0, &[]);
    let tagged = btf.record("user", info(18, 0, false), forward, &[]);
    let pointer = btf.record("", info(2, 0, false), tagged, &[]);
    let anonymous = btf.aggregate("", (5, 8, false), &[("first", int, 0), ("second", ulong, 0)]);
    let pid = btf.record("pid_t", info(8, 0, false), int, &[]);
    let volatile = btf.record("", info(9, 0, false), pid, &[]);
    let restrict = btf.record("", info(11, 0, false), pointer, &[]);
    let names = [btf.string("TASK_A"), btf.string("TASK_B")];
    let state = btf.record("state", info(6, 2, true), 4, &[names[0], (-1_i32).cast_unsigned(), names[1], 1]);
    let name = btf.string("WIDE");
    let wide = btf.record("wide", info(19, 1, false), 8, &[name, 1, 0x8000_0000]);
    let task = btf.aggregate(
        "task_struct",
        (4, 64, true),
        &[
            ("comm", comm, 0),
            ("pid", volatile, 128),
            ("mm", restrict, 192),
            ("", anonymous, 256),
            ("flag", int, 3 << 24 | 325),
            ("state", state, 352),
            ("wide", wide, 384),
        ],
    );
    btf.record("task_struct", info(7, 0, false), 0, &[]);
    let (param, rest) = (btf.string("task"), 0);
    let prototype = btf.record("", info(13, 2, false), int, &[param, pointer, rest, 0]);
    let function = btf.record("schedule", info(12, 1, false), prototype, &[]);
    let variable = btf.record("runqueues", info(14, 0, false), task, &[1]);
    btf.record("kfunc", info(17, 0, false), function, &[u32::MAX]);
    let section = btf.record(".data..percpu", info(15, 1, false), 0, &[variable, 0x1000, 64]);
    (btf.finish(), Ids { int, task, function, section })
}
