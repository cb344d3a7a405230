//! For unit tests: types from a table of offsets, memory from bytes, a kernel of which little is known.

pub(crate) mod orc_kernel;

use std::{collections::HashMap, sync::Arc};

use super::{Kernel, KernelMap, UserMemory};
use crate::{
    addr::{PhysAddr, PhysRange, VirtAddr},
    paging::{Levels, Translation, VirtError, VirtFault, VirtMem, VirtOp},
    types::{Aggregate, Encoding, Member, Tag, Type, TypeError, TypeId, TypeSource},
};

/// Bytes at an address, and nothing else.
pub(crate) struct Flat {
    pub(crate) start: VirtAddr,
    pub(crate) bytes: Vec<u8>,
}

impl VirtMem for Flat {
    fn read_batch(&self, ops: &mut [VirtOp<'_>]) {
        for op in ops {
            let start = op.addr.wrapping_offset_from(self.start) as usize;
            let bytes = start.checked_add(op.buf.len()).and_then(|end| self.bytes.get(start..end));
            op.result = match bytes {
                Some(bytes) => {
                    op.buf.copy_from_slice(bytes);
                    Ok(())
                }
                None => Err(VirtError { addr: op.addr, len: op.buf.len(), fault: VirtFault::NonCanonical }),
            };
        }
    }

    fn translate(&self, addr: VirtAddr) -> Result<Translation, VirtError> {
        Err(VirtError { addr, len: 0, fault: VirtFault::NonCanonical })
    }
}

/// A kernel whose `_text` is at `text`.
pub(crate) fn map(text: VirtAddr, slide: u64) -> KernelMap {
    let text_phys = PhysAddr::new(0x100_0000);
    KernelMap {
        text,
        text_phys,
        phys_base: 0,
        slide: Some(slide),
        root: PhysAddr::default(),
        levels: Levels::Four,
        page_offset: None,
        vmalloc_base: None,
        vmemmap_base: None,
        sme_mask: 0,
        image: PhysRange::with_len(text_phys, 0x200_0000).unwrap(),
        text_pages: None,
        rodata: None,
        banner: None,
        release: None,
        build_id: None,
        vmcoreinfo: None,
        ram: Vec::new(),
        ram_shortfall: None,
        init_task: None,
        evidence: Vec::new(),
    }
}

/// A kernel of which nothing is known but its `init_task` and its types.
pub(crate) fn kernel(memory: Arc<dyn VirtMem>, types: Arc<dyn TypeSource>, init_task: VirtAddr) -> Kernel {
    let map = KernelMap { init_task: Some(init_task), ..map(VirtAddr::NULL, 0) };
    Kernel { map, memory, symbols: None, types: Some(types), policy: UserMemory::All }
}

/// Structs whose members are integers; a dotted member name stands for a nested struct.
#[derive(Default)]
pub(crate) struct Structs {
    types: Vec<Type>,
    names: HashMap<String, TypeId>,
}

impl Structs {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, ty: Type) -> TypeId {
        self.types.push(ty);
        TypeId(self.types.len() as u64 - 1)
    }

    /// Adds `struct NAME` of `size` bytes with members (path, offset, size).
    pub(crate) fn add(mut self, name: &str, size: u64, members: &[(&str, u64, u64)]) -> Self {
        let id = self.aggregate(name, size, members);
        self.names.insert(name.to_owned(), id);
        self
    }

    /// Adds `enum NAME`.
    pub(crate) fn enumeration(mut self, name: &str, values: &[(&str, i128)]) -> Self {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let id = self.push(Type::Enum { name: Some(name.to_owned()), size: 4, values });
        self.names.insert(name.to_owned(), id);
        self
    }

    /// Adds a packed `struct NAME` of integers by their bits: (name, offset in bits, bits, signed); those that are whole
    /// bytes are no bit-fields.
    pub(crate) fn add_bits(mut self, name: &str, size: u64, members: &[(&str, u64, u64, bool)]) -> Self {
        let mut done = Vec::new();
        for (member, bit_offset, bits, signed) in members {
            let whole = bits % 8 == 0 && bit_offset % 8 == 0;
            let encoding = if *signed { Encoding::Signed } else { Encoding::Unsigned };
            let size = if whole { bits / 8 } else { 4 };
            let ty = self.push(Type::Base { name: format!("i{bits}"), size, encoding });
            let (name, bit_size) = (Some((*member).to_owned()), (!whole).then_some(*bits));
            done.push(Member { name, bit_offset: *bit_offset, bit_size, ty });
        }
        let tag_name = Some(name.to_owned());
        let id =
            self.push(Type::Aggregate(Aggregate { tag: Tag::Struct, name: tag_name, size, members: done }));
        self.names.insert(name.to_owned(), id);
        self
    }

    fn aggregate(&mut self, name: &str, size: u64, members: &[(&str, u64, u64)]) -> TypeId {
        let mut done: Vec<Member> = Vec::new();
        for (path, offset, size) in members {
            let (first, ty) = match path.split_once('.') {
                None => {
                    let (name, encoding) = (format!("u{}", size * 8), Encoding::Unsigned);
                    (*path, self.push(Type::Base { name, size: *size, encoding }))
                }
                Some((first, _)) => {
                    let inner: Vec<(&str, u64, u64)> = members
                        .iter()
                        .filter_map(|(path, offset, size)| {
                            Some((path.strip_prefix(first)?.strip_prefix('.')?, *offset, *size))
                        })
                        .collect();
                    let end = inner.iter().map(|(_, offset, size)| offset + size).max().unwrap();
                    (first, self.aggregate(first, end, &inner))
                }
            };
            let bit_offset = if path.contains('.') { 0 } else { offset * 8 };
            if done.iter().all(|member| member.name.as_deref() != Some(first)) {
                done.push(Member { name: Some(first.to_owned()), bit_offset, bit_size: None, ty });
            }
        }
        let name = Some(name.to_owned());
        self.push(Type::Aggregate(Aggregate { tag: Tag::Struct, name, size, members: done }))
    }
}

impl TypeSource for Structs {
    fn source_name(&self) -> &str {
        "test"
    }

    fn find(&self, _: Tag, name: &str) -> Result<TypeId, TypeError> {
        self.names.get(name).copied().ok_or_else(|| TypeError::NoType {
            source_name: "test".to_owned(),
            tag: "struct",
            name: name.to_owned(),
        })
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        Ok(self.types[id.0 as usize].clone())
    }
}
