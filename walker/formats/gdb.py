"""A live guest over QEMU's gdbstub: paused while it is read, and left as it was found.

QEMU pauses a guest when a debugger connects. Memory is read by physical address, a mode of QEMU's
own that outlasts the connection; the stub's monitor says where RAM is, and what the CPU is like.

Source: QEMU's System Emulation manual, "GDB usage", "Examining physical memory", and its Human
Monitor (`info mtree`, `info status`).
"""

import atexit
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.gdb_registers import read_description, read_registers, threads_of
from crosswalk.walker.formats.gdb_remote import Disconnected, Remote, StubError, parse_address
from crosswalk.walker.formats.live import PREFIX, LiveMemory
from crosswalk.walker.formats.located_errors import errors_named, printable
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.formats.sources import Contents, SourceKind
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["PATIENCE", "open_live", "release_live_guests"]

PATIENCE = 10.0
"""How many seconds a stub may take for an answer."""

_FORMAT = "live QEMU guest over gdb"
_PACKET = 400
"""The size of packets that every stub takes."""

_LARGEST_READ = 4 * FRAME
_RESTORING = 5.0
"""How many seconds an answer may take when a guest is put back after an error."""

_FLAT_VIEW = re.compile(r"FlatView #\d+\n(.*?)(?=\nFlatView #|\Z)", re.DOTALL)
_RAM = re.compile(r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:ram|rom)\):", re.MULTILINE)
_STATUS = re.compile(r"VM status: (running|paused)(?: \((.+)\))?")
_SILENT_SINCE = (8, 1)
"""From this version on QEMU's stub doesn't report, unasked, that the guest has been stopped."""

_WIDTHS = range(32, 53)
_VENDORS = {
    "GenuineIntel": Vendor.INTEL,
    "AuthenticAMD": Vendor.AMD,
    "HygonGenuine": Vendor.AMD,
}
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

Notice = Callable[[str], None]


def open_live(
    name: str,
    *,
    cpu: int = 0,
    seconds: float = PATIENCE,
    leave_paused: bool = False,
    notice: Notice | None = None,
) -> Contents:
    """Return what the guest at gdb:HOST:PORT has, paused from now on.

    `memory` of what is returned is a `LiveMemory`: its tables are read when they are asked for.
    The guest goes on when `settle` has read all that is needed, when the memory is released, at
    `release_live_guests`, or when the program ends. `cpu` chooses among its CPUs; `seconds` is how
    long an answer may take. `leave_paused` leaves the guest paused in any case, and not only where
    it was found so.

    Raises `BadInput` in one line that begins with `name`: nothing answers there, what answers is
    no stub of QEMU's, or no x86.
    """
    with errors_named(name):
        guest = _Guest(name, seconds, leave_paused=leave_paused, notice=notice)
        try:
            cpus = guest.cpus()
            registers = _chosen(cpus, cpu)
            memory = LiveMemory(guest, guest.ranges())
        except BaseException:
            guest.release()
            raise
    return Contents(
        name=printable(name),
        kind=SourceKind.LIVE,
        memory=memory,
        registers=registers,
        format=_FORMAT,
        machine="x86-64",
        cpus=cpus,
        cpu=cpu,
    )


def _chosen(cpus: Sequence[Registers], cpu: int) -> Registers:
    if cpu >= len(cpus):
        raise BadInput(f"no CPU {cpu}; the guest has {len(cpus)}")
    return cpus[cpu]


_paused: list["_Guest"] = []
"""The guests of this process that aren't as they were found."""


def release_live_guests() -> None:
    """Let all guests go that this process still holds, each as it was found.

    Raises `BadInput` where that fails, for the first one.
    """
    failed: BadInput | None = None
    for guest in reversed(_paused.copy()):
        try:
            guest.release()
        except BadInput as error:
            failed = failed or error
    if failed is not None:
        raise failed


# For programs that end without a word: a guest that nobody releases would stay paused.
atexit.register(release_live_guests)


class _Guest:
    """A guest that a stub has paused; how it was found, and how to leave it so."""

    def __init__(
        self, name: str, seconds: float, *, leave_paused: bool, notice: Notice | None
    ) -> None:
        self._name, self._seconds = name, seconds
        self._leave_paused, self._notice = leave_paused, notice
        self._address = parse_address(name.removeprefix(PREFIX))
        self._owner = os.getpid()
        self._read_size = 0
        self._busy = False  # An exchange has begun, and not come to its end,
        self._failure: StubError | None = None  # for this reason, if it isn't an interrupt.
        self._learned = False
        self._ran: bool | None = None  # Before it was paused, as far as is known.
        self._physical: bytes | None = None  # The mode of reading memory, as it was found.
        self.fetched = 0
        self._remote = Remote(self._address, seconds=seconds)
        _paused.append(self)
        try:
            self._pause()
        except BaseException:
            self.release()
            raise

    def _pause(self) -> None:
        """Learn who answers and how the guest was found; have memory read by physical address."""
        with self._exchange() as remote:
            found = remote.ask(b"qSupported:xmlRegisters=i386")
            size = re.search(rb"(?:^|;)PacketSize=([0-9a-fA-F]{1,8})(?:;|$)", found)
            self._packet = max(int(size[1], 16), _PACKET) if size else _PACKET
            # As hexadecimal digits, two a byte; whole words.
            self._read_size = min(self._packet // 2 & -8, _LARGEST_READ)
            remote.without_acknowledgments()
            self._learn(remote)
        if not self._known:
            raise BadInput(
                "no stub of QEMU's: it can't read by physical address (gdbserver, KGDB, VMware's "
                "and OpenOCD's stubs can't)"
            )
        if self._physical == b"0":
            with self._exchange() as remote:
                self._set_physical(remote, b"1")

    def _learn(self, remote: Remote) -> None:
        """Learn how memory is read, and whether the guest ran before it was paused."""
        self._physical = remote.ask(b"qqemu.PhyMemMode")
        if self._known:
            self._learn_state(remote)
        else:
            self._ran = remote.stopped
        self._learned = True

    def _learn_state(self, remote: Remote) -> None:
        status = _STATUS.search(remote.monitor("info status"))
        version = re.match(r"(\d+)\.(\d+)[.\d]*", remote.monitor("info version"))
        if remote.stopped or (status and status[1] == "running"):
            self._ran = True
        elif status and status[2]:
            self._ran = False  # It has a state of its own, as before its start.
        elif version and (int(version[1]), int(version[2])) < _SILENT_SINCE:
            self._ran = False
        elif not self._leave_paused and self._notice is not None:
            self._notice(
                f"QEMU {version[0] if version else 'there'} doesn't tell whether the guest ran "
                "before: it goes on afterwards (--leave-paused leaves it paused)"
            )

    @property
    def _known(self) -> bool:
        """Whether a stub of QEMU's has answered."""
        return self._physical in (b"0", b"1")

    @staticmethod
    def _set_physical(remote: Remote, mode: bytes) -> None:
        if remote.ask(b"Qqemu.PhyMemMode:" + mode) != b"OK":
            raise StubError("it can't be had to read memory in another way")

    def cpus(self) -> tuple[Registers, ...]:
        """Return the registers of each CPU, and what is known of the CPUs' features."""
        with self._exchange() as remote:
            description = read_description(remote, self._packet - 8)
            features = _features(remote)
            return tuple(
                read_registers(remote, description, thread).over(features)
                for thread in threads_of(remote)
            )

    def ranges(self) -> list[tuple[int, int]]:
        """Return where RAM and ROM are, as (start, size) in bytes, from QEMU's monitor."""
        with self._exchange() as remote:
            printed = remote.monitor("info mtree -f")
        views = (view[1] for view in _FLAT_VIEW.finditer(printed.replace("\r", "")))
        seen = next((view for view in views if '\n AS "memory",' in f"\n{view}"), "")
        ranges = [(int(start, 16), int(end, 16) + 1) for start, end in _RAM.findall(seen)]
        if not ranges:
            raise StubError("its monitor doesn't say where RAM is (info mtree -f)")
        at = 0
        for start, end in ranges:
            if not at <= start < end:
                raise StubError("its monitor lists RAM that overlaps (info mtree -f)")
            at = end
        return [(start, end - start) for start, end in ranges]

    def fetch(self, frames: U64) -> U64:
        """Return the words of these frames, ascending, uint64[n, 512]."""
        if self not in _paused or os.getpid() != self._owner:
            raise BadInput(f"{self._name}: the guest runs again; {int(frames[0]):#x} wasn't read")
        reads = list(_reads(frames, self._read_size))
        with errors_named(self._name), self._exchange() as remote:
            replies = remote.ask_many([b"m%x,%x" % each for each in reads])
            content = bytearray()
            for (pa, size), reply in zip(reads, replies, strict=True):
                content += _content(pa, size, reply)
            self.fetched += len(frames)
        return np.frombuffer(content, np.uint64).reshape(-1, WORDS)

    @contextmanager
    def _exchange(self) -> Iterator[Remote]:
        """Give the connection; after an error inside it isn't used again."""
        self._busy = True
        try:
            yield self._remote
        except StubError as error:
            self._failure = error
            raise
        self._busy = False

    def release(self) -> None:
        """Leave the guest as it was found; does nothing a second time, and in a child.

        Raises `BadInput`, that names the guest, where that can't be done.
        """
        if self not in _paused or os.getpid() != self._owner:
            return
        # Signals come when the guest has been put back: that takes some seconds at most.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            _paused.remove(self)
            with errors_named(self._name):
                self._put_back()
        finally:
            self._remote.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _put_back(self) -> None:
        if not self._busy:
            try:
                self._restore(self._remote)
            except StubError as error:
                self._failure = error
            else:
                return
        silent = self._failure is not None and not isinstance(self._failure, Disconnected)
        try:
            # The connection is in no known state. Where nobody has answered, nobody would now.
            if self._remote.heard or not silent:
                self._restore_anew()
        except StubError as error:
            if self._known:
                cause = f"{self._failure}; " if self._failure else ""
                raise StubError(
                    f"{cause}the guest couldn't be left as it was found: {error}"
                ) from None

    def _restore_anew(self) -> None:
        """Put the guest back over a connection of its own."""
        if not self._learned and not self._remote.stopped:
            # It is reported to the first connection alone.
            self._remote.look_for_stop(min(self._seconds, _RESTORING))
        self._remote.close()
        remote = Remote(self._address, seconds=min(self._seconds, _RESTORING))
        try:
            if not self._learned:
                remote.stopped = self._remote.stopped
                self._learn(remote)
            self._restore(remote)
        finally:
            remote.close()

    def _restore(self, remote: Remote) -> None:
        if self._known:
            status = _STATUS.search(remote.monitor("info status"))
            if status and status[1] == "running" and self._notice is not None:
                self._notice(
                    "somebody had the guest go on while it was read: what was read need not "
                    "belong together"
                )
        if self._physical == b"0":
            self._set_physical(remote, b"0")
        if self._ran is not False and not self._leave_paused:
            remote.detach()


def _features(remote: Remote) -> Registers:
    """Return what QEMU's monitor says of the CPU's features; what it doesn't isn't known."""
    found = re.search(r'qom_path: "(/[\w/.\[\]-]+)"', remote.monitor("info hotpluggable-cpus"))
    if found is None:
        return Registers()

    def stated(name: str) -> Any:
        try:
            return json.loads(remote.monitor(f"qom-get {found[1]} {name}"))
        except ValueError:  # An error of the monitor's, in words.
            return None

    width, page1gb, vendor = stated("phys-bits"), stated("pdpe1gb"), stated("vendor")
    return Registers(
        maxphyaddr=width if type(width) is int and width in _WIDTHS else None,
        page1gb=page1gb if type(page1gb) is bool else None,
        vendor=_VENDORS.get(vendor) if isinstance(vendor, str) else None,
    )


def _reads(frames: U64, size: int) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of reads of at most `size` bytes that cover these frames, in order."""
    ends = np.flatnonzero(np.append(frames[1:] - frames[:-1] != FRAME, True))
    first = 0
    for last in ends.tolist():
        start, end = int(frames[first]), int(frames[last]) + FRAME
        yield from ((pa, min(size, end - pa)) for pa in range(start, end, size))
        first = last + 1


def _content(pa: int, size: int, reply: bytes) -> bytes:
    try:
        content = bytes.fromhex(reply.decode("ascii"))
    except ValueError:
        content = b""
    if len(content) != size:
        raise StubError(f"{size:,} bytes at {pa:#x} can't be read: {reply[:20]!r}")
    return content
