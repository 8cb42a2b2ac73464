"""Simpler cases: fewer probes and entries, plainer registers and bits."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TypeVar

from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import ADDRESS_FIELD
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.translate import Walk, walk_access

__all__ = ["PLAIN", "Search", "path_of", "plain", "simplifications", "size_of"]

Item = TypeVar("Item")

Search = Generator[Case, bool, None]
"""Yields candidates, and is sent whether each was accepted."""

PLAIN = 0x7
"""Present, writable, the user's: what an entry is when nothing is about it."""

_ACCESSES = {"read": 0, "write": 1, "execute": 2}
_SWITCHES = {
    "cr0": (1 << 16,),
    "cr4": (1 << 12, 1 << 20, 1 << 21, 1 << 22, 1 << 7, 1 << 27, 1 << 28),
    "efer": (1 << 11, 1 << 20),
}
_FEATURES = ("maxphyaddr", "page1gb", "vendor", "encryption_mask")
_DEFAULT = Cpu.from_context(PagingContext(cr3=0))


def path_of(case: Case, probe: Probe) -> Walk:
    """Return the entries that a probe of a case selects, by the linear address that it goes to."""
    return walk_access(case.memory(), case.context(), probe.asked)


def plain(case: Case) -> int:
    """Return in how many bits the case's entries differ from plain ones."""
    return sum(((word ^ PLAIN) & ~ADDRESS_FIELD).bit_count() for word in case.entries.values())


def size_of(case: Case) -> tuple[int, ...]:
    """Return how big a case is, most important first: the order in which cases get smaller."""
    cpu = case.cpu
    odd = sum((getattr(cpu, name) ^ getattr(_DEFAULT, name)).bit_count() for name in _SWITCHES)
    features = [getattr(cpu, name) for name in _FEATURES]
    usual = [getattr(_DEFAULT, name) for name in _FEATURES]
    return (
        len(case.probes),
        len(case.entries),
        int(features != usual),
        odd,
        cpu.pkru.bit_count(),
        plain(case),
        sum(_ACCESSES[each.access] for each in case.probes),
        sum(each.cpl for each in case.probes),
        sum(each.ac for each in case.probes),
        sum(each.va for each in case.probes),
        cpu.cr3,
        sum(case.entries),
        sum(word & ADDRESS_FIELD for word in case.entries.values()),
        len(case.ram),
        sum(start + size for start, size in case.ram),
    )


def simplifications(case: Case) -> Search:
    """Yield what has fewer probes, entries, switches or bits."""
    case = yield from _fewer(case, list(case.probes), 1, _with_probes)
    case = yield from _fewer_entries(case)
    case = yield from _plainer_root(case)
    case = yield from _plainer_cpu(case)
    case = yield from _plainer_bits(case)
    yield from _plainer_probes(case)


def _fewer(
    case: Case, items: list[Item], least: int, made: Callable[[Case, list[Item]], Case]
) -> Generator[Case, bool, Case]:
    """Yield `made` cases without half of the items, a quarter, and so on down to single ones."""
    step = (len(items) + 1) // 2
    while step:
        at = 0
        while at < len(items):
            left = items[:at] + items[at + step :]
            if len(left) >= least and (yield made(case, left)):
                case, items = made(case, left), left
            else:
                at += step
        step //= 2
    return case


def _with_probes(case: Case, probes: list[Probe]) -> Case:
    return replace(case, probes=tuple(probes))


def _with_entries(case: Case, entries: list[tuple[int, int]]) -> Case:
    return replace(case, entries=dict(entries))


def _fewer_entries(case: Case) -> Generator[Case, bool, Case]:
    used: dict[int, int] = {}
    for probe in case.probes:
        path = path_of(case, probe)
        used |= {pa: word for pa, word in path.words if word}
    candidate = replace(case, entries=used)
    if len(used) < len(case.entries) and (yield candidate):
        case = candidate
    # What a list of mappings depends on may lie beside the walk.
    return (yield from _fewer(case, sorted(case.entries.items()), 0, _with_entries))


def _plainer_root(case: Case) -> Generator[Case, bool, Case]:
    """Yield the case without the bits of CR3 beside the address: LAM's, PCD and PWT."""
    plain_root = replace(case, cpu=replace(case.cpu, cr3=case.cpu.cr3 & ADDRESS_FIELD))
    if case.context().mode.long and plain_root != case and (yield plain_root):
        return plain_root
    return case


def _plainer_cpu(case: Case) -> Generator[Case, bool, Case]:
    usual = replace(_DEFAULT, cr3=case.cpu.cr3)
    attempts: list[Mapping[str, object]] = [
        {name: getattr(usual, name) for name in names}
        for names in (
            (*_FEATURES, "cr0", "cr4", "efer", "pkru"),
            _FEATURES,
            *((name,) for name in _FEATURES),
            ("cr0",),
            ("cr4",),
            ("efer",),
            ("pkru",),
        )
    ]
    for attempt in attempts:
        candidate = replace(case, cpu=replace(case.cpu, **attempt))  # type: ignore[arg-type]  # Fields of a Cpu.
        if (yield candidate):
            case = candidate
    for name, bits in _SWITCHES.items():
        for bit in bits:
            value = getattr(case.cpu, name)
            if (value ^ getattr(_DEFAULT, name)) & bit:
                candidate = replace(case, cpu=replace(case.cpu, **{name: value ^ bit}))
                if (yield candidate):
                    case = candidate
    for bit in range(32):
        if case.cpu.pkru >> bit & 1:
            candidate = replace(case, cpu=replace(case.cpu, pkru=case.cpu.pkru & ~(1 << bit)))
            if (yield candidate):
                case = candidate
    return case


def _plainer_bits(case: Case) -> Generator[Case, bool, Case]:
    for pa in sorted(case.entries):
        odd = (case.entries[pa] ^ PLAIN) & ~ADDRESS_FIELD
        bits = [1 << at for at in range(64) if odd >> at & 1]
        for change in (odd, *bits) if len(bits) > 1 else bits:
            word = case.entries[pa]
            candidate = replace(
                case, entries={**case.entries, pa: word ^ (change & (word ^ PLAIN))}
            )
            if (yield candidate):
                case = candidate
    return case


def _plainer_probes(case: Case) -> Search:
    for at, probe in enumerate(case.probes):
        for change in (
            {"access": "read", "cpl": 0, "ac": False},
            {"access": "read"},
            {"access": "write"},
            {"cpl": 0},
            {"ac": False},
            {"va": probe.va & ~0xFFF},
        ):
            changed = replace(case.probes[at], **change)
            probes = _with(case.probes, at, changed)
            candidate = replace(case, probes=probes)
            if (yield candidate):
                case = candidate


def _with(probes: tuple[Probe, ...], at: int, probe: Probe) -> tuple[Probe, ...]:
    return (*probes[:at], probe, *probes[at + 1 :])
