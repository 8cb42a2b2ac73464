"""`protect`, the built-in guest: protected, attacked, and living on."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

from crosswalk.emu.cli.check import machine_spaces
from crosswalk.emu.cli.expecting import (
    chosen_sentences,
    joint_status,
    judged_machine,
    record,
    report_beside,
)
from crosswalk.emu.cli.failing import protect_failures
from crosswalk.emu.cli.host_machine import chosen_host, chosen_kind
from crosswalk.emu.cli.names import guest_names
from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.protect.actions import Actions
from crosswalk.emu.protect.attack import Attacked, Crash, Granted, NotStopped, Other
from crosswalk.emu.protect.attack_kinds import attacks_for
from crosswalk.emu.protect.attacks import ATTACKS
from crosswalk.emu.protect.probes import Probed
from crosswalk.emu.protect.scenario import Scenario, run_scenario
from crosswalk.emu.protect.subject import ProtectedGuest, protected_guest
from crosswalk.emu.report.expectations import Result
from crosswalk.emu.report.source import unfollowed_record
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.protection.policy import TableKind

__all__ = ["protect_guest"]

_WIDTH = 66
_SECONDS = 60.0
"""CPU time for what the machine is asked at once: a copy of the guest's RAM takes one second."""
_SHOWN = 20
_NO_STOP = NotStopped | Granted | Crash | Other
_MALFORMED = "malformed"
_KINDS = {
    TableKind.NPT: "nested paging (NPT)",
    TableKind.EPT: "EPT",
    TableKind.EPT_MBEC: "EPT with mode-based execute control",
}
_NO_RAM = "pages that are mapped outside RAM"


def protect_guest(options: argparse.Namespace) -> int:
    """Run the scenario of the built-in guest under nested paging; return the exit status."""
    sentences = chosen_sentences(options)
    kind = chosen_kind(options)
    machine = None
    if kind is not TableKind.NPT:
        with protect_failures(options):
            machine = chosen_host(options)
    # Without --tables the table is that of AMD's nested paging alone.
    attacks = ATTACKS if options.tables is None else attacks_for(kind)

    def run(subject: ProtectedGuest) -> tuple[Scenario, list[Result]]:
        spaces = machine_spaces("guest", subject.guest.memory, subject.guest.context)
        # Before the attacks, which change its tables.
        expected = judged_machine(options, sentences, spaces, guest_names(spaces))
        return run_scenario(subject, attacks=attacks), expected

    started = time.perf_counter()
    with protect_failures(options):
        if machine is None:
            # What may crash Unicorn runs in a child.
            scenario, expected = contained(lambda: run(protected_guest()))
        else:
            remark(f"{machine.version}: the whole scenario takes a minute or two")
            with Monitor(machine, seconds=_SECONDS) as monitor:
                scenario, expected = run(protected_guest(monitor, kind))
    seconds = time.perf_counter() - started
    where = None if machine is None else machine.version
    if options.json:
        found = {"expectations": record(expected)} if expected else {}
        about = {**scenario_record(scenario, seconds, where), **found}
        emit({**about, "reproduce": command_text(options)})
    else:
        for line in scenario_lines(scenario, seconds, verbose=options.verbose, where=where):
            print(line)
        print(f"reproduce: {command_text(options)}")
    show = remark if options.json else print
    for wrong in scenario.wrong[:_SHOWN]:
        show(f"not as it should be: {wrong}")
    return joint_status(1 if scenario.divergent else 0, report_beside(options, expected, show))


def scenario_record(scenario: Scenario, seconds: float, where: str | None = None) -> dict[str, Any]:
    """Return the scenario as a JSON document; `where` is the machine, if it isn't Unicorn."""
    known = sum(scenario.known.values())
    machine = {} if where is None else _machine_record(scenario, where)
    probes = (
        scenario.own.count + scenario.forged.count + sum(each.probes for each in scenario.updates)
    )
    divergent = scenario.own.divergent + scenario.forged.divergent
    divergent += sum(each.divergent for each in scenario.updates)
    return {
        "probes": probes,
        "agreements": probes - divergent - scenario.spared - known,
        "divergences": scenario.divergent,
        "known_divergences": scenario.spared + known,
        **machine,
        "seconds": round(seconds, 3),
        "predicted_only": {},
        "not_asked": {_NO_RAM: scenario.own.unbacked} if scenario.own.unbacked else {},
        "mappings": scenario.mapped,
        "unfollowed": unfollowed_record(scenario.unfollowed),
        "assumed": [],
        "entries_asked": scenario.entries,
        "frames_asked_for_with_less": scenario.more,
        "frames": scenario.frames,
        "frames_executable_for_the_emulator": scenario.spared,
        "nested_tables": scenario.nested_tables,
        "pages_outside_ram_not_tried": scenario.own.unbacked,
        "attacks": [
            {
                "name": each.attack.name,
                "expected": str(each.attack.expected),
                "outcome": str(each.result),
                "as_expected": each.as_expected,
                "why": each.attack.why,
            }
            for each in scenario.attacks
        ],
        "unprotected": [
            {"name": each.attack.name, "outcome": str(each.unprotected)}
            for each in scenario.unprotected
        ],
        "lifecycle": [
            {
                "name": each.update.name,
                "answer": each.update.answer.name,
                "frames_changed": each.changed,
                "probes": each.probes,
                "wrong": list(each.wrong),
            }
            for each in scenario.updates
        ],
    }


def _machine_record(scenario: Scenario, where: str) -> dict[str, Any]:
    return {
        "tables": str(scenario.kind),
        "machine": where,
        "known_departures": dict(sorted((scenario.known + scenario.departed).items())),
    }


def scenario_lines(
    scenario: Scenario, seconds: float, *, verbose: bool, where: str | None = None
) -> Iterator[str]:
    """Yield the scenario in words, line by line; `where` is the machine, if it isn't Unicorn."""
    total = sum(scenario.frames.values())
    named = ", ".join(f"{count:,} {name}" for name, count in scenario.frames.items())
    kind = _KINDS[scenario.kind]
    if where is None:
        yield f"1. The guest boots with 4-level paging and becomes a guest under {kind}."
        yield "   The emulated CPU with nested paging has no protection keys: they are off."
    else:
        yield "1. The guest boots with 4-level paging and becomes a guest of a small host's,"
        yield f"   under {kind}, in {where}. Protection keys are off."
    call = "VMMCALL" if where is None else "VMCALL"
    yield (
        f"2. It asks for protection: {call} with a page list of {scenario.entries} ranges, "
        f"{scenario.immutable} of them for ever."
    )
    yield (
        f"3. The host walks its tables. {total - scenario.unintended:,} of {total:,} frames need "
        "what the guest asked for; granted:"
    )
    yield f"   {named}, in {scenario.nested_tables} nested tables."
    if scenario.more:
        yield (
            f"   {scenario.more:,} frames were asked for with less than their mappings need, and "
            "are granted that."
        )
    if scenario.kind is TableKind.EPT_MBEC:
        yield "   (s: executed by supervisor addresses alone; u: by user addresses alone)"
    spared = scenario.spared
    if scenario.kind is TableKind.NPT:
        yield f"   Execution not withheld from {spared} frames of tables, a limit of the emulator."
    yield "4. Proved by accesses of the guest's:"
    yield f"   through its own mappings, all that they allow: {_probed(scenario.own)}"
    yield f"   ({scenario.own.unbacked:,} pages that are mapped outside RAM aren't tried)"
    yield f"   through forged tables that allow everything: {_probed(scenario.forged)}"
    if where is not None:
        yield "   The nested walk predicts each of them, the exit qualification included."
    for name, count in sorted((scenario.known + scenario.departed).items()):
        yield f"   {count:,} with a qualification as it is known of {where}: {name}"
    yield ""
    yield from _attack_lines(scenario, verbose=verbose)
    yield ""
    yield "7. Its life goes on. Frames granted otherwise at each step; the tables equal fresh ones:"
    for each in scenario.updates:
        answer = "" if not each.update.answer else ", refused"
        mark = "" if not each.wrong else "  WRONG"
        yield f"   {each.update.name:{_WIDTH}} {each.changed:,}{answer}{mark}"
    yield ""
    stopped = sum(not isinstance(each.result, _NO_STOP) for each in scenario.attacks)
    works = sum(isinstance(each.result, NotStopped) for each in scenario.attacks)
    rest = len(scenario.attacks) - stopped - works
    yield (
        f"verdict: {'FAILED' if scenario.divergent else 'as stated'}: "
        f"{scenario.own.count + scenario.forged.count:,} accesses, {stopped} attacks stopped, "
        f"{works} not stopped as stated, {rest} ended otherwise, {scenario.divergent} wrong, "
        f"{seconds:.1f} s"
    )


def _attack_lines(scenario: Scenario, *, verbose: bool) -> Iterator[str]:
    yield "5. Attacks, each on the guest as it was protected, and what stopped them:"
    limits = [
        each for each in scenario.attacks if isinstance(each.attack.expected, NotStopped | Crash)
    ]
    malformed = 0
    for each in scenario.attacks:
        if each.as_expected and each.attack.name.startswith(_MALFORMED) and not verbose:
            malformed += 1
        elif each not in limits:
            yield from _attack_line(each)
    if malformed:
        yield f"   {f'{malformed} malformed hypercalls (--verbose)':{_WIDTH}} refused, no change"
    works = sum(each.works_unprotected for each in scenario.unprotected)
    yield f"   Of {len(scenario.unprotected)} that withheld rights stop, {works} work without them."
    yield ""
    yield "6. What isn't stopped, and why:"
    for each in limits:
        yield from _attack_line(each)


def _attack_line(each: Attacked[Actions]) -> Iterator[str]:
    mark = "" if each.as_expected else f"  WRONG: expected {each.attack.expected}"
    yield f"   {each.attack.name:{_WIDTH}} {each.result}{mark}"
    if each.attack.why and isinstance(each.result, NotStopped | Crash):
        yield f"     {each.attack.why}"


def _probed(probed: Probed) -> str:
    parts = [
        f"{sum(count for (name, _), count in probed.probes.items() if name == use):,} {plural}"
        for use, plural in (("read", "reads"), ("write", "writes"), ("execute", "fetches"))
    ]
    refused = sum(count for (_, ended), count in probed.probes.items() if ended != "allowed")
    return f"{', '.join(parts)}; {refused:,} refused, {probed.divergent:,} wrong"
