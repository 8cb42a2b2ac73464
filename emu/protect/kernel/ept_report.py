"""The report of a kernel under EPT, in words and as JSON; and the checks that have to hold."""

from collections.abc import Iterator
from typing import Any

from crosswalk.emu.monitor.vmx import ExitReason, reason_name
from crosswalk.emu.protect.kernel.ept import EptRefusal, exit_words
from crosswalk.emu.protect.kernel.ept_scenario import EptBoot
from crosswalk.emu.protect.kernel.report import Check, enforced_checks, roots_words
from crosswalk.emu.protect.kernel.rules import Cause
from crosswalk.walker.protection.policy import TableKind

__all__ = ["ept_boot_lines", "ept_checks", "ept_refusal_record"]

_VIOLATION = reason_name(ExitReason.EPT_VIOLATION)


def ept_checks(boot: EptBoot) -> Iterator[Check]:
    """Yield the checks; of a kernel that was stopped on its way, the failed one alone."""
    faults = boot.exits.get(_VIOLATION, 0)
    accounted = sum(boot.causes.values()) - boot.causes.get(Cause.REFUSED, 0)
    text = f"each of {faults:,} EPT violations a change that the rules follow"
    if boot.refusal is not None:
        yield Check(f"{text}; stopped by {boot.refusal}", holds=False)
        return
    yield Check(text, accounted == faults)
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
    counts, kind = boot.counts, "EPT, MBEC" if boot.kind is TableKind.EPT_MBEC else "EPT"
    yield (
        f"under VMX and {kind} from the first instruction: {boot.early:.0f} s to where protection "
        f"begins, {boot.ticks:,} ticks of the CPU's clock; {boot.late:.0f} s from there to idle"
    )
    yield (
        f"at {protect_at}: {counts.frames:,} frames, by collective rights {counts.read_only:,} "
        f"read-only, {counts.read_write:,} read-write, {counts.read_execute:,} read-execute, "
        f"{counts.all_three:,} all three ({boot.policy_seconds:.2f} s)"
    )
    yield (
        f"  writing withheld from {counts.no_write:,}; {counts.sealed:,} of them in the image's "
        f"{counts.image:,} and sealed for good, {counts.text:,} of these text"
    )
    yield (
        f"  execution withheld from {counts.no_execute:,}: all that no mapping lets execute, "
        f"{counts.tables:,} tables among them"
    )
    yield f"  {boot.nested_tables:,} EPT tables"
    pinned = [f"{name.upper()}.{bit}" for name, bits in boot.pinned.items() for bit in bits]
    yield f"  pinned: {', '.join(pinned)}; what would clear one ends the run"
    for when, exits in (("before", boot.before), ("since", boot.exits)):
        each = ", ".join(f"{count:,} {name}" for name, count in sorted(exits.items()))
        yield f"exits {when}: {each or 'none'}"
    for cause, count in sorted(boot.causes.items()):
        yield f"  {count:,} EPT violations: {cause.value}"
    if boot.patched:
        yield (
            f"  {len(boot.patched):,} frames patched, {len(boot.changed):,} of them different in "
            "the end"
        )
    yield (
        f"  outside what is sealed, since: {len(boot.loaded):,} frames of code patched, writing "
        f"granted to {boot.granted:,} and withdrawn from {boot.withdrawn:,} that nothing may "
        f"write any more, execution granted to {boot.user_code:,} of processes; rights by "
        f"{roots_words(boot)}"
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
