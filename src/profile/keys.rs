//! Every key there is, and what is said of a key that there is not.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// Every key as `target-profiles/README.md` writes it; a word in capitals stands for any name.
pub const KEYS: &[&str] = &[
    "name",
    "link.adapter",
    "link.local",
    "link.requester",
    "link.driver-host",
    "link.tags",
    "link.mrrs",
    "link.port-base",
    "link.port-mask",
    "link.timeout-ms",
    "link.retries",
    "memory.ram",
    "memory.forbidden",
    "memory.write",
    "memory.policy",
    "kernel.release",
    "kernel.build-id",
    "kernel.vmlinux",
    "kernel.types",
    "kernel.phys-base",
    "kernel.slide",
    "kernel.symbols.SYMBOL",
    "kernel.structs.STRUCT.size",
    "kernel.structs.STRUCT.MEMBER",
    "kernel.structs.STRUCT.MEMBER.offset",
    "kernel.structs.STRUCT.MEMBER.size",
];

/// A key nobody knows.
pub(super) struct Unknown {
    /// Where it stands, in bytes.
    pub(super) at: usize,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// The first key of `table`, or of the tables in it, that [`KEYS`] does not have.
pub(super) fn unknown(table: &DeTable<'_>) -> Option<Unknown> {
    below(table, &mut Vec::new())
}

/// The byte at which each key stands, by its full name.
pub(super) fn places(table: &DeTable<'_>) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut pending = vec![(String::new(), table)];
    while let Some((path, table)) = pending.pop() {
        for (key, value) in table.iter() {
            let name = match path.as_str() {
                "" => key.get_ref().to_string(),
                path => format!("{path}.{}", key.get_ref()),
            };
            found.insert(name.clone(), key.span().start);
            if let DeValue::Table(table) = value.get_ref() {
                pending.push((name, table));
            }
        }
    }
    found
}

fn below<'t>(table: &'t DeTable<'_>, path: &mut Vec<&'t str>) -> Option<Unknown> {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    keys.into_iter().find_map(|(key, value)| {
        let name: &str = key.get_ref();
        if !names_at(path).any(|known| is_any(known) || known == name) {
            return Some(Unknown { at: key.span().start, reason: describe(path, name) });
        }
        let DeValue::Table(table) = value.get_ref() else { return None };
        path.push(name);
        let found = below(table, path);
        path.pop();
        found
    })
}

/// Whether a word of [`KEYS`] stands for any name.
fn is_any(word: &str) -> bool {
    word.chars().all(|letter| letter.is_ascii_uppercase())
}

/// The keys there are in the table at `path`.
fn names_at<'p>(path: &'p [&str]) -> impl Iterator<Item = &'static str> + use<'p> {
    KEYS.iter().filter_map(|key| {
        let mut words = key.split('.');
        path.iter()
            .all(|part| words.next().is_some_and(|word| is_any(word) || word == *part))
            .then_some(())?;
        words.next()
    })
}

fn describe(path: &[&str], name: &str) -> String {
    let shown = [path, &[name]].concat().join(".");
    match nearest(path, name) {
        Some(meant) => format!("unknown key `{shown}`, did you mean `{meant}`?"),
        None => format!("unknown key `{shown}`"),
    }
}

/// The key of another table with that very name; else the one of the same table that is spelled most like it.
fn nearest(path: &[&str], name: &str) -> Option<String> {
    let spelled = name.to_lowercase().replace('_', "-");
    let in_place = |key: &&&str| !key.split('.').any(is_any) && key.rsplit('.').next() == Some(&*spelled);
    let near = || {
        let near = names_at(path)
            .filter(|known| !is_any(known))
            .map(|known| (strsim::damerau_levenshtein(&spelled, known), known))
            .min_by_key(|(distance, _)| *distance)
            .filter(|(distance, known)| *distance <= 1 + known.len() / 4);
        near.map(|(_, known)| [path, &[known]].concat().join("."))
    };
    KEYS.iter().find(in_place).map(|key| (*key).to_owned()).or_else(near)
}
