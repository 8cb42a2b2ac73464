"""What a point of a boot shows of a guest's own hypervisor: nested tables, walked and checked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from crosswalk.emu.check.nested_guest import GuestCheck, check_guest_pages
from crosswalk.emu.load.nested import NestedPaging
from crosswalk.emu.report.conclusion import Conclusion
from crosswalk.emu.report.verdict import nested_divergence_lines
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["NestedPoint", "check_nested_point", "nested_record", "show_nested", "with_nested"]

_SHOWN = 4
_FATAL = "would end the emulator"


@dataclass(frozen=True, slots=True)
class NestedPoint:
    """What was found of nested tables; `check` is None where nobody looked: `unread` says why."""

    paging: NestedPaging
    check: GuestCheck | None
    unread: str = ""

    @property
    def not_asked(self) -> dict[str, int]:
        """Counts of accesses that weren't made, by reason."""
        if self.check is None:
            return {}
        fatal = len(self.check.verdict.fatal)
        return {_FATAL: fatal} if fatal else {}


def check_nested_point(memory: PhysicalMemory, paging: NestedPaging | None) -> NestedPoint | None:
    """Return what is found of the nested tables at a point; None where there are none."""
    if paging is None:
        return None
    if paging.context is None:
        return NestedPoint(paging, None, paging.unread)
    try:
        return NestedPoint(paging, check_guest_pages(memory, paging.context))
    except BadInput as error:
        return NestedPoint(paging, None, str(error))


def _lines(point: NestedPoint, memory: PhysicalMemory) -> Iterator[str]:
    """Yield what is said of nested tables, divergences with their walks."""
    root, check = point.paging.root, point.check
    state = "runs" if root.running else "ran last"
    yield (
        f"nested paging: the guest that {state} under VMCB {root.vmcb:#x} has "
        f"nCR3 = {root.nested_cr3:#x}, CR3 = {root.guest.cr3:#x}"
    )
    if check is None:
        yield f"  not checked: {point.unread}"
        return
    verdict = check.verdict
    yield (
        f"  {check.pages:,} pages; {verdict.probes:,} accesses to {check.tried:,} addresses: "
        f"{verdict.agreements:,} agree, {len(verdict.divergences):,} diverge"
        + (f", {len(verdict.explained):,} known" if verdict.explained else "")
    )
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in verdict.counts.items())
    yield f"  {kinds}" if kinds else "  nothing to try"
    for reason, count in point.not_asked.items():
        yield f"  not asked: {count:,}, {reason}"
    if check.unreached:
        yield f"  {check.unreached:,} tables of the guest that the nested tables don't map"
    for each in verdict.divergences[:_SHOWN]:
        yield from nested_divergence_lines(memory, check.context, each)


def nested_record(point: NestedPoint) -> dict[str, Any]:
    """Return the same as `run --json` prints it."""
    root, check = point.paging.root, point.check
    record: dict[str, Any] = {
        "vmcb": hex(root.vmcb),
        "ncr3": hex(root.nested_cr3),
        "cr3": hex(root.guest.cr3),
        "running": root.running,
    }
    if check is None:
        return {**record, "unread": point.unread}
    verdict = check.verdict
    return {
        **record,
        "pages": check.pages,
        "addresses": check.tried,
        "probes": verdict.probes,
        "agreements": verdict.agreements,
        "divergences": len(verdict.divergences),
        "known_divergences": len(verdict.explained),
        "known": verdict.known,
        "outcomes": verdict.counts,
        "not_asked": point.not_asked,
        "unreached": check.unreached,
    }


def with_nested(word: Conclusion, point: NestedPoint | None) -> Conclusion:
    """Return a point's last word with what its nested tables add."""
    if point is None or point.check is None or not point.check.verdict.divergences:
        return word
    count = len(point.check.verdict.divergences)
    text = f"{word.text}; {count:,} divergences under nested paging"
    return Conclusion(1, text)


def show_nested(
    point: NestedPoint | None, memory: PhysicalMemory, show: Callable[[str], None]
) -> None:
    """Show what is said of nested tables, if there are any."""
    if point is not None:
        for line in _lines(point, memory):
            show(line)
        show("")
