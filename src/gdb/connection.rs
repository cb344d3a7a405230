//! The byte stream to a client: TCP, Unix socket, or standard input and output.
//!
//! Reads take whatever has arrived, with a time limit where the caller must also watch something else; writes
//! are whole replies. TCP sends at once (`TCP_NODELAY`) and notices a client whose machine has vanished.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Socket, TcpKeepalive};

/// Bytes taken from the stream at once.
const READ_SIZE: usize = 64 * 1024;
/// A silent client is asked for a sign of life after this long, and given up after three more.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A socket's time limit is counted in ticks of the clock, of 10 ms at most: less is waited for in another way.
pub const TICK: Duration = Duration::from_millis(10);

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<'b> {
    /// Some bytes.
    Bytes(&'b [u8]),
    /// Nothing within the time limit.
    Nothing,
    /// The client is gone.
    End,
}

enum Stream {
    Socket(Timed),
    Stdio(Stdin),
}

/// A socket, and the time limits it has: setting one is a system call, and few packets need another.
struct Timed {
    socket: Socket,
    read: Option<Duration>,
    write: Option<Duration>,
}

impl Timed {
    /// Waits as [`Connection::read`] does.
    fn read(&mut self, limit: Option<Duration>, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(limit) = limit
            && limit < TICK
        {
            thread::sleep(limit);
            return self.arrived(buffer);
        }
        if self.read != limit {
            self.socket.set_read_timeout(limit)?;
            self.read = limit;
        }
        self.socket.read(buffer)
    }

    /// What has arrived, without waiting.
    fn arrived(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
    }

    fn limit_writes(&mut self, limit: Duration) -> io::Result<()> {
        if self.write != Some(limit) {
            self.socket.set_write_timeout(Some(limit))?;
            self.write = Some(limit);
        }
        Ok(())
    }
}

/// Standard input cannot be read with a time limit: a thread reads it, and sends an empty buffer at its end.
struct Stdin {
    received: Receiver<Vec<u8>>,
    sender: SyncSender<Vec<u8>>,
    hung_up: Arc<AtomicBool>,
}

/// A connected client.
pub struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    /// How long the client may take for a whole reply.
    reply: Duration,
}

impl Connection {
    /// A client that connected over TCP, and may take `reply` for each reply.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn tcp(stream: TcpStream, reply: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
        let socket = Socket::from(stream);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(reply))?;
        Self::socket(socket, reply)
    }

    /// A client that connected over a Unix socket, and may take `reply` for each reply.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn unix(stream: UnixStream, reply: Duration) -> io::Result<Self> {
        Self::socket(Socket::from(stream), reply)
    }

    fn socket(socket: Socket, reply: Duration) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        Ok(Self::over(Stream::Socket(Timed { socket, read: None, write: None }), reply))
    }

    /// The process that started us with our standard input and output as its pipe.
    ///
    /// # Errors
    /// When no thread can be started to read from it.
    pub fn stdio() -> io::Result<Self> {
        let (sender, received) = sync_channel(1);
        let stdin = Stdin { received, sender: sender.clone(), hung_up: Arc::default() };
        thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let mut buffer = vec![0; READ_SIZE];
            let mut input = io::stdin().lock();
            loop {
                let len = input.read(&mut buffer).unwrap_or(0);
                let bytes = buffer.get(..len).unwrap_or_default().to_vec();
                if sender.send(bytes).is_err() || len == 0 {
                    break;
                }
            }
        })?;
        Ok(Self::over(Stream::Stdio(stdin), Duration::MAX))
    }

    fn over(stream: Stream, reply: Duration) -> Self {
        Self { stream, buffer: vec![0; READ_SIZE], reply }
    }

    /// A handle that ends this connection's reads from elsewhere.
    ///
    /// # Errors
    /// When the socket cannot be duplicated.
    pub fn hang_up(&self) -> io::Result<HangUp> {
        Ok(match &self.stream {
            Stream::Socket(stream) => HangUp::Socket(stream.socket.try_clone()?),
            Stream::Stdio(stdin) => HangUp::Stdio(stdin.sender.clone(), Arc::clone(&stdin.hung_up)),
        })
    }

    /// Waits for bytes, at most for `limit` if there is one; a limit below [`TICK`] is always waited for.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn read(&mut self, limit: Option<Duration>) -> io::Result<Input<'_>> {
        let read = match &mut self.stream {
            Stream::Socket(stream) => stream.read(limit, &mut self.buffer),
            Stream::Stdio(stdin) if stdin.hung_up.load(Ordering::Acquire) => Ok(0),
            Stream::Stdio(stdin) => {
                let bytes = match limit {
                    Some(limit) => stdin.received.recv_timeout(limit),
                    None => stdin.received.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match bytes {
                    Ok(bytes) => {
                        self.buffer = bytes;
                        Ok(self.buffer.len())
                    }
                    Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::WouldBlock.into()),
                    Err(RecvTimeoutError::Disconnected) => Ok(0),
                }
            }
        };
        match read {
            Ok(0) => Ok(Input::End),
            Ok(len) => Ok(Input::Bytes(self.buffer.get(..len).unwrap_or_default())),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                    Ok(Input::Nothing)
                }
                _ => Err(error),
            },
        }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// When the stream breaks, or the client has not taken them all in its time.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Socket(stream) => write_within(self.reply, bytes, stream),
            Stream::Stdio(_) => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
        }
    }
}

/// Writes all of `bytes` in `limit` altogether: a client that takes one byte now and then is as good as one that takes
/// none.
fn write_within(limit: Duration, mut bytes: &[u8], stream: &mut Timed) -> io::Result<()> {
    let (start, mut left) = (Instant::now(), limit);
    while !bytes.is_empty() {
        if left.is_zero() {
            let text = format!("the client did not take a reply within {limit:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        stream.limit_writes(left)?;
        match stream.socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
        left = limit.saturating_sub(start.elapsed());
    }
    Ok(())
}

/// Whether an error only says that the client has gone without a word.
#[must_use]
pub fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Ends another thread's connection: what it is sending still goes out, what it waits for does not come.
pub enum HangUp {
    /// Over TCP or a Unix socket.
    Socket(Socket),
    /// Over standard input: what wakes its reader, and what says why.
    Stdio(SyncSender<Vec<u8>>, Arc<AtomicBool>),
}

impl HangUp {
    /// Ends it.
    pub fn now(&self) {
        let ended = match self {
            Self::Socket(socket) => socket.shutdown(Shutdown::Read),
            Self::Stdio(sender, hung_up) => {
                hung_up.store(true, Ordering::Release);
                // A full channel means that its reader does not wait.
                let _ = sender.try_send(Vec::new());
                Ok(())
            }
        };
        if let Err(error) = ended {
            log::debug!("hanging up: {error}");
        }
    }
}
