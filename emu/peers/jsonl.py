"""A walker of any language: `exec:COMMAND`, JSON lines on its standard input and output."""

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from typing import IO

import msgspec
import numpy as np

from emu.peers.claims import Claim, Failure, Limits, PeerFailure
from walker.access import AccessType
from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext
from walker.errors import BadInput
from walker.memory import PhysicalMemory, SparseWords
from walker.source import Cpu

__all__ = ["PROTOCOL", "JsonLines"]

PROTOCOL = "crosswalk-walker/1"

_CHUNK = 1 << 16
_START = 10.0


class _Hello(msgspec.Struct):
    protocol: str
    claims: list[Claim]


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    pa: str | None = None
    error_code: str | None = None
    cr2: str | None = None
    outcome: str | None = None


class JsonLines:
    """A process that is told an address space and accesses, a line each, and answers each access.

    Raises `BadInput` where it can't be started or doesn't greet.
    """

    def __init__(
        self, name: str, command: str, claims: frozenset[Claim] | None, limits: Limits
    ) -> None:
        self.name = name
        self._command, self._limits = shlex.split(command), limits
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # Closed by `close`.
        try:
            hello = self._start()
        except PeerFailure as failure:
            raise BadInput(f"{name}: {failure}") from failure
        self.claims = claims or frozenset(hello.claims)
        if Claim.LEAVES in self.claims:
            raise BadInput(f"{name}: lists of mappings aren't part of {PROTOCOL}")

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, accesses: Accesses
    ) -> Outcomes:
        """Return what the walker says of each access; raises `PeerFailure`."""
        if self._process is None:
            self._start()
        lines = [_space(memory, context), *_questions(accesses)]
        deadline = time.monotonic() + self._limits.seconds
        try:
            said = self._exchange(b"\n".join(lines) + b"\n", len(accesses), deadline)
            return _outcomes(said)
        except PeerFailure:
            self.close()
            raise

    def close(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # What it did not read is lost.
                        pipe.close()

    def _start(self) -> _Hello:
        try:
            self._process = subprocess.Popen(  # noqa: S603  # The command is the user's own.
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
            )
        except OSError as error:
            raise BadInput(f"{self.name}: {error.strerror}") from error
        line = self._exchange(b"", 1, time.monotonic() + _START)[0]
        try:
            hello = msgspec.json.decode(line, type=_Hello)
        except msgspec.MsgspecError as error:
            raise PeerFailure(Failure.NONSENSE, f"no greeting: {error}") from error
        if hello.protocol != PROTOCOL:
            raise PeerFailure(Failure.NONSENSE, f"speaks {hello.protocol}, not {PROTOCOL}")
        return hello

    def _exchange(self, data: bytes, count: int, deadline: float) -> list[bytes]:
        """Write `data` and read `count` lines, whichever of both can go on."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise AssertionError("the process was not started")
        answers = bytearray()
        left = memoryview(data)
        os.set_blocking(process.stdin.fileno(), False)
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            if left:
                ready.register(process.stdin, selectors.EVENT_WRITE)
            while answers.count(b"\n") < count:
                events = ready.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    raise PeerFailure(Failure.HANG, f"no answer in {self._limits.seconds:g} s")
                files = [key.fileobj for key, _ in events]
                if process.stdin in files:
                    left = left[self._written(process.stdin.fileno(), left) :]
                    if not left:
                        ready.unregister(process.stdin)
                if process.stdout in files:
                    answers += self._part(process, process.stdout.fileno(), len(answers))
        found = bytes(answers).splitlines()
        if len(found) != count:
            raise PeerFailure(Failure.NONSENSE, f"{len(found)} answers to {count} questions")
        return found

    def _part(self, process: "subprocess.Popen[bytes]", descriptor: int, before: int) -> bytes:
        part = os.read(descriptor, _CHUNK)
        if not part:
            raise self._died(process)
        if before + len(part) > self._limits.output:
            raise PeerFailure(Failure.FLOOD, f"over {self._limits.output:,} bytes")
        return part

    def _written(self, descriptor: int, left: memoryview) -> int:
        try:
            return os.write(descriptor, left[:_CHUNK])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(left)  # It has gone; the end of its output will say how.

    def _died(self, process: "subprocess.Popen[bytes]") -> PeerFailure:
        code = process.wait()
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return PeerFailure(Failure.CRASH, ": ".join([f"ended with {how}", *last]))


def _space(memory: PhysicalMemory, context: PagingContext) -> bytes:
    """Return an address space as a line, with the keys of a case file."""
    if not isinstance(memory, SparseWords):
        raise BadInput("only memory of sparse words can be told to a process")
    cpu = Cpu.from_context(context)
    registers = {name: hex(getattr(cpu, name)) for name in ("cr0", "cr3", "cr4", "efer", "pkru")}
    features = {"maxphyaddr": cpu.maxphyaddr, "page1gb": cpu.page1gb, "vendor": cpu.vendor}
    return msgspec.json.encode(
        {
            "cpu": {**registers, **features},
            "ram": [[hex(start), hex(size)] for start, size in memory.ranges],
            "entries": {hex(pa): hex(word) for pa, word in memory.words()},
        }
    )


def _questions(accesses: Accesses) -> list[bytes]:
    names = [kind.name.lower() for kind in AccessType]
    columns = (accesses.va, accesses.type, accesses.cpl, accesses.ac)
    return [
        msgspec.json.encode({"va": hex(va), "access": names[kind], "cpl": cpl, "ac": ac})
        for va, kind, cpl, ac in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _outcomes(lines: list[bytes]) -> Outcomes:
    out = Outcomes.empty(len(lines))
    kinds = {
        "ok": Kind.OK,
        "page_fault": Kind.PAGE_FAULT,
        "general_protection": Kind.GENERAL_PROTECTION,
    }
    for row, line in enumerate(lines):
        try:
            said = msgspec.json.decode(line, type=_Said)
            name = said.outcome or ("ok" if said.pa is not None else "page_fault")
            out.kind[row] = kinds[name]
            out.pa[row] = np.uint64(int(said.pa or "0", 16))
            out.error_code[row] = int(said.error_code or "0", 16)
            out.cr2[row] = np.uint64(int(said.cr2 or "0", 16))
        except (msgspec.MsgspecError, KeyError, ValueError, OverflowError) as error:
            text = line[:80].decode(errors="replace")
            raise PeerFailure(Failure.NONSENSE, f"{text!r} is no answer: {error}") from error
    return out
