"""What an attacker can do, as data: stores to tables, and whatever else the agent can."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crosswalk.emu.protect.agent import Agent, Operation, Result
from crosswalk.emu.protect.hypervisor import Hypercall
from crosswalk.emu.protect.requests import LIST, update
from crosswalk.guest import places
from crosswalk.guest.layout import Bit, index_of, span_of
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.errors import CrosswalkError

__all__ = [
    "DIRECT",
    "RETURN_42",
    "RETURN_42_TO_KERNEL",
    "Move",
    "Report",
    "Step",
    "addresses",
    "entry_at",
    "is_hypercall",
    "listed",
    "perform",
    "remap",
    "report",
    "store",
]

DIRECT = places.DIRECT_MAP[4]
RETURN_42 = 0xC3_0000_002A_B8
RETURN_42_TO_KERNEL = 0x20_CD00_0000_2AB8
"""MOV EAX, 42; and RET, or for user code INT 0x20."""

_SLOT = places.RECURSIVE_SLOT << 39
_CANONICAL = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the agent's, with its operands."""

    operation: Operation
    first: int = 0
    second: int = 0
    third: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The guest tells the host that the entries for these (va, level) have changed."""

    entries: tuple[tuple[int, int], ...]


Move = Step | Report


def report(*entries: tuple[int, int]) -> tuple[Move, ...]:
    """Return a report of these entries, (va, level) each."""
    return (Report(entries),)


def entry_pa(agent: Agent, va: int, level: int = 1) -> int:
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


def store(va: int, *words: int) -> tuple[Move, ...]:
    """Return the stores of these words from `va` on."""
    return tuple(Step(Operation.STORE, va + 8 * at, word) for at, word in enumerate(words))


def remap(va: int, entry: int, level: int = 1) -> tuple[Move, ...]:
    """Return what gives `va` another entry, in the tables and in the TLB."""
    return (*store(entry_at(va, level), entry), Step(Operation.INVLPG, va & -span_of(level)))


def listed(*entries: tuple[int, int, int], pa: int = LIST) -> tuple[Move, ...]:
    """Return a page list of one page (pa, end, permissions) written, and protection asked for."""
    words = [0, 0, len(entries), *(word for entry in entries for word in entry)]
    return (
        *store(places.KERNEL + pa, *words),
        Step(Operation.HYPERCALL, Hypercall.PROTECT_MEMORY, pa),
    )


def addresses(*entries: int) -> tuple[Move, ...]:
    """Return a report of these physical addresses as those of changed entries."""
    return (
        *store(places.KERNEL + LIST, len(entries), *entries),
        Step(Operation.HYPERCALL, Hypercall.UPDATE, LIST),
    )


def perform(agent: Agent, steps: Iterable[Move]) -> Iterator[tuple[Move, Result]]:
    """Have the agent take these steps up to the first that fails; yield what came of each."""
    for step in steps:
        if isinstance(step, Report):
            changed = [entry_pa(agent, va, level) for va, level in step.entries]
            result = update(agent, changed)
        else:
            result = agent.do(step.operation, step.first, step.second, step.third)
        yield step, result
        if result.failed:
            return


def is_hypercall(step: Move) -> bool:
    """Return whether a step asks something of the host."""
    return isinstance(step, Report) or step.operation is Operation.HYPERCALL
