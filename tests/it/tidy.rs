//! The rules of ARCHITECTURE.md that a compiler does not check: layers, file sizes, who writes to stdout.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What each top-level module may import of the others.
const LAYERS: &[(&str, &[&str])] = &[
    ("addr", &[]),
    ("profile", &["addr"]),
    ("audit", &["addr"]),
    ("vmlinux", &["addr"]),
    ("link", &["addr"]),
    ("mem", &["addr", "link"]),
    ("emulator", &["addr", "link", "mem"]),
    ("paging", &["addr", "mem"]),
    ("types", &["addr", "profile", "vmlinux"]),
    ("symbols", &["addr", "vmlinux"]),
    ("machine", &["addr", "mem", "paging", "types", "symbols"]),
    ("kernel", &["addr", "mem", "paging", "symbols", "types"]),
    ("dump", &["addr", "mem", "paging", "kernel"]),
    ("synth", &["addr", "vmlinux", "symbols", "types", "kernel"]),
    ("render", &["addr", "paging", "kernel"]),
    (
        "session",
        &["addr", "profile", "link", "mem", "paging", "vmlinux", "symbols", "types", "kernel", "synth"],
    ),
    (
        "gdb",
        &[
            "addr", "audit", "link", "mem", "paging", "symbols", "types", "kernel", "synth", "render",
            "session",
        ],
    ),
];

const MAX_CODE_LINES: usize = 500;
/// Unit tests longer than this stand in a file of their own.
const MAX_TEST_LINES: usize = 150;

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap()
}

/// The module directly below `src` that a file belongs to.
fn module(path: &Path) -> String {
    let first = relative(path).components().nth(1).unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Whether a file holds unit tests only.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// Code before the unit tests.
fn code(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").and_then(|end| text.get(..end)).unwrap_or(text)
}

/// Names that follow `crate::`, in paths and in `use crate::{...}`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        names.insert(std::mem::take(&mut name).trim().to_owned());
                    }
                    _ if depth == 0 => name.push(character),
                    _ => {}
                }
            }
            names.insert(name.trim().to_owned());
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            names.insert(rest[..end].to_owned());
        }
    }
    let first = |name: String| name.split("::").next().unwrap_or_default().to_owned();
    names.into_iter().map(first).filter(|name| !name.is_empty()).collect()
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let module = module(&path);
        if is_test(&path) {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else { continue };
        for import in imports(code(&text)) {
            let layer = LAYERS.iter().any(|(name, _)| *name == import) || import == "cli";
            if layer && import != module && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports crate::{import}", relative(&path).display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the layers of ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    for (path, _) in sources("src") {
        let module = module(&path);
        let known = LAYERS.iter().any(|(name, _)| *name == module);
        assert!(known || ["lib", "main", "cli"].contains(&module.as_str()), "{module} has no layer");
    }
}

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for (path, text) in sources("src") {
        let lines = code(&text)
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
            .count();
        let tests = text.lines().count() - code(&text).lines().count();
        if !is_test(&path) && lines > MAX_CODE_LINES {
            long.push(format!("{}: {lines} lines of code", relative(&path).display()));
        }
        if tests > MAX_TEST_LINES {
            long.push(format!("{}: {tests} lines of tests", relative(&path).display()));
        }
    }
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn only_one_place_writes_to_stdout() {
    for (path, text) in sources("src") {
        let path = relative(&path);
        let allowed = path.ends_with("cli/out.rs") || path.starts_with("src/gdb");
        let writes = code(&text).contains("stdout()");
        assert!(allowed || !writes, "{} writes to stdout", path.display());
    }
}

#[test]
fn the_imports_are_really_seen() {
    let text = "use crate::{\n    addr::{A, B},\n    mem,\n};\nfn f() { crate::link::x(); }\n// crate::gdb\n";
    assert_eq!(imports(text), ["addr", "link", "mem"].map(str::to_owned).into());
}

/// Value of a constant of numbers, shifts and products.
fn constant(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(&format!("const {name}: ")))?;
    let value = line.split_once(" = ")?.1.trim_end_matches(';').replace('_', "");
    let terms: Vec<u64> = value.split(" << ").map(|term| term.parse().ok()).collect::<Option<_>>()?;
    match terms.as_slice() {
        [value] => Some(*value),
        [value, shift] => Some(value << shift),
        _ => None,
    }
}

#[test]
fn the_bounds_are_what_their_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/bounds.md")).unwrap();
    let mut rows = 0;
    for row in table.lines().filter(|line| line.contains(".rs` `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, _, most, _, place, _] = cells.as_slice() else { panic!("{row}") };
        let (file, name) = place.trim_matches('`').split_once("` `").unwrap();
        let text = fs::read_to_string(root.join("src").join(file)).unwrap();
        assert_eq!(constant(&text, name), most.parse().ok(), "{row}");
        rows += 1;
    }
    assert!(rows > 20, "{rows}");
}
