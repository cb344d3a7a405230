use std::io::Write;

use super::{
    testing::{COMPRESSED, NOTE, TestElf, TestSection},
    *,
};

fn check(bytes: Vec<u8>) -> Result<Arc<Vmlinux>, String> {
    Vmlinux::from_bytes("vmlinux", bytes).map_err(|error| error.to_string())
}

fn build_id_note(id: &[u8]) -> TestSection {
    let mut bytes: Vec<u8> = [4, id.len() as u32, 3].iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(b"GNU\0");
    bytes.extend(id);
    TestSection { name: ".notes", kind: NOTE, bytes, ..TestSection::default() }
}

#[test]
fn sections_and_build_id() {
    let mut elf =
        TestElf::default().section(".debug_str", b"hello".to_vec()).loaded(".data..percpu", 0, 0x2000);
    elf.sections.push(build_id_note(b"0123456789abcdefghij"));
    let file = check(elf.bytes()).unwrap();
    assert_eq!(file.build_id(), Some(&b"0123456789abcdefghij"[..]));
    assert_eq!(file.section(".debug_str"), Some(&b"hello"[..]));
    assert_eq!(file.section(".data..percpu"), None);
    assert_eq!(file.section(".debug_info"), None);
    let percpu = &file.sections()[2];
    assert_eq!((&*percpu.name, percpu.addr.raw(), percpu.size), (".data..percpu", 0, 0x2000));
    assert!(percpu.holds(LinkAddr::new(0x1fff)));
    assert!(!percpu.holds(LinkAddr::new(0x2000)));
    assert!(!file.sections()[1].holds(LinkAddr::new(0)));
}

#[test]
fn no_build_id() {
    assert_eq!(check(TestElf::default().bytes()).unwrap().build_id(), None);
}

#[test]
fn what_is_no_vmlinux() {
    let mut boot_image = vec![0; 0x400];
    boot_image[..2].copy_from_slice(b"MZ");
    boot_image[0x202..0x206].copy_from_slice(b"HdrS");
    let cases: [(Vec<u8>, &str); 6] = [
        (Vec::new(), "it is empty"),
        (b"#!/bin/sh\n".to_vec(), "it is not an ELF file"),
        (boot_image, "it is the compressed boot image (vmlinuz)"),
        (TestElf { class: 1, ..TestElf::default() }.bytes(), "it is not a 64-bit ELF file"),
        (TestElf { machine: 183, ..TestElf::default() }.bytes(), "it is for another machine"),
        (TestElf { kind: 4, ..TestElf::default() }.bytes(), "it is not an executable"),
    ];
    for (bytes, reason) in cases {
        let error = check(bytes).unwrap_err();
        assert!(error.starts_with(&format!("vmlinux is not a vmlinux: {reason}; ")), "{error}");
    }
}

#[test]
fn cut_off_anywhere_it_is_truncated() {
    let mut elf = TestElf::default().section(".debug_info", vec![7; 300]);
    elf.sections.push(build_id_note(b"0123456789abcdefghij"));
    let whole = elf.bytes();
    assert!(check(whole.clone()).is_ok());
    for len in 4..whole.len() {
        let error = check(whole[..len].to_vec()).unwrap_err();
        assert!(error.starts_with("the vmlinux vmlinux is truncated or damaged ("), "{len}: {error}");
    }
}

#[test]
fn a_section_past_the_end_is_named() {
    let mut bytes = TestElf::default().section(".debug_info", vec![7; 300]).bytes();
    let header = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize + 64;
    bytes[header + 32..header + 40].copy_from_slice(&0x1_0000_u64.to_le_bytes());
    let error = check(bytes).unwrap_err();
    assert!(error.contains("section .debug_info has 0x10000 bytes at 0x40, the file has"), "{error}");
}

#[test]
fn a_compressed_section_is_refused_when_asked_for() {
    let mut elf = TestElf::default();
    elf.sections.push(TestSection {
        name: ".debug_info",
        kind: testing::PROGBITS,
        flags: COMPRESSED,
        bytes: vec![1; 40],
        ..TestSection::default()
    });
    let file = check(elf.bytes()).unwrap();
    let error = file.debug_section(".debug_info").unwrap_err().to_string();
    assert!(error.contains("objcopy --decompress-debug-sections"), "{error}");
    assert_eq!(file.debug_section(".debug_str").unwrap(), b"");
}

#[test]
fn files_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("vmlinux-6.1.0");
    let error = Vmlinux::open(&missing).unwrap_err();
    assert!(matches!(error, VmlinuxError::Missing { .. }));
    assert!(error.to_string().starts_with(&format!("there is no vmlinux at {}: give ", missing.display())));
    assert!(matches!(Vmlinux::open(directory.path()), Err(VmlinuxError::Open { .. })));

    File::create(&missing).unwrap();
    assert!(matches!(Vmlinux::open(&missing), Err(VmlinuxError::NotVmlinux { .. })));

    let bytes = TestElf::default().section(".debug_str", b"hello".to_vec()).bytes();
    File::create(&missing).unwrap().write_all(&bytes).unwrap();
    let file = Vmlinux::open(&missing).unwrap();
    assert_eq!((file.name(), file.path()), ("vmlinux-6.1.0", missing.as_path()));
    assert_eq!(file.section(".debug_str"), Some(&b"hello"[..]));
}
