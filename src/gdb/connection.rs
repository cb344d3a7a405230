//! The byte stream to a client: TCP, Unix socket, or standard input and output.
//!
//! Reads take whatever has arrived, with a time limit where the caller must also watch something else; writes
//! are whole replies. TCP sends at once (`TCP_NODELAY`) and notices a client whose machine has vanished.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};

/// Bytes taken from the stream at once.
const READ_SIZE: usize = 64 * 1024;
/// A silent client is asked for a sign of life after this long, and given up after three more.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// A client that takes no bytes for this long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

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
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Standard input cannot be read with a time limit: a thread reads it.
    Stdio(Receiver<Vec<u8>>),
}

/// A connected client.
pub struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Connection {
    /// A client that connected over TCP.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self::over(Stream::Tcp(stream)))
    }

    /// A client that connected over a Unix socket.
    ///
    /// # Errors
    /// When the socket cannot be set up.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self::over(Stream::Unix(stream)))
    }

    /// The process that started us with our standard input and output as its pipe.
    ///
    /// # Errors
    /// When no thread can be started to read from it.
    pub fn stdio() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(1);
        thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let mut buffer = vec![0; READ_SIZE];
            let mut input = io::stdin().lock();
            while let Ok(len @ 1..) = input.read(&mut buffer) {
                let bytes = buffer.get(..len).unwrap_or_default().to_vec();
                if sender.send(bytes).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self::over(Stream::Stdio(receiver)))
    }

    fn over(stream: Stream) -> Self {
        Self { stream, buffer: vec![0; READ_SIZE] }
    }

    /// A handle that ends this connection's reads from elsewhere; `None` where that cannot be done.
    ///
    /// # Errors
    /// When the socket cannot be duplicated.
    pub fn hang_up(&self) -> io::Result<Option<HangUp>> {
        Ok(match &self.stream {
            Stream::Tcp(stream) => Some(HangUp::Tcp(stream.try_clone()?)),
            Stream::Unix(stream) => Some(HangUp::Unix(stream.try_clone()?)),
            Stream::Stdio(_) => None,
        })
    }

    /// Waits for bytes, at most for `limit` if there is one.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn read(&mut self, limit: Option<Duration>) -> io::Result<Input<'_>> {
        let read = match &mut self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.read(&mut self.buffer)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.read(&mut self.buffer)
            }
            Stream::Stdio(receiver) => {
                let bytes = match limit {
                    Some(limit) => receiver.recv_timeout(limit),
                    None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
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
    /// When the stream breaks or the client takes no bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Stdio(_) => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
        }
    }
}

/// Whether an error only says that the client has gone without a word.
#[must_use]
pub fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Ends another thread's connection: what it is sending still goes out, what it waits for does not come.
pub enum HangUp {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl HangUp {
    /// Ends it.
    pub fn now(&self) {
        let ended = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Read),
            Self::Unix(stream) => stream.shutdown(Shutdown::Read),
        };
        if let Err(error) = ended {
            log::debug!("hanging up: {error}");
        }
    }
}
