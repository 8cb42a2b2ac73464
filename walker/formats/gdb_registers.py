"""Registers of a stub's target: where its description has them, and their values for each CPU.

Source: GDB's manual, appendix "Target Descriptions", "Target Description Format".
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.parsers import expat

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.gdb_remote import Remote, StubError
from crosswalk.walker.formats.registers import Registers

__all__ = ["Description", "Register", "read_description", "read_registers", "threads_of"]

_NEEDED = ("cr0", "cr3", "cr4", "efer")
_FLAGS, _AC = "eflags", 1 << 18
_DOCUMENTS = 16
_PARTS = 256
"""The most packets that a document may come in."""

_MOST_REGISTERS = 1 << 16
_MOST_THREADS = 4096
_BITS = 64


@dataclass(frozen=True, slots=True)
class Register:
    """The number of a register in the protocol, and its size in bits."""

    number: int
    bits: int


@dataclass(frozen=True, slots=True)
class Description:
    """What a stub says of its target: the architecture's name, and its registers by name."""

    architecture: str
    registers: Mapping[str, Register]


def read_description(remote: Remote, size: int) -> Description:
    """Return the target's description, with all that it includes, in packets of up to `size` bytes.

    Raises `StubError` for one that can't be had, is no XML, or is too large.
    """
    return parse_description(lambda name: _transfer(remote, name, size))


def parse_description(read: Callable[[str], bytes]) -> Description:
    """Return the description in the documents that `read` returns by name, from target.xml on.

    A document that is included stands where it is included. Registers are numbered in this order,
    from a `regnum` on where there is one; what is commented out doesn't count.
    """
    parser = _Parser(read)
    parser.read("target.xml")
    return Description(parser.architecture, parser.registers)


class _Parser:
    """The documents of a description, read one in the other."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._documents = 0
        self._number = 0
        self._in_architecture = False
        self.architecture = ""
        self.registers: dict[str, Register] = {}

    def read(self, name: str) -> None:
        self._documents += 1
        if self._documents > _DOCUMENTS:
            raise StubError(f"its description has more than {_DOCUMENTS} documents")
        # Without namespaces: QEMU writes xi:include without saying what xi is.
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._entity
        try:
            parser.Parse(self._read(name), True)
        except expat.ExpatError as error:
            raise StubError(f"its description is no XML: {error}") from None

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        self._in_architecture = name == "architecture"
        if name == "xi:include":
            self.read(attributes.get("href", ""))
        elif name == "reg":
            self._register(attributes)

    def _end(self, name: str) -> None:
        del name
        self._in_architecture = False

    def _text(self, text: str) -> None:
        if self._in_architecture:
            self.architecture = (self.architecture + text)[:_BITS]

    def _entity(self, *_: object) -> None:
        raise StubError("its description declares entities")

    def _register(self, attributes: dict[str, str]) -> None:
        try:
            number = int(attributes.get("regnum", self._number))
            bits = int(attributes["bitsize"])
        except (KeyError, ValueError):
            raise StubError("its description has a register without a number or size") from None
        if not 0 <= number < _MOST_REGISTERS:
            raise StubError(f"its description has a register {number:,}")
        self._number = number + 1
        self.registers.setdefault(attributes.get("name", ""), Register(number, bits))


def _transfer(remote: Remote, name: str, size: int) -> bytes:
    if not re.fullmatch(r"[\w.-]+", name):
        raise StubError("its description includes a document without a name")
    found = bytearray()
    for _ in range(_PARTS):
        command = f"qXfer:features:read:{name}:{len(found):x},{size:x}"
        reply = remote.ask(command.encode())
        if reply[:1] not in (b"l", b"m"):
            raise StubError(f"it has no description of its registers ({name})")
        found += reply[1:]
        if reply[:1] == b"l":
            return bytes(found)
    raise StubError(f"{name} of its description doesn't end")


def threads_of(remote: Remote) -> list[str]:
    """Return the names of the target's threads, which a stub of a whole machine has one of a CPU.

    Raises `StubError` where it lists none, or too many.
    """
    threads: list[str] = []
    command = b"qfThreadInfo"
    for _ in range(_MOST_THREADS):
        reply = remote.ask(command).decode(errors="replace")
        if not reply.startswith("m"):
            break
        threads += reply[1:].split(",")
        command = b"qsThreadInfo"
    if not 0 < len(threads) <= _MOST_THREADS:
        raise StubError(f"it lists {len(threads):,} CPUs")
    if not all(re.fullmatch(r"(p[0-9a-fA-F]+\.)?[0-9a-fA-F]+", thread) for thread in threads):
        raise StubError("it lists CPUs without a number")
    return threads


def read_registers(remote: Remote, description: Description, thread: str) -> Registers:
    """Return the registers of the CPU that is this thread.

    Raises `BadInput` where the target isn't an x86 with control registers, `StubError` for values
    of another size than the description has.
    """
    known = description.registers
    lacking = [name for name in _NEEDED if name not in known]
    if lacking:
        architecture = description.architecture or "unknown architecture"
        raise BadInput(f"its target ({architecture}) has no register {lacking[0]}")
    names = [name for name in (*_NEEDED, _FLAGS) if name in known]
    commands = [b"Hg" + thread.encode(), *(b"p%x" % known[name].number for name in names)]
    chosen, *replies = remote.ask_many(commands)
    if chosen != b"OK":
        raise StubError(f"CPU {thread} can't be chosen")
    values = {
        name: _value(name, known[name], reply) for name, reply in zip(names, replies, strict=True)
    }
    return Registers(
        cr0=values["cr0"],
        cr3=values["cr3"],
        cr4=values["cr4"],
        efer=values["efer"],
        rflags_ac=bool(values[_FLAGS] & _AC) if _FLAGS in values else None,
    )


def _value(name: str, register: Register, reply: bytes) -> int:
    # QEMU may send the lower half of a register to a CPU outside 64-bit mode.
    whole = re.fullmatch(rb"([0-9a-fA-F]{2}){4,8}", reply)
    if not whole or 4 * len(reply) > register.bits or register.bits > _BITS:
        raise StubError(f"register {name}, of {register.bits} bits, reads as {reply[:20]!r}")
    return int.from_bytes(bytes.fromhex(reply.decode()), "little")
