"""A guest that failed: the error, and the state that it left behind."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from crosswalk.emu.cpu.cpu import GENERAL, Cpu, Guarded
from crosswalk.emu.cpu.decoding import decoder
from crosswalk.emu.cpu.delivery import vector_name
from crosswalk.emu.load.code_names import CALLERS, CodeNames
from crosswalk.emu.load.stack import stack_words
from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.pc.results import Delivered, Ended, Stop
from crosswalk.emu.pc.unanswered import Unanswered, unanswered_lines
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats.located_errors import printable

__all__ = ["GuestFailure", "LastState", "console_lines", "last_state", "state_lines"]

_SHOWN_LINES = 20
_LONGEST_INSTRUCTION = 15
_SHOWN_INSTRUCTIONS = 4
_A_ROW = 4
_WIDTH = 2000
"""The maximum length of a line of the console that is shown: 25 lines of a terminal."""


@dataclass(frozen=True, slots=True)
class LastState:
    """What a run left behind, as plain data that one process can hand to another.

    `console` are the last lines of the `lines` that were sent, `screen` those of the text display;
    `events` are the last ones of the `delivered` exceptions and interrupts. `registers` are those
    that a failure shows, by name; `code` are the first instructions at the linear address `rip`, of
    `bits` bits, which is called `symbol`. `callers` are the return addresses on the stack with
    their names, or what may be one, the last one first; `unanswered` is what was asked of hardware
    that isn't there. `names` has what the code is called at which events occurred, and that asked.
    `pending` are the points that were asked for, and not reached.
    """

    ended: Ended
    console: tuple[str, ...]
    lines: int
    screen: tuple[str, ...]
    events: tuple[Delivered, ...]
    delivered: int
    registers: dict[str, int]
    bits: int
    rip: int
    symbol: str | None
    code: tuple[str, ...]
    callers: tuple[tuple[int, str | None], ...]
    unanswered: Unanswered
    names: dict[int, str]
    pending: tuple[str, ...]


class GuestFailure(CrosswalkError):
    """The guest ended before the point that was asked for; `lines` describe its last state.

    `missed` are the points that it hadn't passed when it reached the one that it was to end at.
    `state` is the last state itself, where the machine is of this process.
    """

    def __init__(
        self,
        message: str,
        lines: tuple[str, ...],
        missed: tuple[str, ...] = (),
        state: LastState | None = None,
    ) -> None:
        super().__init__(message, lines, missed, state)
        self.lines = lines
        self.missed = missed
        self.state = state

    def __str__(self) -> str:
        return str(self.args[0])


def last_state(
    machine: Machine, ended: Ended, code: CodeNames, pending: Iterable[str] = ()
) -> LastState:
    """Return what a run of a machine that ended so left behind, with the names of its code.

    `pending` are the points that it hasn't reached.
    """
    cpu = machine.cpu
    cpu.load()
    rip = cpu.linear(cpu.rip)
    callers = islice(code.return_addresses(stack_words(cpu, machine.ram)), CALLERS)
    shown = console_lines(machine.console)
    addresses = [each.rip for each in (*machine.events, *machine.unanswered)]
    names = {address: code.name(address) for address in dict.fromkeys(addresses)}
    called = code.name_behind if ended.stop is Stop.HALTED else code.name
    return LastState(
        ended=ended,
        console=tuple(shown[-_SHOWN_LINES:]),
        lines=len(shown),
        screen=tuple(machine.screen),
        events=tuple(machine.events),
        delivered=sum(machine.counts.values()),
        registers=_registers(cpu),
        bits=cpu.bits,
        rip=rip,
        symbol=called(rip),
        code=tuple(_code(cpu)),
        callers=tuple((each, code.name_behind(each)) for each in callers),
        unanswered=machine.unanswered,
        names={address: name for address, name in names.items() if name is not None},
        pending=tuple(pending),
    )


def state_lines(state: LastState) -> Iterator[str]:
    """Yield what a run left behind, for people.

    The console's last lines, the text display, the last exceptions, the registers, the code at RIP,
    what called it, and what was asked of hardware that isn't there.
    """
    yield f"console, last lines of {state.lines}:" if state.lines else "console: nothing"
    yield from (f"  {line}" for line in state.console)
    if state.screen:
        yield "text display, 80 by 25 characters:"
        yield from (f"  {line}".rstrip() for line in state.screen)
    total = state.delivered
    yield f"exceptions and interrupts, the last of {total:,}:" if total else "no exceptions"
    for line, alike in groupby(_event(each, state.names) for each in state.events):
        count = len(list(alike))
        yield f"  {line}{f', {count} times' if count > 1 else ''}"
    yield f"registers when it ended ({state.ended.stop.value}):"
    texts = [f"{name:>6} {value:016x}" for name, value in state.registers.items()]
    for at in range(0, len(texts), _A_ROW):
        yield f"  {' '.join(texts[at : at + _A_ROW])}"
    yield f"code, of {state.bits} bits{f', at {state.symbol}' if state.symbol else ''}:"
    yield from (f"  {line}" for line in state.code)
    if state.callers:
        called = ", ".join(name or f"{address:#x}" for address, name in state.callers)
        yield f"return addresses on the stack: {called}"
    yield from unanswered_lines(state.unanswered, state.names.get)


def console_lines(sent: bytes | bytearray) -> list[str]:
    """Return the text that was sent to a console, line by line, fit for a terminal.

    Unprintable characters are escaped, and long lines are cut.
    """
    lines = sent.decode("utf-8", "replace").replace("\r\n", "\n").splitlines()
    return [printable(line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…") for line in lines]


def _event(delivered: Delivered, names: dict[int, str]) -> str:
    event, name = delivered.event, names.get(delivered.rip)
    text = f"{event.kind.value} {vector_name(event.vector)} at {delivered.rip:#x}"
    text += f"{f' ({name})' if name else ''}, CPL {delivered.cpl}"
    if delivered.error_code is not None:
        text += f", error code {delivered.error_code:#x}"
    return text if delivered.cr2 is None else f"{text}, CR2 {delivered.cr2:#x}"


def _registers(cpu: Cpu) -> dict[str, int]:
    values = {name: cpu.general(number) for number, name in enumerate(GENERAL)}
    if cpu.bits != 64:
        values = {name: values[name] & 0xFFFF_FFFF for name in GENERAL[:8]}
    values |= {"rip": cpu.rip, "rflags": cpu.rflags, "cr2": cpu.cr2}
    values |= {"cr0": cpu.cr0, "cr3": cpu.cr3, "cr4": cpu.cr4, "efer": cpu.efer, "cpl": cpu.cpl}
    if cpu.bits != 64:
        values |= {name: cpu.segment(name).selector for name in ("cs", "ss", "ds")}
    return values


def _code(cpu: Cpu) -> Iterator[str]:
    try:
        code = cpu.code_ahead(_SHOWN_INSTRUCTIONS * _LONGEST_INSTRUCTION)
    except Guarded:  # The next page, or this one, isn't the guest's by nested paging any more.
        code = b""
    at = cpu.linear(cpu.rip)
    lines = [
        f"{each.address:#x}: {each.mnemonic} {each.op_str}".rstrip()
        for each in decoder(cpu.bits).disasm(code, at, _SHOWN_INSTRUCTIONS)
    ]
    if not lines:
        lines = [f"{at:#x}: {code.hex(' ') or 'not readable'}"]
    yield from lines
