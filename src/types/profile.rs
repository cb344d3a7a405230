//! Structures written down by hand, as a profile has them: members by offset, over whatever other types there are.
//!
//! Of a member only the place is known, and its size where that is written down; what it is made of nobody says. What a
//! structure does not list is looked for in the types below.

use std::{collections::BTreeMap, sync::Arc};

use super::{Aggregate, Encoding, Member, Tag, Type, TypeError, TypeId, TypeSource};
use crate::profile::Struct;

/// Tells these types from the ones below, which are numbered by their place in a file.
const OWN: u64 = 1 << 63;

/// A profile's structures, and the types below.
pub struct ProfileTypes {
    below: Arc<dyn TypeSource>,
    structs: BTreeMap<String, TypeId>,
    types: Vec<Type>,
}

impl ProfileTypes {
    /// `structs` by name, over the types of `below`.
    #[must_use]
    pub fn new(structs: &BTreeMap<String, Struct>, below: Arc<dyn TypeSource>) -> Self {
        let mut listed = Self { below, structs: BTreeMap::new(), types: Vec::new() };
        for (name, layout) in structs {
            let members = listed.members(layout, "", 0);
            // 0: as many as below.
            let size = layout.size.unwrap_or(0);
            let aggregate = Aggregate { tag: Tag::Struct, name: Some(name.clone()), size, members };
            let id = listed.push(Type::Aggregate(aggregate));
            listed.structs.insert(name.clone(), id);
        }
        listed
    }

    fn push(&mut self, ty: Type) -> TypeId {
        self.types.push(ty);
        TypeId(OWN | (self.types.len() as u64 - 1))
    }

    /// The members whose path is `prefix` and a single name more, from byte `base` of the structure on.
    fn members(&mut self, layout: &Struct, prefix: &str, base: u64) -> Vec<Member> {
        let mut members = Vec::new();
        for (path, place) in &layout.members {
            let Some(name) = path.strip_prefix(prefix).filter(|name| !name.contains('.')) else { continue };
            let inner = self.members(layout, &format!("{path}."), place.offset);
            let size = place.size.unwrap_or(0);
            let ty = if inner.is_empty() {
                Type::Base { name: String::new(), size, encoding: Encoding::Other }
            } else {
                Type::Aggregate(Aggregate { tag: Tag::Struct, name: None, size, members: inner })
            };
            let ty = self.push(ty);
            let bit_offset = place.offset.wrapping_sub(base).wrapping_mul(8);
            members.push(Member { name: Some(name.to_owned()), bit_offset, bit_size: None, ty });
        }
        members
    }

    /// The struct of that name below, unless there is none.
    fn struct_below(&self, name: &str) -> Result<Option<Aggregate>, TypeError> {
        let outcome = self.below.find(Tag::Struct, name).and_then(|id| self.below.get(id));
        match outcome {
            Ok(Type::Aggregate(aggregate)) => Ok(Some(aggregate)),
            Ok(_) | Err(TypeError::NoType { .. } | TypeError::Unavailable { .. }) => Ok(None),
            Err(damage) => Err(damage),
        }
    }
}

impl TypeSource for ProfileTypes {
    fn source_name(&self) -> &str {
        "the profile"
    }

    fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
        match self.structs.get(name).filter(|_| tag == Tag::Struct) {
            Some(id) => Ok(*id),
            // That a layout ends with what it lists is no damage.
            None => self.below.find(tag, name).map_err(|error| match error {
                TypeError::Unavailable { .. } => TypeError::NoType {
                    source_name: self.source_name().to_owned(),
                    tag: tag.keyword(),
                    name: name.to_owned(),
                },
                other => other,
            }),
        }
    }

    fn get(&self, id: TypeId) -> Result<Type, TypeError> {
        if id.0 & OWN == 0 {
            return self.below.get(id);
        }
        let own = usize::try_from(id.0 & !OWN).ok().and_then(|index| self.types.get(index));
        let damaged = || TypeError::Damaged {
            source_name: self.source_name().to_owned(),
            place: id.0,
            reason: "there is no such type".to_owned(),
        };
        let mut found = own.cloned().ok_or_else(damaged)?;
        if let Type::Aggregate(Aggregate { name: Some(name), size, members, .. }) = &mut found {
            if let Some(below) = self.struct_below(name)? {
                *size = if *size == 0 { below.size } else { *size };
                let is_new = |member: &Member| {
                    member.name.is_none() || members.iter().all(|own| own.name != member.name)
                };
                let others: Vec<Member> = below.members.into_iter().filter(is_new).collect();
                members.extend(others);
            }
            if *size == 0 {
                let reason = format!(
                    "the profile does not say how large `struct {name}` is: `kernel.structs.{name}.size`"
                );
                return Err(TypeError::Unavailable { reason });
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{addr::VirtAddr, profile, types::Field};

    /// What is below: nothing, one struct, or what cannot be read.
    struct Below(Result<Option<Aggregate>, TypeError>);

    impl TypeSource for Below {
        fn source_name(&self) -> &str {
            "below"
        }

        fn find(&self, tag: Tag, name: &str) -> Result<TypeId, TypeError> {
            let own = match &self.0 {
                Ok(Some(own)) => own,
                Ok(None) => return Err(TypeError::Unavailable { reason: "no BTF".to_owned() }),
                Err(error) => return Err(error.clone()),
            };
            if (own.tag, own.name.as_deref()) == (tag, Some(name)) {
                return Ok(TypeId(1));
            }
            let source_name = self.source_name().to_owned();
            Err(TypeError::NoType { source_name, tag: tag.keyword(), name: name.to_owned() })
        }

        fn get(&self, id: TypeId) -> Result<Type, TypeError> {
            match (id.0, &self.0) {
                (1, Ok(Some(own))) => Ok(Type::Aggregate(own.clone())),
                _ => Ok(Type::Base { name: "int".to_owned(), size: 4, encoding: Encoding::Signed }),
            }
        }
    }

    fn listed(
        members: &[(&str, u64, Option<u64>)],
        size: Option<u64>,
        below: Option<Aggregate>,
    ) -> ProfileTypes {
        let member =
            |&(name, offset, size): &(&str, _, _)| (name.to_owned(), profile::Member { offset, size });
        let layout = Struct { size, members: members.iter().map(member).collect() };
        ProfileTypes::new(&BTreeMap::from([("task_struct".to_owned(), layout)]), Arc::new(Below(Ok(below))))
    }

    #[test]
    fn what_cannot_be_read_below_is_not_absent() {
        let unread = TypeError::Unread { reason: "reading it failed".to_owned() };
        let layout = Struct { size: Some(9088), members: BTreeMap::new() };
        let structs = BTreeMap::from([("task_struct".to_owned(), layout)]);
        let listed = ProfileTypes::new(&structs, Arc::new(Below(Err(unread.clone()))));
        let types: &dyn TypeSource = &listed;
        assert_eq!(types.field("task_struct", "on_cpu"), Err(unread.clone()));
        assert_eq!(types.find(Tag::Struct, "mm_struct"), Err(unread));
    }

    const MEMBERS: &[(&str, u64, Option<u64>)] = &[
        ("state", 16, Some(8)),
        ("pid", 2216, None),
        ("tasks", 1984, None),
        ("tasks.next", 1984, None),
        ("tasks.prev", 1992, None),
        ("comm", 2640, Some(16)),
    ];

    #[test]
    fn members_are_where_they_are_listed() {
        let listed = listed(MEMBERS, Some(9088), None);
        let types: &dyn TypeSource = &listed;
        assert_eq!(types.struct_size("task_struct"), Ok(9088));
        let place = |path| types.field("task_struct", path).map(|field| (field.offset, field.size)).ok();
        assert_eq!(place("state"), Some((16, 8)));
        assert_eq!((place("tasks.next"), place("tasks.prev")), (Some((1984, 0)), Some((1992, 0))));
        assert_eq!((place("comm"), place("mm"), place("tasks.first")), (Some((2640, 16)), None, None));
        let error = types.field("signal_struct", "thread_head").unwrap_err();
        assert_eq!(error.to_string(), "the profile has no complete `struct signal_struct`");
    }

    #[test]
    fn a_size_nobody_says_is_known_of_words_only() {
        let listed = listed(MEMBERS, Some(9088), None);
        let mut bytes = vec![0; 9088];
        bytes[2216..2224].copy_from_slice(&[0xff; 8]);
        bytes[1984..1992].copy_from_slice(&0xffff_8802_361f_1ea0_u64.to_le_bytes());
        let pid = Field::<i32>::resolve(&listed, "task_struct", "pid").unwrap();
        assert_eq!(pid.get(&bytes), Some(-1));
        let next = Field::<VirtAddr>::resolve(&listed, "task_struct", "tasks.next").unwrap();
        assert_eq!(next.get(&bytes), Some(VirtAddr::new(0xffff_8802_361f_1ea0)));
        assert!(Field::<u64>::resolve(&listed, "task_struct", "state").is_ok());
        let error = Field::<u64>::resolve(&listed, "task_struct", "pid").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the profile does not say how many bytes `task_struct.pid` has: its `size`"
        );
    }

    #[test]
    fn what_is_listed_goes_before_what_is_below() {
        let member = |name: &str, bit_offset| Member {
            name: Some(name.to_owned()),
            bit_offset,
            bit_size: None,
            ty: TypeId(2),
        };
        let members = vec![member("pid", 8), member("tgid", 64)];
        let below = Aggregate { tag: Tag::Struct, name: Some("task_struct".to_owned()), size: 64, members };
        let listed = listed(&[("pid", 40, Some(4))], None, Some(below));
        let types: &dyn TypeSource = &listed;
        let offset = |path| types.field("task_struct", path).map(|field| field.offset);
        assert_eq!((offset("pid"), offset("tgid")), (Ok(40), Ok(8)));
        assert_eq!(types.struct_size("task_struct"), Ok(64));
    }

    #[test]
    fn a_size_is_needed() {
        let error = (&listed(MEMBERS, None, None) as &dyn TypeSource).struct_size("task_struct").unwrap_err();
        assert!(error.to_string().contains("`kernel.structs.task_struct.size`"), "{error}");
    }
}
