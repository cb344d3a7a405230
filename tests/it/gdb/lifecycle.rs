//! Clients come, go, break and crowd; the server stays.

use std::{
    fs,
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use nettlp_gdb::{
    emulator::SplitMix64,
    gdb::{Options, Patience, packet::frame},
};

use super::{
    client::Client,
    fake::{self, FakeHost},
};

/// A client that waits its turn: the server notices that the one before has left only a moment later.
pub(crate) fn connect_when_free(address: SocketAddr) -> Client {
    for _ in 0..2000 {
        let mut client = Client::connect(address);
        let reply = client.ask("qSupported");
        if reply.starts_with("PacketSize") {
            return client;
        }
        assert!(reply.starts_with("E.another debugger"), "{reply}");
        thread::sleep(Duration::from_millis(5));
    }
    panic!("the server never got free");
}

#[test]
fn a_second_client_is_told() {
    let server = fake::serve(FakeHost::new());
    let mut first = Client::connect(server.address);
    assert_eq!(first.ask("qAttached"), "1");
    let mut second = Client::connect(server.address);
    let reply = second.ask("qSupported:multiprocess+");
    assert!(reply.starts_with("E.another debugger is attached"), "{reply}");
    assert_eq!(second.event(), None, "and hung up on");
    assert_eq!(first.ask("qAttached"), "1");
}

#[test]
fn a_slow_look_at_the_threads_holds_up_no_greeting() {
    let host = FakeHost::new();
    let looking = host.looking.clone();
    let server = fake::serve(host);
    let held = looking.lock().unwrap();
    let mut client = Client::connect(server.address);
    assert!(client.ask("qSupported").starts_with("PacketSize"));
    assert_eq!(client.ask("vMustReplyEmpty"), "");
    client.raw(&frame(b"?"));
    assert_eq!(client.event(), Some(nettlp_gdb::gdb::packet::Event::Ack), "before there is an answer");
    drop(held);
    assert_eq!(client.reply().unwrap(), "T00thread:989680;");
}

#[test]
fn a_client_may_detach_and_attach_again_on_one_connection() {
    let server = fake::serve(FakeHost::new());
    let mut client = Client::connect(server.address);
    for _ in 0..3 {
        assert_eq!(client.ask("?"), "T00thread:989680;");
        assert_eq!(client.ask("D"), "OK");
    }
}

#[test]
fn kill_ends_the_session_and_nothing_else() {
    let server = fake::serve(FakeHost::new());
    let mut client = Client::connect(server.address);
    client.raw(&frame(b"k"));
    while let Some(event) = client.event() {
        assert_eq!(event, nettlp_gdb::gdb::packet::Event::Ack);
    }
    connect_when_free(server.address);
}

#[test]
fn clients_that_vanish_in_the_middle_of_something() {
    let server = fake::serve(FakeHost::new());
    for rudeness in [&b"$m"[..], b"$qSupported#", b"$g#6", b"}", b"", &frame(b"vCont;c"), &frame(b"g")] {
        let mut client = connect_when_free(server.address);
        client.raw(rudeness);
        client.stream.shutdown(Shutdown::Both).unwrap();
    }
    connect_when_free(server.address);
}

#[test]
fn once_means_once() {
    let server = fake::serve_with(FakeHost::new(), Options { once: true, ..fake::options() });
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask("D"), "OK");
    drop(client);
    server.wait().unwrap();
}

#[test]
fn stopping_hangs_up_on_the_client() {
    let server = fake::serve(FakeHost::new());
    let address = server.address;
    let mut client = Client::connect(address);
    assert_eq!(client.ask("qAttached"), "1");
    server.stop().unwrap();
    assert_eq!(client.event(), None);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_unix_socket_is_served_and_removed() {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
        sync::Arc,
    };

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gdb.sock");
    let listen = format!("unix:{}", path.display()).parse().unwrap();
    let server = nettlp_gdb::gdb::Server::bind(Options { listen, ..fake::options() }).unwrap();
    let stopper = server.stopper();
    let thread = thread::spawn(move || server.run(Arc::new(FakeHost::new())));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&frame(b"qAttached")).unwrap();
    let mut reply = [0; 6];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+$1#31");
    stopper.stop();
    thread.join().unwrap().unwrap();
    assert!(!path.exists());
}

/// Sockets this process holds that belong to the server at `address`, listening or not.
fn sockets(address: SocketAddr) -> usize {
    let port = format!(":{:04X}", address.port());
    let own: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let belongs = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[1].ends_with(&port) && own.iter().any(|inode| inode == columns[9])
    };
    table.lines().skip(1).filter(belongs).count()
}

/// Threads that serve a client of the server at `address`.
fn threads(address: SocketAddr) -> usize {
    let name = format!("gdb:{}", address.port());
    let is_session = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok).filter(is_session).count()
}

#[test]
fn a_thousand_attach_and_detach_cycles_leave_nothing_behind() {
    let server = fake::serve(FakeHost::new());
    assert_eq!((sockets(server.address), threads(server.address)), (1, 0), "before");
    for cycle in 0..1000 {
        let mut client = connect_when_free(server.address);
        assert_eq!(client.ask("?"), "T00thread:989680;");
        if cycle == 0 {
            assert_eq!((sockets(server.address), threads(server.address)), (2, 1), "while attached");
        }
        if cycle % 3 != 0 {
            assert_eq!(client.ask("D"), "OK");
        }
    }
    for _ in 0..2000 {
        if (sockets(server.address), threads(server.address)) == (1, 0) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((sockets(server.address), threads(server.address)), (1, 0), "after");
}

#[test]
fn random_bytes_never_end_the_server() {
    let server = fake::serve(FakeHost::new());
    let mut random = SplitMix64::new(1);
    for round in 0..200 {
        let mut client = connect_when_free(server.address);
        for _ in 0..20 {
            let len = random.below(64);
            let noise: Vec<u8> = (0..len).map(|_| random.draw() as u8).collect();
            // Half of it is well-framed, so that it gets past the framing.
            let starts = [&b"m"[..], b"vCont;", b"q", b"H", b"Z", b"qXfer:", b"T", b"z", b"qRcmd,", b""];
            let start = starts[random.below(starts.len() as u64) as usize];
            let framed = frame(&[start, &noise].concat());
            let bytes = if round % 2 == 0 { &framed } else { &noise };
            if std::io::Write::write_all(&mut client.stream, bytes).is_err() {
                break;
            }
        }
        // Nobody reads the answers: a client that leaves them unread must not matter either.
    }
    let mut client = connect_when_free(server.address);
    assert_eq!(client.ask("qAttached"), "1");
}

/// A server whose patience ends soon.
fn impatient() -> fake::Running {
    let soon = Duration::from_millis(50);
    let patience = Patience { first_packet: soon, packet: soon, reply: soon, ..Patience::default() };
    fake::serve_with(FakeHost::new(), Options { patience, ..fake::options() })
}

/// Whether the server has hung up; what it says before is skipped.
fn is_hung_up_on(client: &mut Client) {
    while client.event().is_some() {}
}

#[test]
fn clients_that_finish_nothing_are_cut_off() {
    let server = impatient();
    let greeting = frame(b"qSupported");
    for start in [&b""[..], b"+", b"GET / HTTP/1.1\r\n\r\n", b"$qSuppo", &[&greeting[..], b"$m0"].concat()] {
        let mut client = Client::connect(server.address);
        client.raw(start);
        is_hung_up_on(&mut client);
    }
    let mut client = Client::connect(server.address);
    client.raw(&frame(b"qSupported"));
    client.raw(&b"$g#00".repeat(16));
    is_hung_up_on(&mut client);
    assert_eq!(connect_when_free(server.address).ask("qAttached"), "1");
}

#[test]
fn a_client_that_sends_noise_for_ever_is_cut_off() {
    let server = impatient();
    let mut client = Client::connect(server.address);
    while std::io::Write::write_all(&mut client.stream, &[b'x'; 4096]).is_ok() {}
    assert_eq!(connect_when_free(server.address).ask("qAttached"), "1");
}

#[test]
fn a_client_that_takes_no_replies_is_cut_off() {
    let server = impatient();
    let mut client = Client::connect(server.address);
    let question: Vec<u8> = frame(b"qRcmd,6c6f6e67");
    // 60 KiB each: more than the sockets between us hold, whatever their size.
    for _ in 0..2000 {
        if std::io::Write::write_all(&mut client.stream, &question).is_err() {
            break;
        }
    }
    assert_eq!(connect_when_free(server.address).ask("qAttached"), "1");
}

#[test]
fn a_crowd_holds_up_nobody() {
    let server = fake::serve(FakeHost::new());
    let mut first = Client::connect(server.address);
    assert_eq!(first.ask("qAttached"), "1");
    let mut crowd: Vec<Client> = (0..200).map(|_| Client::connect(server.address)).collect();
    assert_eq!(first.ask("qAttached"), "1");
    // Most are hung up on at once, a few after they were told.
    crowd.iter_mut().for_each(is_hung_up_on);
    assert_eq!(first.ask("qAttached"), "1");
    drop(first);
    let mut next = connect_when_free(server.address);
    let _crowd: Vec<Client> = (0..200).map(|_| Client::connect(server.address)).collect();
    assert_eq!(next.ask("qAttached"), "1");
    server.stop().unwrap();
}
