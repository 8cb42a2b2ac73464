"""`scripts/found`: shows the bugs of docs/found.md, and writes that page and reports about them."""

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from crosswalk.emu.check.departures import BOCHS, QEMU
from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.cli.output import command_line
from crosswalk.emu.judges.registry import open_machine
from crosswalk.emu.report.text import context_text, outcome_text, step_text
from crosswalk.walker.context import Vendor
from crosswalk.walker.formats.case import Case, Probe, load_case
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.translate import translate, walk
from scripts.upkeep.found_bugs import BUGS, REGISTERED, ROOT, SUBJECTS, Bug, Subject, walker_of
from scripts.upkeep.found_pairs import pair_command, pair_lines, pair_shown, pair_walk
from scripts.upkeep.found_registers import moved_to_cr4

__all__ = ["PAGE", "Shown", "Way", "main", "page", "report", "show"]

PAGE = ROOT / "docs" / "found.md"
_HEAD = """\
# Found by Crosswalk

Bugs that Crosswalk found in walkers, emulators and models, each with the version that it was found
in and the smallest case that shows it. `scripts/found` runs the commands below, as far as the
programs can be had, and fails where a bug is gone; `scripts/found --report NAME` prints a text for
the program's maintainers. What Unicorn, the emulator that Crosswalk itself uses, gets wrong has
[a page of its own](emulator-divergences.md); `scripts/found unicorn` shows those with a case. This
page is made from docs/data/found.toml by `scripts/found --write`.

Whether a tool that only reads memory should fault where the processor does is for its authors to
say: entries with reserved bits and addresses that aren't canonical are listed because the processor
differs, not because it is always wrong to be lenient.
"""
_BOOTED = {
    QEMU: (
        "crosswalk export {case} -o bug.img",
        "qemu-system-x86_64 -cpu {cpu} -m 4096 -display none -d int -kernel bug.img",
    ),
    BOCHS: ("crosswalk export {case} -o bug.img --iso bug.iso",),
}
"""What makes a boot image of a case, and for QEMU boots it; `-d int` logs what an access raises."""

_VENDORS = {Vendor.INTEL: "GenuineIntel", Vendor.AMD: "AuthenticAMD"}


_MOST = 8
"""So many words that aren't on a walk are listed in a report."""


class Shown(StrEnum):
    """What came of showing a bug: `UNLIKE`, another wrong answer; `FAILED`, no answer."""

    SHOWN = "shown"
    GONE = "GONE"
    AS_LISTED = "gone, as is listed"
    BACK = "BACK"
    UNLIKE = "UNLIKE"
    FAILED = "FAILED"
    SKIPPED = "skipped"


_NO_ANSWER = {"not_shown", "not_exportable", "lost"}
_FAILURES = (Shown.GONE, Shown.BACK, Shown.UNLIKE, Shown.FAILED)


@dataclass(frozen=True, slots=True)
class Way:
    """How a subject is reached here: what `--walker` or `--with` takes; or why it can't be."""

    given: str | None
    why: str = ""


def way_of(name: str, paths: Mapping[str, str], judges: Sequence[str]) -> Way:
    """Return how a subject is reached with the paths and judges that the reader gave."""
    subject = SUBJECTS[name]
    if subject.is_judge:
        found = [each for each in judges if each.partition(":")[0] == name]
        return Way(found[-1]) if found else Way(None, f"needs {subject.needs}")
    path = paths.get(name, "")
    if subject.checkout is not None and not path:
        return Way(None, f"needs {subject.needs}")
    if subject.checkout is not None and not (Path(path) / subject.checkout).exists():
        raise SystemExit(f"found: {path}: there is no {subject.checkout} in it")
    if subject.has and _run(subject.has) != 0:
        return Way(None, f"needs {subject.needs}")
    return Way(walker_of(subject, str(Path(path).resolve()) if path else ""))


def _run(command: Sequence[str]) -> int:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode
    except FileNotFoundError:
        return 127


def command_of(bug: Bug, given: str) -> list[str]:
    """Return the command that shows a bug of a walker or a judge."""
    subject = SUBJECTS[bug.subject]
    if bug.departure:
        return pair_command(bug, given)
    if subject.is_judge:
        return ["crosswalk", "judge", bug.case, "--with", given]
    return ["crosswalk", "replay", bug.case, "--walker", given, *subject.options]


def show(bug: Bug, given: str) -> tuple[Shown, str]:
    """Run the command that shows a bug; return what came of it, and a word on it."""
    subject = SUBJECTS[bug.subject]
    if bug.cr4:
        return moved(bug, given)
    json_too = ["--json"] if subject.is_judge else []
    command = [sys.executable, "-m", *command_of(bug, given), *json_too]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    # A judge that answers nothing ends with status 2, and has said why in its document.
    if ran.returncode not in {0, 1} and not (subject.is_judge and ran.stdout):
        last = (ran.stderr.strip() or f"status {ran.returncode}").splitlines()[-1]
        return Shown.FAILED, last
    if bug.departure:
        shown, word = pair_shown(bug, given, json.loads(ran.stdout))
        return Shown(shown), word
    if subject.is_judge:
        return judged(bug, given, json.loads(ran.stdout))
    return replayed(bug, ran.returncode, ran.stdout)


def moved(bug: Bug, given: str) -> tuple[Shown, str]:
    """Return what a machine shows of a bug about a value of CR4."""
    machine = open_machine(given)
    try:
        does = moved_to_cr4(machine, int(bug.cr4, 16))
        version = machine.version
    finally:
        machine.close()
    if does == bug.says:
        return Shown.SHOWN, f"{version}: {does}"
    return (Shown.GONE if does.endswith("refused") else Shown.UNLIKE), f"{version}: {does}"


def replayed(bug: Bug, status: int, printed: str) -> tuple[Shown, str]:
    """Return what `replay` shows of a walker's bug."""
    if status == 0:
        return Shown.GONE, "the walker is right"
    if bug.says is not None and bug.says in printed:
        return Shown.SHOWN, bug.says.strip()
    wrong = [line.strip() for line in printed.splitlines() if line.startswith("  rule: ")]
    return Shown.UNLIKE, wrong[0] if wrong else "another failure"


def judged(bug: Bug, given: str, document: dict[str, Any]) -> tuple[Shown, str]:
    """Return what `judge --json` shows of a machine's bug."""
    version = document["judges"][given]["version"]
    asked = [document] if "judged" in document else document["probes"]
    found = [each["judged"][given] for each in asked]
    is_there = len(found) == len(bug.judged) and all(
        _as_wanted(wanted, one) for wanted, one in zip(bug.judged, found, strict=True)
    )
    listed = any(version.startswith(f"{each},") for each in bug.gone_in)
    if bug.registered is not None:
        who = kind_of(given, version)
        listed = not bug.registered.shown_by(who)
    if is_there:
        return (Shown.BACK if listed else Shown.SHOWN), version
    unasked = [one for one in found if _NO_ANSWER & {one.get("outcome"), one.get("verdict")}]
    if unasked:
        return Shown.SKIPPED, f"{version}: {unasked[0]['why']}"
    if listed:
        return Shown.AS_LISTED, version
    right = all(one.get("verdict") == "agreed" for one in found)
    return (Shown.GONE if right else Shown.UNLIKE), version


def _as_wanted(wanted: dict[str, Any], one: dict[str, Any]) -> bool:
    """Return whether an answer has these values; of several departures, this one among them."""
    names = str(one.get("known", "")).split("+")
    return all(
        value in names if key == "known" else one.get(key) == value for key, value in wanted.items()
    )


def page(all_bugs: Iterable[Bug]) -> str:
    """Return docs/found.md as it has to be."""
    lines = [_HEAD]
    current = None
    for bug in all_bugs:
        if bug.subject != current:
            lines.extend(_others(current))
            current = bug.subject
            subject = SUBJECTS[current]
            lines.append(f"## {subject.name}\n\nFound in {subject.version}; <{subject.home}>.")
            lines.append(f"It takes {subject.needs}.\n")
        lines.extend(_section(bug))
    return "\n".join(lines)


def _others(subject: str | None) -> Iterator[str]:
    """Yield what is registered of a judge, and has no section."""
    names = [f"`{bug.id}`" for bug in REGISTERED.values() if bug.subject == subject]
    if names:
        yield "### What is registered of others, too\n"
        yield "Described in [emulator-divergences.md](emulator-divergences.md), and shown by"
        yield f"`scripts/found NAME`: {', '.join(names)}.\n"


def _section(bug: Bug) -> Iterator[str]:
    yield f"### {bug.title}\n\n{bug.what}\n"
    yield f"- Manual: {bug.manual}"
    if bug.cr4:
        yield f"- The processor's answer, to a MOV of {bug.cr4} to CR4 in 64-bit mode: #GP(0)"
        yield f"- The answer: {bug.says}"
        yield f"- See it: `scripts/found {bug.id}`\n"
        return
    if bug.departure:
        yield from pair_lines(bug)
        yield f"- See it: `{_see(bug)}`, or `scripts/found {bug.id}`\n"
        return
    case = load_case(ROOT / bug.case)
    for probe in case.probes:
        yield f"- The processor's answer, to {_asked(probe)}: {outcome_text(right_of(case, probe))}"
    yield f"- The answer: {_answer(bug)}"
    if bug.gone_in:
        yield f"- Not in {', '.join(bug.gone_in)}."
    yield f"- Case: [{bug.id}](../{bug.case})"
    yield f"- See it: `{_see(bug)}`, or `scripts/found {bug.id}`\n"


def _asked(probe: Probe) -> str:
    return f"{probe.access} of {probe.va:#x} at CPL {probe.cpl}"


def _answer(bug: Bug) -> str:
    if bug.says is not None:
        return f"`{bug.says.strip()}`"
    return ", ".join(
        f"`{'; '.join(f'{key} {value}' for key, value in each.items())}`" for each in bug.judged
    )


def _see(bug: Bug) -> str:
    subject = SUBJECTS[bug.subject]
    if bug.cr4:
        return f"scripts/found {bug.id}"
    given = walker_of(subject, "PATH")
    # A pair's access, and both answers to it, are shown with --verbose.
    more = ["--verbose"] if bug.departure else []
    return command_line([*command_of(bug, given or bug.subject), *more])


def right_of(case: Case, probe: Probe) -> Outcome:
    """Return what a processor answers to a probe of a case."""
    return translate(case.memory(), case.context(), probe.asked)


def report(bug: Bug, given: str | None = None) -> str:
    """Return a text that the maintainers of a program could take as a report, in Markdown."""
    subject = SUBJECTS[bug.subject]
    seen = f"Seen in {subject.version}{'; not in ' if bug.gone_in else ''}{', '.join(bug.gone_in)}."
    lines = [f"# {subject.name}: {bug.title}", "", bug.what, "", seen, ""]
    lines += ["## What the manuals say", "", bug.manual, ""]
    if bug.cr4:
        lines += ["## What happens", "", f"After a MOV of {bug.cr4} to CR4, {bug.says}.", ""]
        return "\n".join([*lines, "## With Crosswalk", "", f"    {_see(bug)}"]) + "\n"
    if bug.departure:
        lines += ["## A pair of tables", "", "```", *pair_walk(bug), "```", ""]
        return "\n".join([*lines, "## With Crosswalk", "", f"    {given or _see(bug)}"]) + "\n"
    case = load_case(ROOT / bug.case)
    lines += ["## The smallest case", "", "```", context_text(case.context())]
    for probe in case.probes:
        path = walk(case.memory(), case.context(), probe.va)
        lines += [step_text(case.context(), step) for step in path.steps]
        walked = {pa for pa, _ in path.words}
        others = [(pa, word) for pa, word in case.entries.items() if pa not in walked]
        lines += [f"not on this walk: {word:#x} at {pa:#x}" for pa, word in others[:_MOST]]
        if len(others) > _MOST:
            lines.append(f"and {len(others) - _MOST} words more, which the case file has")
        right = outcome_text(right_of(case, probe))
        lines += ["", f"{_asked(probe)}", f"  a processor:  {right}"]
    lines += [f"  {subject.name}:  {_answer(bug).strip('`')}", "```", ""]
    lines += ["## With Crosswalk", "", f"    {given or _see(bug)}", ""]
    lines += ["## Without Crosswalk", "", *_without(bug, subject, case)]
    return "\n".join(lines).rstrip() + "\n"


def _without(bug: Bug, subject: Subject, case: Case) -> Iterator[str]:
    """Yield how a bug is seen by somebody who has only files of ours."""
    if bug.subject in _BOOTED:
        cpu = f"max,vendor={_VENDORS[case.cpu.vendor]},phys-bits={case.cpu.maxphyaddr}"
        yield "A boot image that makes the access can go with the report:"
        yield ""
        for command in _BOOTED[bug.subject]:
            yield f"    {command.format(case=bug.case, cpu=cpu)}"
        return
    if subject.walker is None or not subject.walker.startswith("exec:"):
        yield "The tables above, and the access, are all that it takes to see it."
        return
    adapter = walker_of(subject, "PATH").removeprefix("exec:")
    yield "The adapter is a script of its own, which takes these lines:"
    yield ""
    yield f"    {adapter} <<'END'"
    cpu = {"cr0": case.cpu.cr0, "cr3": case.cpu.cr3, "cr4": case.cpu.cr4, "efer": case.cpu.efer}
    space = {
        "cpu": {name: hex(value) for name, value in cpu.items()},
        "entries": {hex(pa): hex(word) for pa, word in case.entries.items()},
    }
    yield f"    {json.dumps(space)}"
    for probe in case.probes:
        va = hex(probe.va)
        asked = {"first": va, "last": va} if subject.lists else {"va": va}
        yield f"    {json.dumps(asked)}"
    yield "    END"


def main(arguments: Sequence[str] | None = None) -> int:
    """Show bugs, print a report, or write the page; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/found", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a bug, or all of a subject")
    parser.add_argument(
        "--checkout",
        action="append",
        default=[],
        metavar="SUBJECT=PATH",
        help="where the reader has it: gdb-pt-dump=DIR, libvmi=DIR, bochscpu=ENVIRONMENT",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="judges",
        metavar="J",
        help="qemu:PATH, bochs:PATH, x86isa:PATH",
    )
    parser.add_argument("--report", action="store_true", help="print texts for the maintainers")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args(arguments)
    if options.write:
        PAGE.write_text(page(BUGS.values()), "utf-8")
        return 0
    chosen = list(_chosen(options.names))
    if options.report:
        print("\n".join(report(each) for each in chosen if each.id in BUGS), end="")
        return 0
    paths = dict(each.partition("=")[::2] for each in options.checkout)
    if unknown := paths.keys() - SUBJECTS.keys():
        parser.error(f"--checkout {min(unknown)}: no such subject")
    qemu = ["qemu"] if _run(("qemu-system-x86_64", "--version")) == 0 else []
    x86isa = ["x86isa"] if shutil.which("acl2") else []
    return _show_all(chosen, paths, ["unicorn", *qemu, *x86isa, *options.judges])


def _chosen(names: Sequence[str]) -> Iterator[Bug]:
    for name in names:
        if name not in BUGS | REGISTERED and name not in SUBJECTS:
            raise SystemExit(f"found: {name}: no such bug, and no such subject")
    for bug in (*BUGS.values(), *REGISTERED.values()):
        if not names or bug.id in names or bug.subject in names:
            yield bug


def _show_all(chosen: Sequence[Bug], paths: Mapping[str, str], judges: Sequence[str]) -> int:
    counts: Counter[Shown] = Counter()
    for bug in chosen:
        way = way_of(bug.subject, paths, judges)
        shown, word = (Shown.SKIPPED, way.why) if way.given is None else show(bug, way.given)
        counts[shown] += 1
        print(f"{shown:<8} {bug.id}: {word}")
    print(", ".join(f"{count} {shown}" for shown, count in sorted(counts.items())))
    if any(counts[each] for each in _FAILURES):
        return 1
    return 0 if counts[Shown.SHOWN] or counts[Shown.AS_LISTED] else 2


if __name__ == "__main__":
    sys.exit(main())
