"""A client of GDB's remote protocol that is no gdb: quick to attach, and rude on demand."""

import socket


class Client:
    """A connection. Leaving the block closes the socket without a word."""

    def __init__(self, port: int, seconds: float = 30):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        # Acknowledgement and next packet are two small writes: without this each waits for the other side's delayed ACK.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, packet: str) -> str:
        """Sends a packet, acknowledges the answer and returns it."""
        self.socket.sendall(frame(packet.encode()))
        answer = self._packet()
        self.socket.sendall(b"+")
        return answer

    def monitor(self, command: str) -> str:
        """What `monitor COMMAND` prints."""
        self.socket.sendall(frame(b"qRcmd," + command.encode().hex().encode()))
        text = b""
        while True:
            answer = self._packet()
            self.socket.sendall(b"+")
            if not answer.startswith("O") or answer == "OK":
                return text.decode()
            text += bytes.fromhex(answer[1:])

    def attach(self) -> None:
        """The first packets gdb sends, and the ones it needs an answer to."""
        assert "PacketSize" in self.ask("qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+;xmlRegisters=i386")
        assert self.ask("?")[:1] in ("S", "T")
        self.ask("qOffsets")
        assert self.ask("qfThreadInfo").startswith("m")

    def detach(self) -> None:
        """Says goodbye as gdb does."""
        assert self.ask("D") == "OK"

    def _packet(self) -> str:
        while True:
            start = self._received.find(b"$")
            end = self._received.find(b"#", start) if start >= 0 else -1
            if end >= 0 and len(self._received) >= end + 3:
                body = self._received[start + 1 : end]
                self._received = self._received[end + 3 :]
                return body.decode("latin-1")
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ConnectionError("the server closed the connection")
            self._received += chunk


def frame(body: bytes) -> bytes:
    """A packet with its checksum."""
    return b"$%s#%02x" % (body, sum(body) & 0xFF)
