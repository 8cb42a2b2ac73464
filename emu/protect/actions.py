"""What the guest does, as data: operations of its agent, and its requests to the host."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.protect.agent import Agent, AgentResult, Operation
from crosswalk.emu.protect.hypervisor import Hypercall
from crosswalk.emu.protect.machine import FRAMES
from crosswalk.emu.protect.permissions import Permissions, stretches
from crosswalk.guest import places
from crosswalk.guest.image import GuestImage
from crosswalk.guest.layout import Bit, index_of, span_of
from crosswalk.guest.status import Status
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME
from crosswalk.walker.protection.pagelist import PageEntry, Permission, encode
from crosswalk.walker.protection.policy import TableKind, Use

__all__ = [
    "DIRECT",
    "LIST",
    "RETURN_42",
    "RETURN_42_TO_KERNEL",
    "Action",
    "Actions",
    "Operate",
    "ReportChanges",
    "ask",
    "do",
    "entry_at",
    "intended_permissions",
    "is_hypercall",
    "page_entries",
    "perform",
    "remap",
    "report",
    "report_addresses",
    "request",
    "store",
]

DIRECT = places.DIRECT_MAP[4]
RETURN_42 = 0xC3_0000_002A_B8
RETURN_42_TO_KERNEL = 0x20_CD00_0000_2AB8
"""MOV EAX, 42; and RET, or for user code INT 0x20."""

_SLOT = places.RECURSIVE_SLOT << 39
_CANONICAL = (1 << 48) - 1

LIST = places.LARGE_DATA + 0x10_0000
"""The physical address of the guest's page lists, in its large data."""

_IMMUTABLE = ("boot text", "boot records", "text", "rodata", "large text")


@dataclass(frozen=True, slots=True)
class Operate:
    """One operation of the agent, with its operands."""

    operation: Operation
    first: int = 0
    second: int = 0


@dataclass(frozen=True, slots=True)
class ReportChanges:
    """The guest reports to the host that the entries for these (va, level) have changed."""

    entries: tuple[tuple[int, int], ...]


Action = Operate | ReportChanges
Actions = tuple[Action, ...]
"""What an attack or an update consists of, in order."""


def do(operation: Operation, first: int = 0, second: int = 0) -> Actions:
    """Return one operation."""
    return (Operate(operation, first, second),)


def report(*entries: tuple[int, int]) -> Actions:
    """Return a report of these changed entries, (va, level) each."""
    return (ReportChanges(entries),)


def _entry_pa(agent: Agent, va: int, level: int = 1) -> int:
    """Return the physical address of an entry, as the guest finds it in the entry above."""
    above = agent.do(Operation.LOAD, entry_at(va, level + 1))
    if above.value is None or not above.value & Bit.P:
        raise CrosswalkError(f"no table of level {level} for {va:#x}: {above}")
    return (above.value & ADDRESS_FIELD) + 8 * index_of(va, level)


def entry_at(va: int, level: int = 1) -> int:
    """Return the address of the entry for `va` at a level, below the guest's recursive slot."""
    for _ in range(level):
        va = _SLOT | (va & _CANONICAL) >> 9 & ~7
    return va | ~_CANONICAL & (1 << 64) - 1


def store(va: int, *words: int) -> Actions:
    """Return the stores of these words from `va` on."""
    return tuple(Operate(Operation.STORE, va + 8 * at, word) for at, word in enumerate(words))


def remap(va: int, entry: int, level: int = 1) -> Actions:
    """Return actions that change the entry of `va`, in the tables and in the TLB."""
    return store(entry_at(va, level), entry) + do(Operation.INVLPG, va & -span_of(level))


def request(*entries: tuple[int, int, int], pa: int = LIST) -> Actions:
    """Return stores of a page list of one page, (pa, end, permissions) each, and its hypercall."""
    words = [0, 0, len(entries), *(word for entry in entries for word in entry)]
    call = do(Operation.HYPERCALL, Hypercall.PROTECT_MEMORY, pa)
    return store(places.KERNEL + pa, *words) + call


def report_addresses(*entries: int) -> Actions:
    """Return a report of changed entries by their physical addresses."""
    call = do(Operation.HYPERCALL, Hypercall.UPDATE, LIST)
    return store(places.KERNEL + LIST, len(entries), *entries) + call


def perform(agent: Agent, actions: Iterable[Action]) -> Iterator[tuple[Action, AgentResult]]:
    """Have the agent carry out actions, up to the first that fails; yield the result of each."""
    for action in actions:
        if isinstance(action, ReportChanges):
            changed = [_entry_pa(agent, va, level) for va, level in action.entries]
            *_, (_, result) = perform(agent, report_addresses(*changed))
        else:
            result = agent.do(action.operation, action.first, action.second)
        yield action, result
        if result.failed:
            return


def is_hypercall(action: Action) -> bool:
    """Return whether an action is a hypercall."""
    return isinstance(action, ReportChanges) or action.operation is Operation.HYPERCALL


def intended_permissions(
    image: GuestImage, status: Status, kind: TableKind = TableKind.NPT
) -> Permissions:
    """Return what all mappings of a frame are intended to allow together; 0 for unmapped frames."""
    user_execute = Use.USER_EXECUTE if kind is TableKind.EPT_MBEC else Use.SUPERVISOR_EXECUTE
    found = np.zeros(FRAMES, np.uint8)
    for each in image.resolve_intended(status):
        rights = {*each.supervisor, *each.user}
        permission = sum(1 << at for at, name in enumerate("rw") if name in rights)
        permission |= Use.SUPERVISOR_EXECUTE if "x" in each.supervisor else 0
        permission |= user_execute if "x" in each.user else 0
        found[each.pa // FRAME : (each.pa + each.size * each.count) // FRAME] |= np.uint8(
            permission
        )
    return found


def page_entries(image: GuestImage, status: Status) -> list[PageEntry]:
    """Return the page list: all that is intended to be mapped; text and rodata immutable."""
    immutable = np.zeros(FRAMES, np.bool_)
    for region in image.intended:
        if region.name in _IMMUTABLE:
            end = region.pa + region.size * region.count
            immutable[region.pa // FRAME : end // FRAME] = True
    wanted = intended_permissions(image, status)
    both = wanted | np.uint8(8) * immutable
    return [
        PageEntry(start, start + size, Permission(value & 7), bool(value & 8))
        for start, size, value in stretches(both)
        if value
    ]


def ask(agent: Agent, entries: Iterable[PageEntry]) -> AgentResult:
    """Have the guest write a page list, and request its protection."""
    data = encode(entries, LIST)
    used = [data[at : at + FRAME].rstrip(b"\0") for at in range(0, len(data), FRAME)]
    for number, part in enumerate(used):
        words = np.frombuffer(part + bytes(-len(part) % 8), "<u8").tolist()
        va = places.KERNEL + LIST + number * FRAME
        agent.store((va + 8 * at, word) for at, word in enumerate(words))
    return agent.do(Operation.HYPERCALL, Hypercall.PROTECT_MEMORY, LIST)
