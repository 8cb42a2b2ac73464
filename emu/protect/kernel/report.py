"""What became of a protected kernel, in words and in records; and what has to hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.protect.kernel.rules import Cause
from crosswalk.emu.protect.kernel.run_attacks import Fought, is_as_meant
from crosswalk.emu.protect.kernel.scenario import Outcome, Plain

__all__ = ["Check", "attack_lines", "attack_record", "checks", "outcome_lines"]

_SVME = 1 << 12


@dataclass(frozen=True, slots=True)
class Check:
    """Something that has to hold, and whether it did."""

    text: str
    holds: bool


def checks(plain: Plain, outcome: Outcome, words: Sequence[tuple[int, int]]) -> Iterator[Check]:
    """Yield what has to hold; of a kernel that was stopped on its way, that it wasn't.

    `words` are those in which the memory of the two guests differs at idle: (without nested
    paging, with it).
    """
    yield _accounted(outcome)
    if outcome.refusal is not None:
        return
    nested = outcome.plain
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
    others = sum(one ^ other != _SVME for one, other in words)
    yield Check(
        f"memory at idle as without nested paging: EFER.SVME in {len(words) - others:,} saved "
        f"words, {others:,} other words differ",
        not others,
    )
    yield Check(
        f"rights followed change by change equal those computed afresh, {outcome.steps:,} times",
        outcome.steps > 0 and not outcome.differing,
    )
    yield Check(
        f"no frame is left writable that no mapping may write, computed afresh by {_roots(outcome)}"
        f"; {outcome.lost:,} had lost it",
        not outcome.stale,
    )
    yield Check("the nested tables grant what the rules do, and no more", outcome.as_ruled)
    yield Check(
        f"of {outcome.counts.sealed:,} sealed frames none has changed but what was patched",
        outcome.changed <= outcome.patched,
    )
    for fought in outcome.attacks:
        end = "succeeds, as said" if fought.after else "is stopped"
        yield Check(f"{fought.attack.name}: works unprotected; {end}", is_as_meant(fought))


def _accounted(outcome: Outcome) -> Check:
    faults = outcome.exits.get(ExitCode.NPF.name, 0)
    accounted = sum(outcome.causes.values()) - outcome.causes.get(Cause.REFUSED, 0)
    text = f"each of {faults:,} nested faults a change that the rules follow"
    if outcome.refusal is not None:
        text += f"; stopped by {outcome.refusal}"
    return Check(text, outcome.refusal is None and accounted == faults)


def outcome_lines(plain: Plain, outcome: Outcome, protect_at: str) -> Iterator[str]:
    """Yield what was found, but for the attacks."""
    counts, nested = outcome.counts, outcome.plain
    yield (
        f"under VMRUN from the first instruction: {nested.seconds:.1f} s of CPU time to idle, "
        f"{nested.seconds / plain.seconds:.2f} times the {plain.seconds:.1f} s without; to where "
        f"protection begins {nested.early / plain.early:.2f} times"
    )
    yield (
        f"at {protect_at}: {counts.frames:,} frames, by collective rights {counts.read_only:,} "
        f"read-only, {counts.read_write:,} read-write, {counts.read_execute:,} read-execute, "
        f"{counts.all_three:,} all three ({outcome.policy_seconds:.2f} s)"
    )
    yield (
        f"  writing withheld from {counts.no_write:,}; {counts.sealed:,} of them in the image's "
        f"{counts.image:,} and sealed for good, {counts.text:,} of these text"
    )
    yield (
        f"  execution withheld from {counts.no_execute:,}: read-only and kept data of the image, "
        f"but for tables ({counts.tables:,} in all)"
    )
    yield f"  {outcome.nested_tables:,} nested tables"
    pinned = [f"{name.upper()}.{bit}" for name, bits in outcome.pinned.items() for bit in bits]
    yield f"  pinned: {', '.join(pinned)}; what would clear one ends the run"
    for when, exits in (("before", outcome.before), ("since", outcome.exits)):
        each = ", ".join(f"{count:,} {name}" for name, count in sorted(exits.items()))
        yield f"exits {when}: {each or 'none'}"
    for cause, count in sorted(outcome.causes.items()):
        yield f"  {count:,} nested faults: {cause.value}"
    if outcome.patched:
        yield (
            f"  {len(outcome.patched):,} frames patched, {len(outcome.changed):,} of them "
            "different in the end"
        )
    yield (
        f"  outside what is sealed, since: {len(outcome.loaded):,} frames of code patched, writing "
        f"granted to {outcome.granted:,} and withdrawn from {outcome.withdrawn:,} that nothing "
        f"may write any more; rights by {_roots(outcome)}"
    )


def _roots(outcome: Outcome) -> str:
    return "the kernel's root and the user's" if outcome.isolated else "the kernel's root"


def attack_lines(attacks: Sequence[Fought]) -> Iterator[str]:
    """Yield the table of attacks."""
    for fought in attacks:
        attack = fought.attack
        yield f"{attack.name}: {attack.does}"
        before = "succeeds" if fought.before else "FAILS"
        yield f"    unprotected {before}; protected {_ending(fought)}"


def attack_record(fought: Fought) -> dict[str, Any]:
    """Return an attack for machines."""
    refusal = fought.refusal
    return {
        "name": fought.attack.name,
        "does": fought.attack.does,
        "unprotected": fought.before,
        "protected": fought.after,
        "stopped_by": _stopper(fought),
        "error_code": None if refusal is None else refusal.error_code,
        "gpa": None if refusal is None or refusal.gpa is None else hex(refusal.gpa),
        "detail": fought.guarded or (refusal.detail if refusal else ""),
        "why_not": fought.attack.why if fought.after else "",
        "as_meant": is_as_meant(fought),
    }


def _ending(fought: Fought) -> str:
    if fought.after:
        return f"NOT STOPPED: {fought.attack.why or 'it should have been'}"
    refusal = fought.refusal
    if refusal is None:
        return f"stopped by the host's delivery: {fought.guarded or fought.end}"
    if refusal.gpa is None:
        return f"stopped by {refusal.exit}: {refusal.detail}"
    return (
        f"stopped by {refusal.exit}: EXITINFO1 {refusal.error_code:#x} "
        f"({_access(refusal.error_code)}), EXITINFO2 {refusal.gpa:#x}"
    )


def _access(error_code: int) -> str:
    return "fetch" if error_code & 16 else "write" if error_code & 2 else "read"


def _stopper(fought: Fought) -> str | None:
    if fought.refusal is not None:
        return fought.refusal.exit
    return "guard" if fought.guarded else None
