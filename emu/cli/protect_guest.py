"""`protect`, the built-in guest: protected, attacked, and living on."""

import argparse
import faulthandler
import time
from collections.abc import Callable, Iterator
from typing import Any

from crosswalk.emu.cli.output import command_text, emit, remark
from crosswalk.emu.protect.probes import Proof
from crosswalk.emu.protect.results import Crash, Granted, NotStopped, Other
from crosswalk.emu.protect.run_attacks import Attacked
from crosswalk.emu.protect.scenario import Story, tell
from crosswalk.emu.protect.snapshot import protected_world
from crosswalk.emu.report.source import unfollowed_record
from crosswalk.emu.workers.contained import EmulatorCrash, contained

__all__ = ["protect_guest"]

_WIDTH = 66
_SHOWN = 20
_NO_STOP = NotStopped | Granted | Crash | Other
_MALFORMED = "malformed"
_NO_RAM = "pages that are mapped outside RAM"


def protect_guest(options: argparse.Namespace) -> int:
    """Tell the story of the built-in guest under nested paging, and return the exit status."""
    started = time.perf_counter()
    story = contained(lambda: tell(protected_world(), _crashes))
    seconds = time.perf_counter() - started
    if options.json:
        emit({**story_record(story, seconds), "reproduce": command_text(options)})
    else:
        for line in story_lines(story, seconds, verbose=options.verbose):
            print(line)
        print(f"reproduce: {command_text(options)}")
    say = remark if options.json else print
    for wrong in story.wrong[:_SHOWN]:
        say(f"not as it should be: {wrong}")
    return 1 if story.divergent else 0


def _crashes(work: Callable[[], object]) -> str | None:
    def quiet() -> object:
        faulthandler.disable()  # The end that is expected is no news.
        return work()

    try:
        contained(quiet)
    except EmulatorCrash as error:
        return str(error)
    return None


def story_record(story: Story, seconds: float) -> dict[str, Any]:
    """Return the story for machines."""
    probes = story.mappings.count + story.beyond.count + sum(each.probes for each in story.stages)
    divergent = story.mappings.divergent + story.beyond.divergent
    divergent += sum(each.divergent for each in story.stages)
    return {
        "probes": probes,
        "agreements": probes - divergent - story.spared,
        "divergences": story.divergent,
        "known_divergences": story.spared,
        "seconds": round(seconds, 3),
        "predicted_only": {},
        "not_asked": {_NO_RAM: story.mappings.unbacked} if story.mappings.unbacked else {},
        "mappings": story.mapped,
        "unfollowed": unfollowed_record(story.unfollowed),
        "assumed": [],
        "entries_asked": story.entries,
        "frames_asked_for_with_less": story.more,
        "frames": story.frames,
        "frames_executable_for_the_emulator": story.spared,
        "nested_tables": story.nested_tables,
        "pages_outside_ram_not_tried": story.mappings.unbacked,
        "attacks": [
            {
                "name": each.attack.name,
                "expected": str(each.attack.stop),
                "outcome": str(each.stop),
                "as_expected": each.as_expected,
                "why": each.attack.why,
            }
            for each in story.attacks
        ],
        "unprotected": [
            {"name": each.attack.name, "outcome": str(each.stop)} for each in story.unprotected
        ],
        "lifecycle": [
            {
                "name": each.stage.name,
                "answer": each.stage.answer.name,
                "frames_changed": each.changed,
                "probes": each.probes,
                "wrong": list(each.wrong),
            }
            for each in story.stages
        ],
    }


def story_lines(story: Story, seconds: float, *, verbose: bool) -> Iterator[str]:
    """Yield the story for people, a line each."""
    total = sum(story.frames.values())
    named = ", ".join(f"{count:,} {name}" for name, count in story.frames.items())
    yield "1. The guest boots with 4-level paging and becomes a guest under nested paging (NPT)."
    yield "   The emulated CPU with nested paging has no protection keys: they are off."
    yield (
        f"2. It asks for protection: VMMCALL with a page list of {story.entries} ranges, "
        f"{story.immutable} of them for ever."
    )
    yield (
        f"3. The host walks its tables. {total - story.meant_otherwise:,} of {total:,} frames need "
        "what the guest asked for; granted:"
    )
    yield f"   {named}, in {story.nested_tables} nested tables."
    if story.more:
        yield (
            f"   {story.more:,} frames were asked for with less than their mappings need, and are "
            "granted that."
        )
    yield (
        f"   Execution not withheld from {story.spared} frames of tables, a limit of the emulator."
    )
    yield "4. Proved by accesses of the guest's:"
    yield f"   through its own mappings, all that they allow: {_proof(story.mappings)}"
    yield f"   ({story.mappings.unbacked:,} pages that are mapped outside RAM aren't tried)"
    yield f"   through forged tables that allow everything: {_proof(story.beyond)}"
    yield ""
    yield from _attack_lines(story, verbose=verbose)
    yield ""
    yield "7. Its life goes on. Frames granted otherwise at each step; the tables equal fresh ones:"
    for each in story.stages:
        answer = "" if not each.stage.answer else ", refused"
        mark = "" if not each.wrong else "  WRONG"
        yield f"   {each.stage.name:{_WIDTH}} {each.changed:,}{answer}{mark}"
    yield ""
    stopped = sum(not isinstance(each.stop, _NO_STOP) for each in story.attacks)
    works = sum(isinstance(each.stop, NotStopped) for each in story.attacks)
    rest = len(story.attacks) - stopped - works
    yield (
        f"verdict: {'FAILED' if story.divergent else 'as stated'}: "
        f"{story.mappings.count + story.beyond.count:,} accesses, {stopped} attacks stopped, "
        f"{works} not stopped as stated, {rest} ended otherwise, {story.divergent} wrong, "
        f"{seconds:.1f} s"
    )


def _attack_lines(story: Story, *, verbose: bool) -> Iterator[str]:
    yield "5. Attacks, each on the guest as it was protected, and what stopped them:"
    limits = [each for each in story.attacks if isinstance(each.attack.stop, NotStopped | Crash)]
    malformed = 0
    for each in story.attacks:
        if each.as_expected and each.attack.name.startswith(_MALFORMED) and not verbose:
            malformed += 1
        elif each not in limits:
            yield from _attack_line(each)
    if malformed:
        yield f"   {f'{malformed} malformed hypercalls (--verbose)':{_WIDTH}} refused, no change"
    works = sum(isinstance(each.stop, NotStopped) for each in story.unprotected)
    yield f"   Of {len(story.unprotected)} that withheld rights stop, {works} work without them."
    yield ""
    yield "6. What isn't stopped, and why:"
    for each in limits:
        yield from _attack_line(each)


def _attack_line(each: Attacked) -> Iterator[str]:
    mark = "" if each.as_expected else f"  WRONG: expected {each.attack.stop}"
    yield f"   {each.attack.name:{_WIDTH}} {each.stop}{mark}"
    if each.attack.why and isinstance(each.stop, NotStopped | Crash):
        yield f"     {each.attack.why}"


def _proof(proof: Proof) -> str:
    parts = [
        f"{sum(count for (name, _), count in proof.probes.items() if name == use):,} {plural}"
        for use, plural in (("read", "reads"), ("write", "writes"), ("execute", "fetches"))
    ]
    refused = sum(count for (_, ended), count in proof.probes.items() if ended != "allowed")
    return f"{', '.join(parts)}; {refused:,} refused, {proof.divergent:,} wrong"
