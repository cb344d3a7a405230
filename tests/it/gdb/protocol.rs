//! What each packet is answered.

use std::sync::atomic::Ordering;

use nettlp_gdb::gdb::{
    Options, View,
    packet::{Event, PACKET_SIZE, escape, frame},
};

use super::{
    client::{Client, unhex},
    fake::{self, FakeHost, INIT_TASK, PAGE, PER_CPU_OFFSET, PERCPU_AREA, SLIDE, SYMBOL_FILE, TEXT},
};

fn attached(host: FakeHost) -> (fake::Running, Client) {
    let server = fake::serve(host);
    let client = Client::connect(server.address);
    (server, client)
}

#[test]
fn announces_what_it_can() {
    let (_server, mut client) = attached(FakeHost::new());
    let reply = client.ask("qSupported:multiprocess+;swbreak+");
    assert!(reply.starts_with("PacketSize=10000;"), "{reply}");
    assert!(reply.contains(";qXfer:threads:read+"), "{reply}");
    assert!(!reply.contains("multiprocess"), "{reply}");
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    assert_eq!(client.ask("qAttached"), "1");
    assert_eq!(client.ask("vMustReplyEmpty"), "");
}

#[test]
fn acknowledges_until_told_not_to_and_repeats_what_got_lost() {
    let (_server, mut client) = attached(FakeHost::new());
    let packet = |body: &str| Some(Event::Packet(body.as_bytes().to_vec()));
    client.raw(&frame(b"qAttached"));
    assert_eq!((client.event(), client.event()), (Some(Event::Ack), packet("1")));
    client.raw(b"-");
    assert_eq!(client.event(), packet("1"));
    client.raw(b"$qAttached#00");
    assert_eq!(client.event(), Some(Event::Nack), "a wrong checksum");
    client.raw(&frame(b"QStartNoAckMode"));
    assert_eq!((client.event(), client.event()), (Some(Event::Ack), packet("OK")));
    client.raw(&frame(b"qAttached"));
    assert_eq!(client.event(), packet("1"));
}

#[test]
fn memory_is_read_and_a_gap_ends_it() {
    let (_server, mut client) = attached(FakeHost::new());
    assert_eq!(client.memory(TEXT + SLIDE + 0x40, 13).unwrap(), b"Linux version");
    let end = INIT_TASK + PAGE as u64;
    assert_eq!(client.memory(end - 4, 16).unwrap(), [0; 4], "the readable prefix");
    assert_eq!(client.memory(end, 4).unwrap_err(), "E0e");
    assert_eq!(client.memory(u64::MAX, 4).unwrap_err(), "E0e");
    assert_eq!(client.memory(INIT_TASK, usize::MAX).unwrap().len(), PAGE, "as much as there is");
    assert_eq!(
        client.memory(INIT_TASK, 0).unwrap_err(),
        "E16",
        "an empty reply would mean that `m` is not known"
    );
    assert_eq!(client.ask(&format!("x{INIT_TASK:x},8")), "bswapper\0");
    assert_eq!(client.ask(&format!("x{:x},10", end - 4)), "b\0\0\0\0");
    assert_eq!(client.ask(&format!("x{end:x},4")), "E0e");
}

/// Entries of 32 bytes, each at its number times 256 into the page of `INIT_TASK`, with the next link in the eight bytes
/// from 8 on.
fn with_list(links: &[(u64, u64)]) -> FakeHost {
    let host = FakeHost::new();
    for (entry, next) in links {
        let place = INIT_TASK + entry * 0x100 + 8;
        host.written.lock().unwrap().extend((place..).zip(next.to_le_bytes()));
    }
    host
}

fn link(entry: u64) -> u64 {
    INIT_TASK + entry * 0x100 + 8
}

#[test]
fn a_list_comes_in_one_packet() {
    let head = link(9);
    let ask = |links: &[(u64, u64)], node: u64| {
        attached(with_list(links)).1.ask(&format!("qnettlp.list:{node:x},{head:x},8,20,8"))
    };
    let links_of = |reply: &str| -> Vec<u64> {
        let bytes = unhex(reply);
        assert_eq!(bytes.len() % 0x20, 0, "{reply}");
        bytes.chunks(0x20).map(|entry| u64::from_le_bytes(entry[8..16].try_into().unwrap())).collect()
    };
    let whole = [(1, link(3)), (3, link(2)), (2, head)];
    assert_eq!(links_of(&ask(&whole, link(1))), [link(3), link(2), head]);
    for beyond in [link(100), 0, 0x7fff_0000_0000, 7] {
        let torn = [(1, link(3)), (3, beyond)];
        assert_eq!(links_of(&ask(&torn, link(1))), [link(3), beyond], "what can be read");
        assert_eq!(ask(&torn, beyond), "E0e", "nothing can");
    }
    let circle = links_of(&ask(&[(1, link(2)), (2, link(1))], link(1)));
    assert_eq!(circle.len(), PACKET_SIZE / 2 / 0x20, "what a packet holds");
}

#[test]
fn a_list_that_makes_no_sense_is_an_error() {
    let (_server, mut client) = attached(FakeHost::new());
    for wrong in
        ["", "1,2,3", "1,2,8,20,19", "1,2,8,ffffffffffffffff,8", "1,2,8,8001,8", "1,2,8,20,8,9", "x,2,8,20,8"]
    {
        assert_eq!(client.ask(&format!("qnettlp.list:{wrong}")), "E16", "{wrong}");
    }
}

fn search(client: &mut Client, addr: u64, len: u64, pattern: &[u8]) -> String {
    client.raw(&frame(&[format!("qSearch:memory:{addr:x};{len:x};").as_bytes(), &escape(pattern)].concat()));
    client.reply().unwrap()
}

#[test]
fn a_search_skips_what_is_not_there() {
    let host = FakeHost::new();
    let page = INIT_TASK..INIT_TASK + PAGE as u64;
    host.written.lock().unwrap().extend((page.start + 0x7fe..).zip(*b"#}$*"));
    host.written.lock().unwrap().extend([(page.end - 1, b'e')]);
    let (_server, mut client) = attached(host);
    let start = TEXT + SLIDE - (1 << 30);
    let len = page.end - start;
    assert_eq!(search(&mut client, start, len, b"Linux version"), format!("1,{:x}", TEXT + SLIDE + 0x40));
    assert_eq!(search(&mut client, start, len, b"swapper"), format!("1,{INIT_TASK:x}"), "behind a hole");
    assert_eq!(search(&mut client, start, len, b"#}$*"), format!("1,{:x}", page.start + 0x7fe));
    assert_eq!(search(&mut client, page.start + 1, len, b"e"), format!("1,{:x}", page.start + 5));
    assert_eq!(search(&mut client, page.start + 6, len, b"e"), format!("1,{:x}", page.end - 1));
    assert_eq!(search(&mut client, page.start + 6, page.end - page.start - 7, b"e"), "0", "beyond its end");
    assert_eq!(search(&mut client, start, len, b"nowhere"), "0");
    assert_eq!(search(&mut client, 0xffff_ffff_0000_0000, u64::MAX, b"nowhere"), "0", "to the very end");
    assert_eq!(search(&mut client, page.end, 0, b"e"), "0");
    for wrong in ["", "1;2", "1;2;", "x;2;a"] {
        assert_eq!(client.ask(&format!("qSearch:memory:{wrong}")), "E16", "{wrong}");
    }
}

#[test]
fn a_search_of_a_process_is_of_the_thread_that_is_selected() {
    let (_server, mut client) = attached(FakeHost::new());
    client.ask("Hg1");
    assert_eq!(search(&mut client, 0x1000, 0x100, &[1, 1]), "1,1000", "filled with its pid");
    client.ask("Hg989680");
    assert_eq!(search(&mut client, 0x1000, 0x100, &[1, 1]), "0", "a CPU runs no task known here");
}

#[test]
fn unknown_registers_are_not_zeros() {
    let (_server, mut client) = attached(FakeHost::new());
    assert_eq!(client.ask("Hg989681"), "OK", "CPU 1");
    let registers = client.ask("g");
    let known: Vec<&str> = registers.split('x').filter(|known| !known.is_empty()).collect();
    let unknown_pc = "ffffffffffffffff";
    let area = (PERCPU_AREA + PAGE as u64).to_le_bytes();
    let area: String = area.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(known, [unknown_pc, area.as_str(), "0050341200000000"], "only gs_base and cr3");
    assert_eq!(client.ask("Hg1"), "OK");
    let registers = client.ask("g");
    let known: Vec<&str> = registers.split('x').filter(|known| !known.is_empty()).collect();
    assert_eq!(known, ["3412000000000000", "20000092ffffffff"]);
    assert_eq!(client.ask("Hg77"), "OK");
    assert!(client.ask("g").starts_with("E.there is no thread 119"), "no such thread");
}

#[test]
fn a_task_that_exited_is_an_error_that_names_it() {
    let host = FakeHost::new();
    let lives = host.init_lives.clone();
    let (_server, mut client) = attached(host);
    lives.store(false, Ordering::Relaxed);
    assert_eq!(client.ask("Hg1"), "OK");
    assert!(client.ask("g").starts_with("E.thread 1 (<init> & ") && client.ask("g").contains(" has exited"));
    assert_eq!(client.ask("T1"), "E01");
    assert_eq!(client.ask("T989680"), "OK", "a CPU stays");
    assert_eq!(client.ask("qfThreadInfo"), "m989680,989681");
    assert!(!client.ask("qXfer:threads:read::0,1000").contains("init"));
    assert_eq!(client.ask("Hg989680"), "OK");
    assert!(!client.ask("g").starts_with('E'), "and the session goes on");
}

#[test]
fn registers_are_read_when_they_are_first_asked_for() {
    let host = FakeHost::new();
    let lives = host.init_lives.clone();
    let (_server, mut client) = attached(host);
    client.ask("Hg1");
    let registers = client.ask("g");
    lives.store(false, Ordering::Relaxed);
    assert_eq!(client.ask("g"), registers, "the same look");
    client.monitor("refresh");
    assert!(client.ask("g").contains("has exited"));
}

#[test]
fn only_the_threads_asked_for_are_shown() {
    for (threads, shown) in
        [("cpus", "m989680,989681"), ("*init*", "m989680,989681,01"), ("sh", "m989680,989681")]
    {
        let view = View { threads: threads.parse().unwrap(), ..View::default() };
        let server = fake::serve_with(FakeHost::new(), Options { view, ..fake::options() });
        let mut client = Client::connect(server.address);
        assert_eq!(client.ask("qfThreadInfo"), shown, "{threads}");
    }
}

#[test]
fn threads_are_listed_cpus_first_with_their_names() {
    let (_server, mut client) = attached(FakeHost::new());
    assert_eq!(client.ask("qfThreadInfo"), "m989680,989681,01");
    assert_eq!(client.ask("qsThreadInfo"), "l");
    assert_eq!(client.ask("?"), "T00thread:989680;");
    assert_eq!(client.ask("T1"), "OK");
    assert_eq!(client.ask("T2"), "E01");
    let detail = client.ask("qThreadExtraInfo,989681");
    assert_eq!(unhex(&detail), b"CPU 1, pid 0, running");

    let mut xml = String::new();
    loop {
        let part = client.ask(&format!("qXfer:threads:read::{:x},20", xml.len()));
        // The one byte in here that is escaped.
        xml.push_str(&part[1..].replace("}]", "}"));
        if part.starts_with('l') {
            break;
        }
    }
    assert!(
        xml.contains("<thread id=\"989681\" core=\"1\" name=\"swapper/1\">CPU 1, pid 0, running</thread>")
    );
    assert!(
        xml.contains("<thread id=\"1\" name=\"&lt;init&gt; &amp; \\u{1b}\">pid 1, sleeping</thread>"),
        "{xml}"
    );
}

#[test]
fn offsets_are_told_only_when_they_are_known() {
    let (_server, mut client) = attached(FakeHost::new());
    assert_eq!(client.ask("qOffsets"), "TextSeg=ffffffff92000000");
    let (_server, mut client) = attached(FakeHost::without_slide());
    assert_eq!(client.ask("qOffsets"), "");
}

#[test]
fn the_symbol_file_is_the_only_file() {
    let (_server, mut client) = attached(FakeHost::with_symbols(b"\x7fELF".to_vec()));
    assert!(client.ask("qSupported").ends_with(";qXfer:exec-file:read+"));
    assert_eq!(client.ask("qXfer:exec-file:read::0,100"), format!("m{SYMBOL_FILE}"));
    assert_eq!(client.ask("qXfer:exec-file:read::8,100"), "l");
    let open = |name: &str| {
        let name: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("vFile:open:{name},0,0")
    };
    assert_eq!(client.ask("vFile:setfs:0"), "F0");
    assert_eq!(client.ask(&open("/etc/passwd")), "F-1,02");
    assert_eq!(client.ask(&open(SYMBOL_FILE).replace(",0,0", ",602,1c0")), "F-1,1e", "read-only");
    assert_eq!(client.ask(&open(SYMBOL_FILE)), "F00");
    assert_eq!(client.ask("vFile:pread:0,100,1"), "F3;ELF");
    assert_eq!(client.ask("vFile:pread:0,100,7fffffffffffffff"), "F0;");
    for damaged in ["", "0", "0,1", "0,1,2,3", "x,1,2", "100000000,1,2"] {
        assert_eq!(client.ask(&format!("vFile:pread:{damaged}")), "F-1,16", "{damaged}");
    }
    assert_eq!(client.ask("vFile:close:0"), "F0");
    assert_eq!(client.ask("vFile:pread:0,100,1"), "F-1,9");

    let (_server, mut client) = attached(FakeHost::new());
    assert!(!client.ask("qSupported").contains("exec-file"));
    assert_eq!(client.ask(&open(SYMBOL_FILE)), "F-1,02");
}

#[test]
fn percpu_offsets_are_rebased_once_the_client_has_moved_its_symbols() {
    let (_server, mut client) = attached(FakeHost::new());
    let offset = |client: &mut Client, cpu: u64| {
        let bytes = client.memory(PER_CPU_OFFSET + SLIDE + 8 * cpu, 8).unwrap();
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    assert_eq!(offset(&mut client, 1), PERCPU_AREA + PAGE as u64, "not asked yet");
    client.ask("qOffsets");
    assert_eq!(offset(&mut client, 0), PERCPU_AREA - SLIDE);
    assert_eq!(offset(&mut client, 1), PERCPU_AREA + PAGE as u64 - SLIDE);
    let all = client.memory(PER_CPU_OFFSET + SLIDE - 4, 24).unwrap();
    let bytes = [[0x90; 4].as_slice(), &(PERCPU_AREA - SLIDE).to_le_bytes()].concat();
    assert_eq!(all[..12], bytes, "only the array");

    let off = Options { view: View { percpu_rebase: false, ..View::default() }, ..fake::options() };
    let server = fake::serve_with(FakeHost::new(), off);
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask("qOffsets"), "TextSeg=ffffffff92000000");
    assert_eq!(offset(&mut client, 0), PERCPU_AREA, "--percpu-rebase=off");
}

#[test]
fn a_new_client_starts_with_offsets_as_they_are() {
    let server = fake::serve(FakeHost::new());
    let mut first = Client::connect(server.address);
    first.ask("qOffsets");
    first.ask("D");
    drop(first);
    let mut second = super::lifecycle::connect_when_free(server.address);
    let bytes = second.memory(PER_CPU_OFFSET + SLIDE, 8).unwrap();
    assert_eq!(bytes, PERCPU_AREA.to_le_bytes());
}

#[test]
fn writes_and_resumes_are_refused_with_a_sentence() {
    let (_server, mut client) = attached(FakeHost::new());
    for (packet, sentence) in [
        ("M1000,1:00", "E.memory is read-only: nettlp-gdb does not write to the target"),
        ("X1000,0:", "E.memory is read-only: nettlp-gdb does not write to the target"),
        ("P0=0000000000000000", "E.registers are read-only"),
        ("G00", "E.registers are read-only"),
    ] {
        assert!(client.ask(packet).starts_with(sentence), "{packet}");
    }
    let array = format!("M{:x},8:0000000000000000", PER_CPU_OFFSET + SLIDE);
    assert!(client.ask(&array).starts_with("E.memory is read-only"));
    client.ask("qOffsets");
    assert!(client.ask(&array).starts_with("E.refused: what gdb sees of __per_cpu_offset[] is reduced"));
    for packet in ["vCont;s:989680;c", "s", "vCont;s:989681"] {
        client.raw(&frame(packet.as_bytes()));
        let thread = if packet == "vCont;s:989681" { "989681" } else { "989680" };
        let text = client.console_until(&format!("T00thread:{thread};"));
        assert!(text.starts_with("nettlp-gdb cannot step"), "{packet}: {text}");
    }
    for breakpoint in ["0,ffffffff92000000,1", "1,ffffffff92000000,1", "3,ffffffff93000000,8"] {
        assert_eq!(client.ask(&format!("Z{breakpoint}")), "OK");
        assert_eq!(client.ask("Hg989680"), "OK", "whoever was told of a stop looks at its thread");
        for (packet, thread) in [("vCont;c", "989680"), ("vCont;c:1", "01")] {
            client.raw(&frame(packet.as_bytes()));
            let text = client.console_until(&format!("T00thread:{thread};"));
            assert!(
                text.starts_with("nettlp-gdb cannot continue: GDB has set 1 breakpoint(s)"),
                "{packet}: {text}"
            );
        }
        assert_eq!(client.ask(&format!("z{breakpoint}")), "OK");
    }
    assert_eq!(client.memory(INIT_TASK, 7).unwrap(), b"swapper", "the session goes on");
}

#[test]
fn time_passes_until_the_client_wants_to_look_again() {
    let host = FakeHost::new();
    let refreshes = host.refreshes.clone();
    let (_server, mut client) = attached(host);
    client.ask("Hg1");
    client.raw(&frame(b"vCont;c"));
    assert_eq!(client.console(), "Time passes; Ctrl-C looks at the target again.\n");
    assert_eq!(refreshes.load(Ordering::Relaxed), 1, "to attach is one");
    client.raw(b"\x03");
    assert_eq!(client.reply().unwrap(), "T02thread:01;", "the thread the client was looking at");
    assert_eq!(refreshes.load(Ordering::Relaxed), 2, "a new snapshot");
    assert_eq!(client.memory(INIT_TASK, 7).unwrap(), b"swapper");
}

#[test]
fn a_change_of_watched_memory_is_a_stop() {
    let host = FakeHost::new();
    let (refreshes, written) = (host.refreshes.clone(), host.written.clone());
    let (_server, mut client) = attached(host);
    let other = INIT_TASK + 0x100;
    for (set, clear, name) in [("Z2", "z2", "watch"), ("Z4", "z4", "awatch")] {
        assert_eq!(client.ask(&format!("{set},{INIT_TASK:x},4")), "OK");
        assert_eq!(client.ask(&format!("{set},{other:x},8")), "OK");
        for value in [1, 2] {
            client.raw(&frame(b"vCont;c"));
            assert_eq!(
                client.console(),
                "Reading 2 watched range(s), 12 bytes, every 1000 us; Ctrl-C ends it.\n"
            );
            let before = refreshes.load(Ordering::Relaxed);
            let old = written.lock().unwrap().insert(other + 1, value).unwrap_or(0);
            let text = client.console_until(&format!("T05thread:989680;{name}:{other:x};"));
            assert_eq!(
                text,
                format!(
                    "8 bytes at {other:#x}: old {:#x}, new {:#x}\n",
                    u64::from(old) << 8,
                    u64::from(value) << 8
                )
            );
            assert_eq!(refreshes.load(Ordering::Relaxed), before + 1, "a new snapshot");
        }
        client.raw(&frame(b"vCont;c"));
        client.console();
        client.raw(b"\x03");
        assert_eq!(client.reply().unwrap(), "T02thread:989680;", "Ctrl-C while watching");
        assert_eq!(client.ask(&format!("{clear},{INIT_TASK:x},4")), "OK");
        assert_eq!(client.ask(&format!("{clear},{other:x},8")), "OK");
    }
    assert_eq!(client.ask(&format!("Z2,{INIT_TASK:x},1001")), "OK");
    client.raw(&frame(b"vCont;c"));
    let text = client.console_until("T00thread:989680;");
    assert!(text.starts_with("nettlp-gdb cannot watch 1 range(s), 4097 bytes"), "{text}");
}

#[test]
fn of_two_changes_at_once_each_is_a_stop() {
    let host = FakeHost::new();
    let written = host.written.clone();
    let (_server, mut client) = attached(host);
    let places = [INIT_TASK + 0x80, INIT_TASK + 0x100, INIT_TASK + 0x180];
    for place in places {
        assert_eq!(client.ask(&format!("Z2,{place:x},8")), "OK");
    }
    client.raw(&frame(b"vCont;c"));
    client.console();
    written.lock().unwrap().extend(places.map(|place| (place, 1)));
    let line = |place: u64| format!("8 bytes at {place:#x}: old 0x0, new 0x1\n");
    let first = client.console_until(&format!("T05thread:989680;watch:{:x};", places[0]));
    assert_eq!(first, places.map(line).concat());
    assert_eq!(client.ask(&format!("z2,{:x},8", places[1])), "OK", "nobody wants to know any more");
    client.raw(&frame(b"vCont;c"));
    let second = client.console_until(&format!("T05thread:989680;watch:{:x};", places[2]));
    assert_eq!(second, line(places[2]));
    client.raw(&frame(b"vCont;c"));
    assert!(client.console().starts_with("Reading 2 watched range(s)"), "now all is told");
    client.raw(b"\x03");
    assert_eq!(client.reply().unwrap(), "T02thread:989680;");
}

#[test]
fn memory_that_cannot_be_read_ends_the_watch_with_the_reason() {
    let (_server, mut client) = attached(FakeHost::new());
    assert_eq!(client.ask("Z2,ffff800000000010,8"), "OK");
    client.raw(&frame(b"vCont;c"));
    let text = client.console_until("T00thread:989680;");
    assert!(
        text.starts_with("Watching ends: ") && text.contains("virtual address 0xffff800000000010"),
        "{text}"
    );
}

#[test]
fn an_address_of_a_process_is_not_watched() {
    let (_server, mut client) = attached(FakeHost::new());
    assert_eq!(client.ask("Z2,10,8"), "OK");
    client.raw(&frame(b"vCont;c"));
    let text = client.console_until("T00thread:989680;");
    assert!(text.starts_with("nettlp-gdb cannot watch 0x10: it is an address of a process"), "{text}");
}

#[test]
fn a_client_may_leave_and_a_server_stop_in_the_middle_of_a_watch() {
    let server = fake::serve(FakeHost::new());
    let mut client = Client::connect(server.address);
    client.ask(&format!("Z2,{INIT_TASK:x},4"));
    client.raw(&frame(b"vCont;c"));
    client.console();
    drop(client);
    let mut client = super::lifecycle::connect_when_free(server.address);
    client.ask(&format!("Z2,{INIT_TASK:x},4"));
    client.raw(&frame(b"vCont;c"));
    client.console();
    server.stop().unwrap();
    assert_eq!(client.event(), None);
}

#[test]
fn monitor_commands() {
    let (_server, mut client) = attached(FakeHost::new());
    let info = client.monitor("info");
    let unasked = "the fake machine\ngdb has not asked where the kernel runs";
    assert!(info.starts_with(unasked) && info.ends_with("then `target remote` again.\n"), "{info}");
    client.ask("qOffsets");
    assert_eq!(client.monitor("info"), "the fake machine\n");
    assert!(client.monitor("info version").starts_with("nettlp-gdb 0."));
    let help = client.monitor("help");
    let about = |line: &str| line.find("  ").map(|at| at + line[at..].len() - line[at..].trim_start().len());
    let table: Vec<_> = help.lines().take_while(|line| !line.is_empty()).map(about).collect();
    assert!(table.len() > 3 && table.iter().all(|column| column.is_some() && *column == table[0]), "{help}");
    assert!(help.contains("disconnect, and connect again"), "{help}");
    assert_eq!(
        client.monitor("help info"),
        "monitor info: what is served\nmonitor info version: the server's version\n"
    );
    assert_eq!(client.monitor("help translate"), "monitor translate ADDR: where ADDR is\n");
    assert!(client.monitor("help frob").starts_with("there is no `monitor frob`"));
    for command in ["monitor help", "monitor info version", "monitor refresh", "monitor translate ADDR"] {
        assert!(help.contains(command), "{help}");
    }
    assert!(help.contains("registers are read-only") && help.contains("only under serve --allow-write"));
    assert_eq!(client.monitor("translate"), "usage: monitor translate ADDR\n");
    assert_eq!(client.monitor("frob"), "there is no `monitor frob`; `monitor help` lists what there is\n");
    assert_eq!(client.monitor("refresh"), "3 threads\n");
    assert!(client.monitor("long").ends_with("line 2999\n"));
}

/// GDB 16 says that it takes a sentence wherever an error may be.
#[test]
fn a_client_that_takes_sentences_gets_them() {
    let (_server, mut client) = attached(FakeHost::new());
    client.ask("qSupported:multiprocess+;error-message+;swbreak+");
    let unmapped = client.memory(u64::MAX, 4).unwrap_err();
    assert!(unmapped.starts_with("E.") && unmapped.contains("0xffffffffffffffff"), "{unmapped}");
    assert_eq!(client.memory(INIT_TASK, 7).unwrap(), b"swapper");
    for (line, printed, end) in [
        ("torn", "one line\n", "E.the rest is missing"),
        ("frob", "", "E.there is no `monitor frob`; `monitor help` lists what there is"),
        ("help translate", "monitor translate ADDR: where ADDR is\n", "OK"),
    ] {
        let hex: String = line.bytes().map(|byte| format!("{byte:02x}")).collect();
        client.raw(&frame(format!("qRcmd,{hex}").as_bytes()));
        assert_eq!(client.console_until(end), printed, "{line}");
    }
    client.ask("qSupported:error-message-");
    assert_eq!(client.monitor("torn"), "one line\nthe rest is missing\n", "as any other client");
    assert_eq!(client.memory(u64::MAX, 4).unwrap_err(), "E0e");
}

#[test]
fn packets_that_make_no_sense_cost_an_error_not_the_session() {
    let (_server, mut client) = attached(FakeHost::new());
    client.ask("QStartNoAckMode");
    client.ask("Hg989681");
    for packet in
        ["m", "mzz,1", "m1", "Hg-1", "Hx", "T", "vCont;", "vCont;q", "Z9,0,0", "Z0", "qXfer:features:read:"]
    {
        let reply = client.ask(packet);
        assert!(reply.is_empty() || reply.starts_with('E'), "{packet}: {reply}");
    }
    assert!(client.ask("g").contains("0050341200000000"), "the thread is still selected");
    client.raw(&frame(&[b'm'; PACKET_SIZE + 1]));
    assert!(client.reply().unwrap().starts_with("E.the packet is longer"));
    client.raw(b"\x03\x03garbage");
    assert_eq!(client.ask("qAttached"), "1");
}
