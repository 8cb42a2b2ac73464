"""The GDB remote serial protocol, as far as a client needs it that reads and changes nothing.

A packet is `$data#checksum`. Commands go out and replies come back in order, so that many may be
under way at once. Nothing that a stub sends is trusted: packets, what they unpack to, and the time
that an answer takes are bounded.

Source: GDB's manual, appendix "GDB Remote Serial Protocol", "Overview", "Stop Reply Packets" and
"Packet Acknowledgment".
"""

import re
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from crosswalk.walker.errors import BadInput

__all__ = ["Address", "Disconnected", "Remote", "StubError", "parse_address"]

_PIPELINED = 64
"""How many commands may be under way at once."""

_TRIES = 4
_LARGEST = 1 << 20
"""The most bytes of a packet, packed or not."""

_OUTPUT = 1 << 24
"""The most bytes that a command of the monitor may print."""

_UNASKED = 256
"""The most stop replies, notifications and damaged packets in front of one reply."""

_NOISE = 1 << 16
"""The most bytes between two packets."""

_SECONDS_OF_MANY = 0.1
"""How long a reply may take on average where many are due at once."""

_SECONDS_A_REPLY = 1.0
"""How long a reply may take on average, in all: longer than to the other end of the world."""

_STOPPED = re.compile(rb"S[0-9a-fA-F]{2}|T[0-9a-fA-F]{2}(?:[^;:]+:[^;]*;)*")
_ENDED = re.compile(rb"[WX][0-9a-fA-F]{2}(?:;.*)?")
_ESCAPE, _REPEAT = b"}*"
_REPEATS = range(32, 127)
"""What may follow a `*`: the number of repeats, plus 29."""


class StubError(BadInput):
    """A stub doesn't answer, or answers with what can't be made sense of."""


class Disconnected(StubError):
    """There is no connection, or there is none any more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a stub listens: a host and a TCP port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""


def parse_address(text: str) -> Address:
    """Return the address of HOST:PORT, [IPV6]:PORT, :PORT (localhost) or a path with a slash.

    Raises `BadInput` for a text that is none of these.
    """
    if "/" in text:
        return Address(path=text)
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\[\]:]*)):([0-9]{1,5})", text)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        raise BadInput("not the address of a stub: gdb:HOST:PORT, gdb:[IPV6]:PORT or gdb:/SOCKET")
    return Address(found[1] or found[2] or "localhost", int(found[3]))


class Remote:
    """A connection to a stub.

    `seconds` is how long an answer may take. `stopped` tells whether the stub has reported, without
    being asked, that its target stopped; `heard` whether it has sent anything at all.

    Raises `Disconnected` where there is no connection, `StubError` for answers that don't come or
    that make no sense.
    """

    def __init__(self, address: Address, *, seconds: float) -> None:
        self._seconds = seconds
        self._buffer = bytearray()
        self._acknowledged = True  # Until the stub agrees to leave that out.
        self._sent: deque[bytes] = deque()  # Commands without a reply yet.
        self._packets = 0
        self._waited = 0.0
        self.stopped = False
        self.heard = False
        try:
            self._socket = _connected(address, seconds)
        except (OSError, UnicodeError) as error:
            raise Disconnected(f"no connection: {_reason(error)}") from None

    def close(self) -> None:
        """Close the connection; nothing is sent."""
        self._socket.close()

    def without_acknowledgments(self) -> None:
        """Have both sides leave out acknowledgments, if the stub knows that."""
        if self.ask(b"QStartNoAckMode") == b"OK":
            self._acknowledged = False

    def ask(self, command: bytes) -> bytes:
        """Return the reply to one command."""
        return self.ask_many([command])[0]

    def ask_many(self, commands: Sequence[bytes]) -> list[bytes]:
        """Return the replies to commands, up to 64 of which are under way at a time.

        Those whose replies were damaged are sent again, one by one.
        """
        replies: list[bytes] = []
        damaged = []
        coming = iter(commands)
        until = monotonic() + self._seconds + _SECONDS_OF_MANY * len(commands)
        self._send(coming, _PIPELINED)
        while self._sent:
            reply = self._reply(until)
            if reply is None:
                damaged.append(len(replies))
            replies.append(reply or b"")
            self._send(coming, 1)
        for number in damaged:
            replies[number] = self._again(commands[number])
        return replies

    def monitor(self, command: str) -> str:
        """Return what a command of the stub's monitor prints; "" where there is no monitor."""
        until = monotonic() + self._seconds
        self._send(iter([b"qRcmd," + command.encode().hex().encode()]), 1)
        printed = bytearray()
        while True:
            reply = self._reply(until, output=True)
            if reply is None:
                raise StubError(f"the answer to {command!r} is damaged")
            if reply[:1] != b"O" or reply == b"OK":
                return printed.decode(errors="replace")
            printed += _bytes_of(reply[1:])
            if len(printed) > _OUTPUT:
                raise StubError(f"more than {_OUTPUT:,} bytes of answer to {command!r}")

    def look_for_stop(self, seconds: float) -> None:
        """Set `stopped` where a stop reply comes before the reply that is due, in these seconds.

        For a connection that isn't used any more: no command, and no error, comes of it.
        """
        until = monotonic() + seconds
        try:
            packet = self._packet(until)
            while packet is None or not packet[1]:
                packet = self._packet(until)
        except StubError:
            return
        self.stopped = self.stopped or bool(_STOPPED.fullmatch(packet[0]))

    def detach(self) -> None:
        """Have the target go on. Nothing can be asked, nor acknowledged, after that.

        QEMU stops a guest for any byte that comes while it runs, so that a damaged answer counts
        as one that came.
        """
        until = monotonic() + self._seconds
        self._write(_packet(b"D"))
        for _ in range(_UNASKED):
            packet = self._packet(until)
            if packet is None:
                self._write(_packet(b"D"))
            elif not packet[1] or packet[0] == b"OK":
                return
        raise StubError("it can't be had to let the guest go on")

    def _again(self, command: bytes) -> bytes:
        for _ in range(_TRIES):
            self._send(iter([command]), 1)
            reply = self._reply(monotonic() + self._seconds)
            if reply is not None:
                return reply
        raise StubError(f"{_TRIES + 1} replies in a row with a wrong checksum")

    def _send(self, commands: Iterator[bytes], most: int) -> None:
        """Send the next commands, at most so many."""
        some = [command for _, command in zip(range(most), commands, strict=False)]
        if some:
            self._sent.extend(some)
            self._write(b"".join(map(_packet, some)))

    def _write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._seconds)
            self._socket.sendall(data)
        except OSError as error:
            raise Disconnected(f"the connection was lost: {_reason(error)}") from None

    def _reply(self, until: float, *, output: bool = False) -> bytes | None:
        """Return the reply to the oldest command, or None where it is damaged.

        With `output`, what a monitor prints is one, and others follow. A stub sends these without
        waiting, so that it couldn't tell which one to send again.
        """
        tries = 0
        for _ in range(_UNASKED):
            packet = self._packet(until)
            if packet is None:  # The stub hasn't understood what it was sent.
                tries += 1
                if tries > _TRIES or len(self._sent) != 1:
                    raise StubError("the stub refuses what it is sent as damaged")
                self._write(_packet(self._sent[0]))
                continue
            data, right = packet
            if right and _STOPPED.fullmatch(data):
                # The next reply, or the next command, acknowledges it, too.
                self.stopped = True
                continue
            if right and _ENDED.fullmatch(data):
                raise Disconnected("the guest has ended")
            if not right and self._acknowledged and len(self._sent) == 1 and not output:
                tries += 1
                if tries > _TRIES:
                    raise StubError(f"{tries:,} packets in a row with a wrong checksum")
                self._write(b"-")
                continue
            more = output and right and data[:1] == b"O" and data != b"OK"
            if not more:
                self._sent.popleft()
            # A command acknowledges the replies before it; one for each of those would be too many.
            if self._acknowledged and (more or not self._sent):
                self._write(b"+")
            return data if right else None
        raise StubError(f"{_UNASKED:,} packets, and no reply among them")

    def _packet(self, until: float) -> tuple[bytes, bool] | None:
        """Return the next packet, and whether its checksum is right; None for a NAK."""
        noise = 0
        while True:
            start = next((at for at, byte in enumerate(self._buffer) if byte in b"$-%"), None)
            noise += len(self._buffer) if start is None else start
            if noise > _NOISE:
                raise StubError("no stub answers there: what comes are no packets")
            del self._buffer[: len(self._buffer) if start is None else start]
            if self._buffer[:1] == b"-":
                del self._buffer[:1]
                return None
            end = self._buffer.find(b"#")
            if 0 < end <= len(self._buffer) - 3:
                packet = bytes(self._buffer[: end + 3])
                del self._buffer[: end + 3]
                if packet[:1] == b"$":
                    self._packets += 1
                    return _unpacked(packet[1:-3], packet[-2:])
                noise += len(packet)  # A notification.
                continue
            if len(self._buffer) > _LARGEST:
                raise StubError(f"a packet of more than {_LARGEST:,} bytes")
            self._receive(until)

    def _receive(self, until: float) -> None:
        began = monotonic()
        if self._waited > self._seconds + _SECONDS_A_REPLY * self._packets:
            raise StubError("it answers too slowly")
        try:
            # Too late is no time at all, but not 0, with which a socket doesn't wait for anything.
            self._socket.settimeout(max(until - began, 1e-6))
            some = self._socket.recv(1 << 16)
        except TimeoutError:
            more = "" if self.heard else " (does another debugger hold it?)"
            raise StubError(f"no answer in time{more}") from None
        except OSError as error:
            raise Disconnected(f"the connection was lost: {_reason(error)}") from None
        self._waited += monotonic() - began
        if not some:
            raise Disconnected("the connection was lost: the stub has closed it")
        self.heard = True
        self._buffer += some


def _connected(address: Address, seconds: float) -> socket.socket:
    if not address.path:
        found = socket.create_connection((address.host, address.port), timeout=seconds)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.settimeout(seconds)
        found.connect(address.path)
    except OSError:
        found.close()
        raise
    return found


def _packet(data: bytes) -> bytes:
    return b"$%s#%02x" % (data, _checksum(data))


def _checksum(data: bytes) -> int:
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint64)) & 0xFF


def _unpacked(data: bytes, checksum: bytes) -> tuple[bytes, bool]:
    """Return what a packet says, without escapes and repeats, and if it is undamaged."""
    try:
        right = _checksum(data) == int(checksum, 16)
    except ValueError:
        right = False
    if not right or (b"}" not in data and b"*" not in data):
        return data, right
    unpacked = bytearray()
    at = 0
    while at < len(data):
        byte, after = data[at], data[at + 1 : at + 2]
        if byte not in (_ESCAPE, _REPEAT):
            unpacked.append(byte)
            at += 1
            continue
        if not after or (byte == _REPEAT and (not unpacked or after[0] not in _REPEATS)):
            return data, False
        unpacked += bytes([after[0] ^ 0x20]) if byte == _ESCAPE else unpacked[-1:] * (after[0] - 29)
        at += 2
        if len(unpacked) > _LARGEST:
            raise StubError(f"a packet of more than {_LARGEST:,} bytes")
    return bytes(unpacked), True


def _bytes_of(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise StubError(f"an answer that is no hexadecimal text: {text[:20]!r}") from None


def _reason(error: OSError | UnicodeError) -> str:
    text = error.strerror if isinstance(error, OSError) else "no name of a host"
    return (text or str(error) or type(error).__name__).lower()
