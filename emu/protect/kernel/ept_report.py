"""The report of a kernel under EPT, in words and as JSON; and the checks that have to hold."""

from collections.abc import Iterator
from typing import Any

from crosswalk.emu.monitor.vmx import ExitReason, reason_name
from crosswalk.emu.protect.kernel.ept import EptRefusal, exit_words
from crosswalk.emu.protect.kernel.ept_scenario import EptBoot
from crosswalk.emu.protect.kernel.report import (
    Check,
    accounted,
    enforced_checks,
    enforced_lines,
)
from crosswalk.walker.protection.policy import TableKind

__all__ = ["ept_boot_lines", "ept_checks", "ept_refusal_record"]

_VIOLATION = reason_name(ExitReason.EPT_VIOLATION)


def ept_checks(boot: EptBoot) -> Iterator[Check]:
    """Yield the checks; of a kernel that was stopped on its way, the failed one alone."""
    yield accounted(boot, _VIOLATION, "EPT violations", boot.refusal)
    if boot.refusal is not None:
        return
    others = "".join(f"; {number:,} as known, {which}" for which, number in boot.known.items())
    others += f"; {boot.unlike[0]}" if boot.unlike else ""
    yield Check(
        "each of them, and of those of attacks, as the nested walk predicts it, exit qualification "
        f"included{others}",
        not boot.unlike,
    )
    yield from enforced_checks(boot)


def ept_boot_lines(boot: EptBoot, protect_at: str) -> Iterator[str]:
    """Yield the results of the boot, without the attacks."""
    kind = "EPT, MBEC" if boot.kind is TableKind.EPT_MBEC else "EPT"
    yield (
        f"under VMX and {kind} from the first instruction: {boot.early:.0f} s to where protection "
        f"begins, {boot.ticks:,} ticks of the CPU's clock; {boot.late:.0f} s from there to idle"
    )
    yield from enforced_lines(
        boot,
        protect_at,
        of_execution=f"all that no mapping lets execute, {boot.counts.tables:,} tables among them",
        tables="EPT tables",
        faults="EPT violations",
        since=f", execution granted to {boot.user_code:,} of processes",
    )


def ept_refusal_record(refusal: EptRefusal) -> dict[str, Any]:
    """Return a refused exit as JSON."""
    left = refusal.left
    return {
        "exit": exit_words(left),
        "qualification": left.qualification,
        "gpa": left.gpa,
        "rip": left.rip,
        "cpl": left.cpl,
        "detail": refusal.detail,
    }
