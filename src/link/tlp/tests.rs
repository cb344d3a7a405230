//! Vectors: V1 to V5 were seen on loopback from another implementation (with its Length overflow in V4
//! corrected); those called captured come from real hardware.

use proptest::prelude::*;

use super::*;

const ADAPTER: Requester = Requester::from_raw(0x1b00);

fn bytes(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// `request` encodes to `text` and back.
fn check_read(addr: u64, len: usize, tag: u8, text: &str) {
    let request = MemRequest::for_bytes(addr, len, ADAPTER, tag);
    assert_eq!(request.encode_read().as_ref(), bytes(text), "{len} bytes at {addr:#x}");
    assert_eq!(Tlp::decode(&bytes(text)), Ok(Tlp::Read(request)));
    assert_eq!((request.first_byte(), usize::from(request.byte_count())), (addr, len));
}

/// `text` decodes to a completion with these fields, and the completion encodes to it.
fn check_completion(text: &str, tag: u8, byte_count: u16, lower_address: u8, data: usize) {
    let packet = bytes(text);
    let Ok(Tlp::Completion(completion)) = Tlp::decode(&packet) else { panic!("{text}") };
    assert_eq!(completion.status, Status::Success);
    assert_eq!((completion.tag, completion.byte_count), (tag, byte_count), "{text}");
    assert_eq!((completion.lower_address, completion.data.len()), (lower_address, data), "{text}");
    assert_eq!(usize::from(completion.dwords) * DW, data, "{text}");
    assert_eq!([completion.encode().as_ref(), completion.data].concat(), packet);
}

#[test]
fn v1_read_and_completion() {
    check_read(0x1000, 8, 0, "00 00 00 02 1b 00 00 ff 00 00 10 00");
    check_completion("4a 00 00 02 00 00 00 08 1b 00 00 00 10 11 12 13 14 15 16 17", 0, 8, 0, 8);
}

#[test]
fn v2_one_byte() {
    check_read(0x1003, 1, 0, "00 00 00 01 1b 00 00 08 00 00 10 00");
    check_completion("4a 00 00 01 00 00 00 01 1b 00 00 03 10 11 12 13", 0, 1, 3, 4);
}

#[test]
fn v3_above_4_gib() {
    check_read(0x1_0000_0000, 8, 0, "20 00 00 02 1b 00 00 ff 00 00 00 01 00 00 00 00");
    check_completion("4a 00 00 02 00 00 00 08 1b 00 00 00 01 00 03 02 05 04 07 06", 0, 8, 0, 8);
    check_read(0xffff_ffff, 1, 0, "00 00 00 01 1b 00 00 08 ff ff ff fc");
}

#[test]
fn v4_length_and_byte_count_of_4096_are_zero() {
    check_read(0x2000, 4096, 0, "00 00 00 00 1b 00 00 ff 00 00 20 00");
    let data = "20 ".repeat(256);
    check_completion(&format!("4a 00 00 40 00 00 00 00 1b 00 00 00 {data}"), 0, 4096, 0, 256);
    check_completion(&format!("4a 00 00 40 00 00 0f 00 1b 00 00 00 {data}"), 0, 0xf00, 0, 256);
    check_completion(
        &format!("4a 00 00 00 00 00 00 00 1b 00 00 00 {}", "20 ".repeat(4096)),
        0,
        4096,
        0,
        4096,
    );
}

#[test]
fn v5_write() {
    let packet = bytes("40 00 00 02 1b 00 00 ff 00 00 10 00 41 42 43 44 45 46 47 48");
    let request = MemRequest::for_bytes(0x1000, 8, ADAPTER, 0);
    assert_eq!(request.encode_write().as_ref(), &packet[..12]);
    assert_eq!(Tlp::decode(&packet), Ok(Tlp::Write(request, b"ABCDEFGH")));
}

#[test]
fn captured_packets() {
    check_read(0x2f00_1000, 16, 3, "00 00 00 04 1b 00 03 ff 2f 00 10 00");
    check_completion(
        "4a 00 00 04 00 00 00 10 1b 00 03 00 00 68 b2 3b 00 00 00 00 62 00 00 00 00 00 00 00",
        3,
        16,
        0,
        16,
    );
    check_read(0x3bb2_6800, 98, 3, "00 00 00 19 1b 00 03 3f 3b b2 68 00");
    check_completion(&format!("4a 00 00 19 00 00 00 62 1b 00 03 00 {}", "00 ".repeat(100)), 3, 98, 0, 100);
    check_completion(&format!("4a 00 00 40 00 00 02 00 1a 00 00 00 {}", "00 ".repeat(256)), 0, 512, 0, 256);

    let msix = bytes("40 00 00 01 1b 00 03 0f fe e1 a0 00 22 40 00 00");
    let request = MemRequest::for_bytes(0xfee1_a000, 4, ADAPTER, 3);
    assert_eq!(Tlp::decode(&msix), Ok(Tlp::Write(request, &[0x22, 0x40, 0, 0])));
    assert_eq!(request.encode_write().as_ref(), &msix[..12]);

    let doorbell = bytes("40 00 00 01 00 00 03 0f a0 00 00 10 00 00 00 00");
    let request = MemRequest::for_bytes(0xa000_0010, 4, Requester::default(), 3);
    assert_eq!(Tlp::decode(&doorbell), Ok(Tlp::Write(request, &[0; 4])));

    let relaxed = bytes("00 00 20 80 1b 00 00 ff 00 00 10 00");
    assert_eq!(Tlp::decode(&relaxed), Ok(Tlp::Read(MemRequest::for_bytes(0x1000, 512, ADAPTER, 0))));
}

#[test]
fn twelve_bytes_of_real_memory() {
    check_read(0x8_2159_c720, 12, 0, "20 00 00 03 1b 00 00 ff 00 00 00 08 21 59 c7 20");
}

#[test]
fn statuses() {
    for (text, status) in [
        ("0a 00 00 00 00 00 20 04 1b 00 00 00", Status::Unsupported),
        ("0a 00 00 00 00 00 40 04 1b 00 00 00", Status::ConfigRetry),
        ("0a 00 00 00 00 00 80 04 1b 00 00 00", Status::Abort),
        ("0a 00 00 00 00 00 60 04 1b 00 00 00", Status::Reserved(3)),
    ] {
        let packet = bytes(text);
        let Ok(Tlp::Completion(completion)) = Tlp::decode(&packet) else { panic!("{text}") };
        assert_eq!((completion.status, completion.has_data, completion.byte_count), (status, false, 4));
        let request = MemRequest::for_bytes(0x1000, 4, ADAPTER, 0);
        assert_eq!(Completion::without_data(&request, status, 4, 0).encode().as_ref()[4..], packet[4..]);
    }
}

#[test]
fn flags() {
    let packet = bytes("4a 00 c0 01 00 00 10 04 1b 00 00 00 00 00 00 00");
    let Ok(Tlp::Completion(completion)) = Tlp::decode(&packet) else { panic!() };
    assert!(completion.digest && completion.poisoned && completion.byte_count_modified);
    assert_eq!(completion.encode().as_ref(), &packet[..12]);
}

#[test]
fn what_is_no_packet() {
    assert_eq!(Tlp::decode(&[]), Err(Defect::Short));
    assert_eq!(Tlp::decode(&bytes("4a 00 00 01 00 00 00 04 1b 00 00")), Err(Defect::Short));
    assert_eq!(Tlp::decode(&bytes("20 00 00 01 1b 00 00 0f 00 00 00 01")), Err(Defect::Short));
    for kind in ["a0", "0b", "6a", "2a", "04", "80"] {
        let packet = bytes(&format!("{kind} 00 00 01 1b 00 00 0f 00 00 00 01 00 00 00 00"));
        assert_eq!(Tlp::decode(&packet), Err(Defect::Type(packet[0])));
    }
}

proptest! {
    #[test]
    fn byte_enables_name_exactly_the_bytes(addr in any::<u64>(), len in 1usize..4093) {
        let addr = addr.min(u64::MAX - 8192);
        let request = MemRequest::for_bytes(addr, len, ADAPTER, 9);
        let enabled = |index| request.enables(index);
        let first = (addr - request.addr) as usize;
        prop_assert!(first < DW && usize::from(request.dwords) * DW - (first + len) < DW);
        prop_assert!((0..usize::from(request.dwords) * DW).all(|i| enabled(i) == (first..first + len).contains(&i)));
        prop_assert_eq!((request.first_byte(), usize::from(request.byte_count())), (addr, len));
        prop_assert_eq!(request.last_be == 0, request.dwords == 1);
        let header = request.encode_read();
        prop_assert_eq!(header.as_ref().len() == 12, addr < 1 << 32);
        prop_assert_eq!(Tlp::decode(header.as_ref()), Ok(Tlp::Read(request)));
    }

    #[test]
    fn no_input_panics(packet in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(Tlp::Read(request) | Tlp::Write(request, _)) = Tlp::decode(&packet) {
            prop_assert!(request.byte_count() >= 1 && request.byte_count() <= MAX_BYTES);
        }
    }
}
