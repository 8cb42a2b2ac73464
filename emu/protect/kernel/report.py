"""The report of a protected kernel, in words and as JSON; and the checks that have to hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crosswalk.emu.cpu.svm.exits import ExitCode, exit_name
from crosswalk.emu.protect.attack import (
    Attacked,
    DeliveryRefused,
    Intercepted,
    NestedFault,
    NotBuilt,
    NotStopped,
    Violation,
    VmExited,
)
from crosswalk.emu.protect.kernel.attacks import Code
from crosswalk.emu.protect.kernel.protection import Refusal
from crosswalk.emu.protect.kernel.results import Enforced
from crosswalk.emu.protect.kernel.rules import Cause
from crosswalk.emu.protect.kernel.scenario import PlainBoot, ProtectedBoot
from crosswalk.walker.architecture import EFER
from crosswalk.walker.nested.outcome import NestedError

__all__ = [
    "NO_NX",
    "Check",
    "accounted",
    "attack_counts",
    "attack_lines",
    "attack_record",
    "boot_lines",
    "checks",
    "enforced_checks",
    "enforced_lines",
    "refusal_record",
    "roots_words",
]


NO_NX = "without NX the mappings let all that is mapped be executed"
"""Why execution is withheld from nothing where no entry can withhold it."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something that has to hold, and whether it did."""

    text: str
    holds: bool


def checks(
    plain: PlainBoot,
    protected: ProtectedBoot,
    words: Sequence[tuple[int, int]],
    *,
    end: str = "idle",
) -> Iterator[Check]:
    """Yield the checks; of a kernel that was stopped on its way, the failed one alone.

    `words` are the words of memory that differ between the two guests at the `end`: (without nested
    paging, with it).
    """
    yield accounted(protected, ExitCode.NPF.name, "nested faults", protected.refusal)
    if protected.refusal is not None:
        return
    nested = protected.plain
    same = (plain.console, plain.events, plain.system_calls) == (
        nested.console,
        nested.events,
        nested.system_calls,
    )
    yield Check(
        f"the same console, {plain.events:,} exceptions and interrupts and {plain.system_calls:,} "
        "system calls as without nested paging",
        same,
    )
    others = sum(one ^ other != EFER.SVME for one, other in words)
    yield Check(
        f"memory at {end} as without nested paging: EFER.SVME in {len(words) - others:,} saved "
        f"words, {others:,} other words differ",
        not others,
    )
    yield from enforced_checks(protected)


def enforced_checks(enforced: Enforced) -> Iterator[Check]:
    """Yield the checks of what was granted until idle, and those of the attacks."""
    yield Check(
        f"rights followed change by change equal those computed afresh, {enforced.steps:,} times",
        enforced.steps > 0 and not enforced.differing,
    )
    yield Check(
        "no frame is left writable that no mapping may write, computed afresh by "
        f"{roots_words(enforced)}; {enforced.lost:,} had lost it",
        not enforced.stale,
    )
    yield Check("the nested tables grant what the rules do, and no more", enforced.as_ruled)
    sealing = enforced.sealing
    yield Check(
        "what the kernel took writing from lost it when translations were dropped; "
        f"{sealing.late:,} frames later",
        not sealing.late,
    )
    outside = sealing.first + sealing.since - sealing.released
    yield Check(
        f"of {enforced.counts.sealed + outside:,} sealed frames none has changed but what was "
        "patched",
        enforced.changed <= enforced.patched | enforced.loaded,
    )
    yield Check(
        f"{outside:,} frames outside the image are sealed, {sealing.unsealed:,} aren't that the "
        "kernel's tables have as its code, or as read-only data of its own",
        not sealing.unsealed,
    )
    for each in (each for each in enforced.attacks if each.built):
        end = "succeeds, as said" if isinstance(each.attack.expected, NotStopped) else "is stopped"
        yield Check(f"{each.attack.name}: works unprotected; {end}", not each.wrong)


def accounted(enforced: Enforced, exit_name: str, faults: str, stopped_by: object | None) -> Check:
    """Return the check that each nested fault since protection began is one of the rules' causes.

    `exit_name` is what such exits are counted as, `faults` what they are called, `stopped_by` the
    exit that was refused, or None.
    """
    number = enforced.exits.get(exit_name, 0)
    ruled = sum(enforced.causes.values()) - enforced.causes.get(Cause.REFUSED, 0)
    text = f"each of {number:,} {faults} a change that the rules follow"
    if stopped_by is not None:
        text += f"; stopped by {stopped_by}"
    return Check(text, stopped_by is None and ruled == number)


def boot_lines(plain: PlainBoot, protected: ProtectedBoot, protect_at: str) -> Iterator[str]:
    """Yield the results of the boot, without the attacks."""
    nested = protected.plain
    yield (
        f"under VMRUN from the first instruction: {nested.seconds:.1f} s of CPU time to idle, "
        f"{nested.seconds / plain.seconds:.2f} times the {plain.seconds:.1f} s without; to where "
        f"protection begins {nested.early / plain.early:.2f} times"
    )
    tables = protected.counts.tables
    yield from enforced_lines(
        protected,
        protect_at,
        of_execution=f"read-only and kept data of the image, but for tables ({tables:,} in all)",
        tables="nested tables",
        faults="nested faults",
    )


def enforced_lines(
    enforced: Enforced,
    protect_at: str,
    *,
    of_execution: str,
    tables: str,
    faults: str,
    since: str = "",
) -> Iterator[str]:
    """Yield what was granted at a point and since, in one way of enforcing's words.

    `of_execution` says which frames lose execution, `since` what else was granted; `tables` and
    `faults` are what these are called.
    """
    counts = enforced.counts
    yield (
        f"at {protect_at}: {counts.frames:,} frames, by collective rights {counts.read_only:,} "
        f"read-only, {counts.read_write:,} read-write, {counts.read_execute:,} read-execute, "
        f"{counts.all_three:,} all three ({enforced.policy_seconds:.2f} s)"
    )
    yield (
        f"  writing withheld from {counts.no_write:,}; {counts.sealed:,} of them in the image's "
        f"{counts.image:,} and sealed for good, {counts.text:,} of these text"
    )
    of_execution = of_execution if enforced.nx else NO_NX
    yield f"  execution withheld from {counts.no_execute:,}: {of_execution}"
    yield f"  {enforced.nested_tables:,} {tables}"
    pinned = [f"{name.upper()}.{bit}" for name, bits in enforced.pinned.items() for bit in bits]
    yield f"  pinned: {', '.join(pinned)}; what would clear one ends the run"
    for when, exits in (("before", enforced.before), ("since", enforced.exits)):
        each = ", ".join(f"{count:,} {name}" for name, count in sorted(exits.items()))
        yield f"exits {when}: {each or 'none'}"
    for cause, count in sorted(enforced.causes.items()):
        yield f"  {count:,} {faults}: {cause.value}"
    if enforced.patched:
        yield (
            f"  {len(enforced.patched):,} frames patched, {len(enforced.changed):,} of them "
            "different in the end"
        )
    yield (
        f"  outside what is sealed, since: {len(enforced.loaded):,} frames of code patched, "
        f"writing granted to {enforced.granted:,} and withdrawn from {enforced.withdrawn:,} "
        f"that nothing may write any more{since}; rights by {roots_words(enforced)}"
    )
    sealing = enforced.sealing
    yield (
        f"  sealed outside the image: {sealing.first:,} frames at first, {sealing.since:,} since, "
        f"{sealing.released:,} freed; translations dropped {sealing.flushes:,} times "
        f"({sealing.seconds:.2f} s)"
    )


def roots_words(enforced: Enforced) -> str:
    """Return by which roots rights are computed, in words."""
    return "the kernel's root and the user's" if enforced.isolated else "the kernel's root"


def attack_lines(attacks: Sequence[Attacked[Code]]) -> Iterator[str]:
    """Yield the table of attacks."""
    for each in attacks:
        yield f"{each.attack.name}: {each.attack.program.does}"
        if not each.built:
            yield f"    {each.result}"
            continue
        before = "succeeds" if each.works_unprotected else "FAILS"
        yield f"    unprotected {before}; protected {_ending(each)}"


def attack_record(each: Attacked[Code]) -> dict[str, Any]:
    """Return an attack as JSON."""
    attack, result = each.attack, each.result
    succeeds = isinstance(result, NotStopped)
    stopped_by, error_code, gpa, detail = None, None, None, ""
    built = each.built
    match result:
        case NestedFault():
            stopped_by, error_code = ExitCode.NPF.name, result.error_code
            gpa, detail = hex(result.gpa), result.detail
        case Intercepted():
            stopped_by, error_code = exit_name(result.code), result.error_code
            detail = result.detail
        case DeliveryRefused():
            stopped_by, detail = "guard", result.detail
        case Violation():
            stopped_by, error_code = "EPT_VIOLATION", result.qualification
            gpa = hex(result.gpa)
        case VmExited():
            stopped_by = result.what
    return {
        "name": attack.name,
        "does": attack.program.does,
        "unprotected": each.works_unprotected if built else None,
        "protected": succeeds if built else None,
        "stopped_by": stopped_by,
        "error_code": error_code,
        "gpa": gpa,
        "detail": detail,
        "why_not": attack.why if succeeds else "",
        "as_meant": not each.wrong if built else None,
        "not_built": result.why if isinstance(result, NotBuilt) else "",
    }


def attack_counts(attacks: Sequence[Attacked[Code]]) -> dict[str, int]:
    """Return how many attacks were stopped, weren't, and weren't built."""
    succeeded = sum(isinstance(each.result, NotStopped) for each in attacks)
    built = sum(each.built for each in attacks)
    return {
        "stopped": built - succeeded,
        "not_stopped": succeeded,
        "not_built": len(attacks) - built,
    }


def refusal_record(refusal: Refusal) -> dict[str, Any]:
    """Return a refused exit as JSON."""
    left = refusal.left
    return {
        "exit": exit_name(left.code),
        "error_code": left.error_code,
        "gpa": left.gpa,
        "rip": refusal.rip,
        "cpl": refusal.cpl,
        "detail": refusal.detail,
    }


def _ending(each: Attacked[Code]) -> str:
    match each.result:
        case NotStopped():
            return f"NOT STOPPED: {each.attack.why or 'it should have been'}"
        case DeliveryRefused(detail):
            return f"stopped by the host's delivery: {detail}"
        case Intercepted(code, _, detail):
            return f"stopped by {exit_name(code)}: {detail}"
        case Violation() | VmExited():
            return f"stopped by {each.result}"
        case NestedFault(gpa, error_code):
            access = (
                "fetch"
                if error_code & NestedError.ID
                else "write"
                if error_code & NestedError.WR
                else "read"
            )
            return (
                f"stopped by {ExitCode.NPF.name}: EXITINFO1 {error_code:#x} ({access}), "
                f"EXITINFO2 {gpa:#x}"
            )
    return f"ended otherwise: {each.result}"
