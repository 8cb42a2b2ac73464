"""A kernel that failed: the error, and the state that it left behind."""

from collections.abc import Iterator

from crosswalk.emu.cpu.cpu import GENERAL, Cpu, Guarded
from crosswalk.emu.cpu.decoding import decoder
from crosswalk.emu.cpu.delivery import Kind, vector_name
from crosswalk.emu.pc.pc import Delivered, Ended, Machine
from crosswalk.emu.pc.unanswered import unanswered_lines
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats.located_errors import printable

__all__ = ["GuestFailure", "console_lines", "failure_lines"]

_SHOWN_LINES = 20
_LONGEST_INSTRUCTION = 15
_SHOWN_INSTRUCTIONS = 4
_A_ROW = 4
_WIDTH = 2000
"""The maximum length of a line of the console that is shown: 25 lines of a terminal."""


class GuestFailure(CrosswalkError):
    """The kernel ended before the point that was asked for; `lines` describe its last state.

    `missed` are the points that it hadn't passed when it reached the one that it was to end at.
    """

    def __init__(self, message: str, lines: tuple[str, ...], missed: tuple[str, ...] = ()) -> None:
        super().__init__(message, lines, missed)
        self.lines = lines
        self.missed = missed

    def __str__(self) -> str:
        return str(self.args[0])


def failure_lines(machine: Machine, ended: Ended) -> Iterator[str]:
    """Yield what a run left behind.

    The console's last lines, the last exceptions, the registers, the code at RIP, and what
    was asked of hardware that isn't there.
    """
    shown = console_lines(machine.console)
    yield f"console, last lines of {len(shown)}:" if shown else "console: nothing"
    for line in shown[-_SHOWN_LINES:]:
        yield f"  {line}"
    yield from _history(machine)
    yield f"registers when it ended ({ended.stop.value}):"
    yield from _registers(machine.cpu)
    yield f"code, of {machine.cpu.bits} bits:"
    yield from _code(machine.cpu)
    yield from unanswered_lines(machine.unanswered)


def console_lines(sent: bytes | bytearray) -> list[str]:
    """Return the text that was sent to a console, line by line, fit for a terminal.

    Unprintable characters are escaped, and long lines are cut.
    """
    lines = sent.decode("utf-8", "replace").replace("\r\n", "\n").splitlines()
    return [printable(line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…") for line in lines]


def _history(machine: Machine) -> Iterator[str]:
    total = sum(machine.counts.values())
    yield f"exceptions and interrupts, the last of {total:,}:" if total else "no exceptions"
    yield from (f"  {_event(delivered)}" for delivered in machine.events)


def _event(delivered: Delivered) -> str:
    event = delivered.event
    text = (
        f"{event.kind.value} {vector_name(event.vector)} at {delivered.rip:#x}, CPL {delivered.cpl}"
    )
    if event.kind is Kind.EXCEPTION:
        text += f", error code {event.error_code:#x}"
    return text if delivered.cr2 is None else f"{text}, CR2 {delivered.cr2:#x}"


def _registers(cpu: Cpu) -> Iterator[str]:
    cpu.load()
    values = {name: cpu.general(number) for number, name in enumerate(GENERAL)}
    if cpu.bits != 64:
        values = {name: values[name] & 0xFFFF_FFFF for name in GENERAL[:8]}
    values |= {"rip": cpu.rip, "rflags": cpu.rflags, "cr2": cpu.cr2}
    values |= {"cr0": cpu.cr0, "cr3": cpu.cr3, "cr4": cpu.cr4, "efer": cpu.efer, "cpl": cpu.cpl}
    if cpu.bits != 64:
        values |= {name: cpu.segment(name).selector for name in ("cs", "ss", "ds")}
    texts = [f"{name:>6} {value:016x}" for name, value in values.items()]
    for at in range(0, len(texts), _A_ROW):
        yield f"  {' '.join(texts[at : at + _A_ROW])}"


def _code(cpu: Cpu) -> Iterator[str]:
    try:
        code = cpu.code_ahead(_SHOWN_INSTRUCTIONS * _LONGEST_INSTRUCTION)
    except Guarded:  # The next page, or this one, isn't the guest's by nested paging any more.
        code = b""
    at = cpu.linear(cpu.rip)
    lines = [
        f"  {each.address:#x}: {each.mnemonic} {each.op_str}".rstrip()
        for each in decoder(cpu.bits).disasm(code, at, _SHOWN_INSTRUCTIONS)
    ]
    if not lines:
        lines = [f"  {at:#x}: {code.hex(' ') or 'not readable'}"]
    yield from lines
