"""Commands of the monitor and its answers: records of 8-byte words, little-endian.

    command    op | flags << 8 | sequence << 16 | words << 32, payload, checksum
    answer     op | status << 8 | sequence << 16 | words << 32, payload, checksum

A batch is a number of commands in a row. They are numbered from 0 (16 bits, then again), and an
answer has the number of its command. `words` counts the payload alone. The checksum is of all words
before it, modulo 2^64: with A the sum of these and of a start, and B the sum of all A on the way,
it is A + 2 B. The start is a constant plus the number of the batch: what is left of another batch
fails that test, and isn't taken for a part of this one.

The first answer of all, in batch 0, is the greeting; the last one of each batch is DONE. After an
answer whose status isn't OK no further commands of its batch are carried out, unless the command
may fail; after REFUSED the monitor ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np

from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64

__all__ = [
    "FORMAT",
    "REGISTERS",
    "SUM_START",
    "WORD",
    "Answer",
    "Command",
    "Damaged",
    "Flag",
    "Op",
    "Refusal",
    "RunFlag",
    "Status",
    "checksums",
    "compare",
    "copy",
    "cpuid",
    "decoded",
    "encoded",
    "end",
    "fill",
    "flush",
    "get_registers",
    "handle",
    "load",
    "most_words",
    "read",
    "read_fields",
    "read_msr",
    "restore",
    "run",
    "run_vmcb",
    "set_registers",
    "store",
    "vmx_on",
    "write",
    "write_fields",
    "write_msr",
]

FORMAT = 1
WORD = 8

SUM_START = 0x6D6F_6E69_746F_7201
_ALL = (1 << 64) - 1

REGISTERS = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cr2",
)  # fmt: skip
"""The guest's registers that no control structure has, in the order of their words.

RSP has a word, and isn't used: it is the control structure's. Of SVM RAX is, too."""


class Op(IntEnum):
    """What a command does; its payload, and that of the answer."""

    GREETING = 0
    """No command. FORMAT; base and size of the monitor in memory; start and end of RAM ranges."""
    READ = 1
    """Address, number of words; these words."""
    WRITE = 2
    """Address, words."""
    FILL = 3
    """Address, number of words, what they become."""
    COPY = 4
    """Source, target, number of words: from the first one up."""
    COMPARE = 5
    """Two addresses, number of words, how many to list. How many words differ; of those listed the
    number and both values."""
    LOAD = 6
    """Addresses of words; the words."""
    STORE = 7
    """Address and value of words, one after the other."""
    READ_MSR = 8
    """Numbers of MSRs; their values."""
    WRITE_MSR = 9
    """Number and value of MSRs."""
    CPUID = 10
    """leaf | subleaf << 32 of each; EAX | EBX << 32 and ECX | EDX << 32."""
    SET_REGISTERS = 11
    """The guest's REGISTERS."""
    GET_REGISTERS = 12
    """Nothing; the guest's REGISTERS."""
    HANDLE = 13
    """Bits of the exit reasons that RUN handles by itself; rows for CPUID of five words.

    Those of CPUID (10), RDMSR (31), WRMSR (32) and XSETBV (55) can be. The instruction is executed,
    and the guest goes on behind it; of MSRs only those that no bitmap has; what the CPU refuses is
    #GP(0). A row is leaf | subleaf << 32, a subleaf of all ones for any; two words that are ANDed
    to EAX | EBX << 32 and to ECX | EDX << 32; two that are ORed to these then."""
    VMX_ON = 14
    """VMXON, with a VMCS that is clear, current, and has the host's state. Its address, and
    IA32_VMX_BASIC."""
    READ_FIELDS = 15
    """Encodings of fields of the VMCS; their values."""
    WRITE_FIELDS = 16
    """Encoding and value of fields."""
    RUN = 17
    """RunFlag, encodings of fields. The guest is entered (VMLAUNCH or VMRESUME) until an exit that
    isn't handled. Its REGISTERS, the number of exits handled, values of the fields."""
    FLUSH = 18
    """Has the answers so far written where they are found even if the machine ends."""
    END = 19
    """The machine is switched off."""
    RUN_VMCB = 20
    """Address of a VMCB, offsets in it. VMRUN, with VMLOAD and VMSAVE, until an exit. The guest's
    REGISTERS (RAX, RSP and CR2 are the VMCB's), 0, the words at the offsets."""
    RESTORE = 21
    """How many to list; address, address of a copy and number of words of each part of memory. How
    many words differed from the copies; of those listed the address and the value. All are as in
    the copies then."""

    DONE = 255
    """No command, and no answer to one: behind the last answer of a batch."""


class Flag(IntFlag):
    """Flags of any command."""

    MAY_FAIL = 1
    """The batch goes on after it, whatever its status."""


NO_FLAGS = Flag(0)


class RunFlag(IntFlag):
    """Flags of RUN."""

    INVEPT = 1
    """INVEPT of all contexts, before the entry."""
    INVVPID = 2
    """INVVPID of all contexts, before the entry."""
    IO = 4
    """The I/O instruction of the last exit, no string's, is carried out; the guest goes on behind
    it."""


KEPT = RunFlag(0)
"""What of the guest's memory the CPU has cached is kept."""


class Status(IntEnum):
    """What came of a command."""

    OK = 0
    FAULT = 1
    """An exception: its vector, error code, RIP as an offset in the monitor, CR2."""
    VM_FAIL = 2
    """A VMX instruction failed: CF (1) or ZF (0x40); the VM-instruction error with ZF."""
    REFUSED = 3
    """It can't be what was meant: a Refusal, the command's first word."""


class Refusal(IntEnum):
    """Why a command is refused."""

    LENGTH = 1
    """It is longer than its batch."""
    CHECKSUM = 2
    SEQUENCE = 3
    COMMAND = 4
    """There is no such command."""
    PAYLOAD = 5
    """Its payload hasn't the number of words that it takes."""
    ROOM = 6
    """The answer would be too long."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command; `payload` are its words, ints or uint64[n]; `flags` a Flag."""

    op: Op
    payload: Sequence[int] | U64 = ()
    flags: Flag = NO_FLAGS

    @property
    def words(self) -> int:
        """How many words it has, encoded."""
        return len(self.payload) + 2

    def may_fail(self) -> "Command":
        """Return the same with `Flag.MAY_FAIL`."""
        return Command(self.op, self.payload, self.flags | Flag.MAY_FAIL)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `payload` uint64[n]."""

    op: Op
    status: Status
    sequence: int
    payload: U64

    @property
    def words(self) -> list[int]:
        """The payload as ints."""
        return [int(word) for word in self.payload]


class Damaged(BadInput):
    """What should be answers has words that can't be some."""


def checksums(words: U64, starts: U64, ends: U64, batch: int) -> U64:
    """Return the checksum of each of n records in a batch, uint64[n].

    A record is the words from its start to its end, its checksum not among them.
    """
    # The sums of a record are differences of those of all words.
    once = np.cumsum(words, dtype=np.uint64)
    twice = np.cumsum(once, dtype=np.uint64)
    count = ends - starts
    own = np.uint64(SUM_START + batch & _ALL) - _before(once, starts)
    sums = count * own + _before(twice, ends) - _before(twice, starts)
    return own + _before(once, ends) + np.uint64(2) * sums


def _before(sums: U64, at: U64) -> U64:
    """Return the sums of all that is before these places."""
    found = np.zeros(len(at), np.uint64)
    behind = at > 0
    found[behind] = sums[at[behind] - np.uint64(1)]
    return found


def encoded(commands: Iterable[Command], batch: int) -> U64:
    """Return a batch as the monitor takes it, uint64[n]; `batch` is its number.

    Raises `BadInput` for a word that isn't one of 64 bits.
    """
    asked = list(commands)
    ends = np.cumsum([command.words for command in asked], dtype=np.uint64)
    words = np.empty(int(ends[-1]) if asked else 0, np.uint64)
    short: list[int] = []  # What isn't in `words` yet, up to `at`.
    at = 0
    for number, command in enumerate(asked):
        payload = command.payload
        head = command.op | command.flags << 8 | (number & 0xFFFF) << 16 | len(payload) << 32
        short.append(head)
        at += 1
        if isinstance(payload, np.ndarray):
            _put(words, at, short, asked)
            short = []
            words[at : at + len(payload)] = payload
        else:
            short += payload
        short.append(0)
        at += len(payload) + 1
    _put(words, at, short, asked)
    if asked:
        last = ends - np.uint64(1)
        starts = np.concatenate([[np.uint64(0)], ends[:-1]])
        words[last] = checksums(words, starts, last, batch)
    return words


def _put(words: U64, end: int, values: list[int], asked: Sequence[Command]) -> None:
    try:
        words[end - len(values) : end] = values
    except OverflowError as error:
        wide = (
            command.op.name
            for command in asked
            if any(not 0 <= int(word) <= _ALL for word in command.payload)
        )
        raise BadInput(f"{next(wide)}: a word that isn't one of 64 bits") from error


def decoded(words: U64, batch: int) -> Iterator[Answer]:
    """Yield the answers to a batch that these words hold; what is behind DONE isn't looked at.

    Raises `Damaged` where they aren't answers to this batch, with those before it yielded.
    """
    starts, at, head = list[int](), 0, 0
    while at < len(words) and head & 0xFF != Op.DONE:
        starts.append(at)
        head = int(words[at])
        at += (head >> 32) + 2
    ended = head & 0xFF == Op.DONE
    ends = [*starts, at][1:]
    whole = len(starts) - (at > len(words))
    first = np.array(starts[:whole], np.uint64)
    last = np.array(ends[:whole], np.uint64) - np.uint64(1)
    right = checksums(words, first, last, batch) == words[last]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if number == whole:
            raise Damaged(f"answer {number} is longer than what there is")
        if not right[number]:
            raise Damaged(f"answer {number} hasn't the checksum of its words")
        head = int(words[start])
        op, status, sequence = head & 0xFF, head >> 8 & 0xFF, head >> 16 & 0xFFFF
        if op not in _OPS or status not in _STATUSES:
            raise Damaged(f"answer {number} is none: {head:#x}")
        if op != Op.DONE:
            yield Answer(_OPS[op], _STATUSES[status], sequence, words[start + 1 : end - 1])
    if not ended:
        raise Damaged(f"{len(starts)} answers have no end")


def most_words(command: Command) -> int:
    """Return how many words the answer to a command has at most, all told."""
    size, payload = len(command.payload), command.payload
    own = {
        Op.READ: lambda: int(payload[1]),
        Op.COMPARE: lambda: 3 * int(payload[3]) + 1,
        Op.LOAD: lambda: size,
        Op.READ_MSR: lambda: size,
        Op.CPUID: lambda: 2 * size,
        Op.GET_REGISTERS: lambda: len(REGISTERS),
        Op.READ_FIELDS: lambda: size,
        Op.RUN: lambda: size + len(REGISTERS),
        Op.RUN_VMCB: lambda: size + len(REGISTERS),
        Op.RESTORE: lambda: 2 * int(payload[0]) + 1,
    }
    return max(own[command.op]() if command.op in own else 0, 4) + 2


_OPS, _STATUSES = {op.value: op for op in Op}, {status.value: status for status in Status}


def read(address: int, words: int) -> Command:
    """Read words of memory."""
    return Command(Op.READ, (address, words))


def write(address: int, words: Sequence[int] | U64) -> Command:
    """Write words to memory."""
    payload = np.empty(len(words) + 1, np.uint64)
    payload[0], payload[1:] = address, words
    return Command(Op.WRITE, payload)


def fill(address: int, words: int, value: int = 0) -> Command:
    """Write the same word again and again."""
    return Command(Op.FILL, (address, words, value))


def copy(source: int, target: int, words: int) -> Command:
    """Copy words, from the first one up."""
    return Command(Op.COPY, (source, target, words))


def compare(left: int, right: int, words: int, most: int = 1024) -> Command:
    """Compare words; `most` differences are listed."""
    return Command(Op.COMPARE, (left, right, words, most))


def load(addresses: Sequence[int] | U64) -> Command:
    """Read single words."""
    return Command(Op.LOAD, addresses)


def store(words: Iterable[tuple[int, int]]) -> Command:
    """Write single words: address and value of each."""
    return Command(Op.STORE, [part for pair in words for part in pair])


def read_msr(*numbers: int) -> Command:
    """Read MSRs of the host."""
    return Command(Op.READ_MSR, numbers)


def write_msr(values: Iterable[tuple[int, int]]) -> Command:
    """Write MSRs of the host: number and value of each."""
    return Command(Op.WRITE_MSR, [part for pair in values for part in pair])


def cpuid(*leaves: tuple[int, int]) -> Command:
    """Ask CPUID: leaf and subleaf of each."""
    return Command(Op.CPUID, [leaf | subleaf << 32 for leaf, subleaf in leaves])


def set_registers(values: Sequence[int]) -> Command:
    """Set the guest's registers, in the order of `REGISTERS`."""
    return Command(Op.SET_REGISTERS, values)


def get_registers() -> Command:
    """Get the guest's registers."""
    return Command(Op.GET_REGISTERS)


def handle(reasons: Iterable[int], rows: Iterable[Sequence[int]] = ()) -> Command:
    """Have RUN handle exits for these reasons; `rows`, of five words, are for CPUID."""
    bits = sum(1 << reason for reason in set(reasons))
    return Command(Op.HANDLE, [bits, *(word for row in rows for word in row)])


def vmx_on() -> Command:
    """Enter VMX operation, with a new VMCS."""
    return Command(Op.VMX_ON)


def read_fields(encodings: Sequence[int]) -> Command:
    """Read fields of the VMCS."""
    return Command(Op.READ_FIELDS, encodings)


def write_fields(values: Iterable[tuple[int, int]]) -> Command:
    """Write fields of the VMCS: encoding and value of each."""
    return Command(Op.WRITE_FIELDS, [part for pair in values for part in pair])


def run(fields: Sequence[int], flags: RunFlag = KEPT) -> Command:
    """Enter the guest; after the exit these fields of the VMCS are read."""
    return Command(Op.RUN, (int(flags), *fields))


def run_vmcb(vmcb: int, offsets: Sequence[int]) -> Command:
    """Enter the guest of a VMCB; after the exit the words at these offsets in it are read."""
    return Command(Op.RUN_VMCB, (vmcb, *offsets))


def restore(parts: Iterable[tuple[int, int, int]], most: int = 64) -> Command:
    """Have parts of memory be as copies of them again; `most` differences are listed.

    A part is its address, that of its copy, and its number of words.
    """
    return Command(Op.RESTORE, [most, *(word for part in parts for word in part)])


def flush() -> Command:
    """Have the answers so far written down."""
    return Command(Op.FLUSH)


def end() -> Command:
    """Switch the machine off."""
    return Command(Op.END)
