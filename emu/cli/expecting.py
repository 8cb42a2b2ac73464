"""--expect: sentences about mappings, judged and reported, whatever command is to."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import msgspec

from crosswalk.emu.cli.commands import COMMANDS
from crosswalk.emu.cli.expect_options import expecting
from crosswalk.emu.cli.followed import Followed, follow, look, write_summary
from crosswalk.emu.cli.listing_options import SYMBOLS
from crosswalk.emu.cli.names import chosen_names, known_regions
from crosswalk.emu.cli.options import ALLOW_EMPTY, ROOTS, SOURCE, SUMMARY, Command, options_of
from crosswalk.emu.cli.output import command_text, emit, print_verdict, remark
from crosswalk.emu.cli.sources import WIDEST, report_source
from crosswalk.emu.cli.spaces import Spaces, chosen_spaces
from crosswalk.emu.report.expectations import (
    Result,
    expectation_annotations,
    expectation_lines,
    expectations_document,
    expectations_junit,
    expectations_status,
    expectations_text,
    result_of,
)
from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.expectations import (
    Outcome,
    Sentence,
    Snapshot,
    Subject,
    judge,
    parse_expectations,
)
from crosswalk.walker.expectations.sentences import Flaw, NoEntries
from crosswalk.walker.formats import Contents, Registers, Source
from crosswalk.walker.formats.files import read_file, write_file
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.roots import find_roots
from crosswalk.walker.spaces import distinct_contexts, listed_contexts
from crosswalk.walker.symbols import NO_NAMES, Names

__all__ = [
    "chosen_sentences",
    "conclude",
    "joint_status",
    "judged",
    "judged_machine",
    "names_for",
    "names_for_new",
    "record",
    "report",
    "report_beside",
    "run_expected",
    "speaks_of_all",
    "write_reports",
]

_NARROW = 40
"""The MAXPHYADDR that QEMU and many processors of 64 bits have: a narrow one of today."""
_WORDS = {Outcome.HOLDS: "holds", Outcome.BROKEN: "is broken", Outcome.UNSAID: "can't be said"}


def chosen_sentences(options: argparse.Namespace) -> tuple[Sentence, ...]:
    """Return the sentences that --expect gives, in order.

    A value with a space in it is a sentence, as every sentence has one; another is the name of a
    file, and so is what follows an @. `BadInput` in one line for what can't be read.
    """
    found: list[Sentence] = []
    for value in options.expect or ():
        text = value.strip()
        if not text.startswith("@") and any(map(str.isspace, text)):
            found += parse_expectations(text, "--expect", lines=False)
        else:
            found += _of_file(text.removeprefix("@"))
    return tuple(found)


def _of_file(path: str) -> tuple[Sentence, ...]:
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{one_line(path)}: byte {error.start:#x} is no UTF-8") from None
    except BadInput as error:
        raise BadInput(f"{error} (--expect takes a sentence if a space is in it)") from None
    # Some editors begin UTF-8 with a byte order mark.
    return parse_expectations(text.removeprefix("\ufeff"), path)


def speaks_of_all(sentences: Sequence[Sentence]) -> bool:
    """Return whether a sentence is about all mappings of frames, in whichever address space."""
    return any(each.of_all for each in sentences)


def names_for(
    options: argparse.Namespace, spaces: Spaces, sentences: Sequence[Sentence], names: Names
) -> Names:
    """Return `names`, which --symbols gives; without it regions, where a sentence names any."""
    if options.symbols is not None:
        return names
    named = any(target.end is None for each in sentences for target in each.targets)
    return known_regions(options, spaces) if named else NO_NAMES


def names_for_new(options: argparse.Namespace, spaces: Spaces) -> Names:
    """Return the names that --symbols gives; without it those of regions."""
    if options.symbols is not None:
        return chosen_names(options, spaces)
    return known_regions(options, spaces)


def run_expected(options: argparse.Namespace) -> int:
    """Judge sentences about SOURCE instead of listing its mappings; return the exit status."""
    _require_no_listing(options)
    sentences = chosen_sentences(options)
    spaces = chosen_spaces(options, listing=True, count=speaks_of_all(sentences))
    report_source(spaces.source)
    followed = follow(options, spaces)
    write_summary(options, followed)
    names = names_for(options, spaces, sentences, chosen_names(options, spaces))
    results = judged(followed, sentences, names, partial=options.partial, every=options.verbose)
    about = {**followed.record(), **followed.roots_record()}
    return conclude(options, results, about, where=followed.where)


def _require_no_listing(options: argparse.Namespace) -> None:
    """Raise `BadInput` where options ask for a listing, which --expect takes the place of."""
    own = (*SOURCE, ROOTS, *SYMBOLS, expecting(listing=True), SUMMARY, ALLOW_EMPTY)
    taken = {each.dest for each in options_of(Command("", "", "", own))} | {"json"}
    for each in options_of(COMMANDS[options.command_name]):
        given = getattr(options, each.dest) not in (None, False, each.default)
        if given and each.dest not in taken:
            raise BadInput(f"--expect lists nothing: {each.names[-1]} is for a listing")


def judged(
    followed: Followed,
    sentences: Sequence[Sentence],
    names: Names,
    *,
    partial: bool = False,
    every: bool = False,
    earlier: Mapping[str, Snapshot] | None = None,
) -> list[Result]:
    """Return what sentences come to in address spaces, as far as these could be looked at.

    `every`: all mappings that break one. `earlier` are tables at points of a boot.
    """
    spaces, source = followed.spaces, followed.source
    # Where MAXPHYADDR isn't known, as for a listing: no mapping is hidden.
    contexts = spaces.contexts
    if not source.width_known:
        contexts = tuple(replace(each, maxphyaddr=WIDEST) for each in contexts)
    subject = Subject(
        memory=source.memory,
        contexts=contexts,
        names=names,
        complete=source.complete,
        doubt=followed.doubt,
        doubt_of_all=followed.doubt_of_all,
        partial=partial,
        earlier=dict(earlier or {}),
    )
    found = judge(subject, sentences, every=every)
    notes = _assumptions(source, subject, sentences, [each.outcome for each in found])
    return [
        result_of(each, names, named=spaces.named, assumption=notes.get(at, ""), every=every)
        for at, each in enumerate(found)
    ]


def _assumptions(
    source: Source, subject: Subject, sentences: Sequence[Sentence], outcomes: list[Outcome]
) -> dict[int, str]:
    """Return by its number what a sentence would come to by what nobody knows of registers.

    CR4 is assumed without SMEP and SMAP; what else is assumed hides no mapping and no right.
    Without a MAXPHYADDR no address bit is reserved, which matters to sentences about those.
    """
    contexts = listed_contexts(subject.contexts)
    notes: dict[int, str] = {}

    def note(others: Sequence[PagingContext], numbers: Sequence[int], why: str) -> None:
        chosen = [sentences[at] for at in numbers]
        for at, each in zip(numbers, judge(replace(subject, contexts=others), chosen), strict=True):
            if each.outcome is not outcomes[at]:
                notes.setdefault(at, f"it {_WORDS[each.outcome]} with {why}")

    every = range(len(sentences))
    if any(each.startswith("cr4 ") for each in source.assumed):
        for bits, names in (CR4.SMEP, "SMEP"), (CR4.SMEP | CR4.SMAP, "SMEP and SMAP"):
            others = [replace(each, cr4=each.cr4 | bits) for each in contexts]
            note(others, every, f"CR4.{names}, which {source.name} doesn't tell: give --cr4")
    of_reserved = [at for at in every if _is_of_reserved_bits(sentences[at])]
    if of_reserved and not source.width_known:
        others = [replace(each, maxphyaddr=_NARROW) for each in contexts]
        why = f"a MAXPHYADDR of {_NARROW}, which {source.name} doesn't tell: give --maxphyaddr"
        note(others, of_reserved, why)
    return notes


def _is_of_reserved_bits(sentence: Sentence) -> bool:
    return isinstance(sentence.claim, NoEntries) and sentence.claim.flaw is Flaw.RESERVED


def judged_machine(
    options: argparse.Namespace,
    sentences: Sequence[Sentence],
    spaces: Spaces,
    names: Names,
    earlier: Mapping[str, Snapshot] | None = None,
    *,
    search: bool = False,
) -> list[Result]:
    """Return what sentences come to in a machine that was run here; `earlier` as in `judged`.

    With `search` those about all mappings of frames are about all roots that are found in memory.
    """
    every = options.verbose
    own, of_all = ([it for it in sentences if it.of_all is other] for other in (False, True))
    found: dict[int, Result] = {}
    for some, about in (own, spaces), (of_all, _every_space(spaces) if search else spaces):
        if some:
            results = judged(look(about), some, names, every=every, earlier=earlier)
            found |= zip(map(id, some), results, strict=True)
    return [found[id(each)] for each in sentences]


def _every_space(spaces: Spaces) -> Spaces:
    """Return all address spaces whose roots are found in the memory of a machine.

    What the search says of roots that it can't tell is said on standard error.
    """
    context = spaces.source.context
    registers = Registers(**asdict(context))
    contents = Contents(
        name=spaces.source.name,
        kind=spaces.source.kind,
        memory=spaces.source.memory,
        registers=registers,
        cpus=(registers,),
    )
    roots = find_roots(contents, registers, width=context.maxphyaddr)
    for each in roots.remarks:
        remark(f"{spaces.source.name}: {each}")
    contexts = distinct_contexts([context, *(each.context for each in roots.known)])
    return replace(spaces, contexts=tuple(contexts), named=True)


def joint_status(*statuses: int) -> int:
    """Return the exit status of several: 1 before 2 before 0."""
    return 1 if 1 in statuses else max(statuses)


def report(
    options: argparse.Namespace, results: Sequence[Result], show: Callable[[str], None]
) -> int:
    """Show what sentences came to, write the reports that options name; return the exit status."""
    for line in expectation_lines(results):
        show(line)
    write_reports(options, results)
    return expectations_status(results)


def report_beside(
    options: argparse.Namespace, results: Sequence[Result], show: Callable[[str], None]
) -> int:
    """Do the same beside an answer that says nothing of them: with a line about all of them."""
    status = report(options, results, show)
    if results:
        show(expectations_text(results))
    return status


def write_reports(options: argparse.Namespace, results: Sequence[Result]) -> None:
    """Write the reports of sentences that options name."""
    if options.junit is not None:
        title = f"crosswalk {options.command_name}"
        write_file(options.junit, expectations_junit(results, title))
    if options.github:
        for line in expectation_annotations(results):
            remark(line)


def record(results: Sequence[Result]) -> dict[str, Any]:
    """Return what sentences came to as a JSON document."""
    found: dict[str, Any] = msgspec.to_builtins(expectations_document(results))
    return found


def conclude(
    options: argparse.Namespace,
    results: Sequence[Result],
    about: Mapping[str, Any],
    *,
    where: str = "",
) -> int:
    """Print what sentences came to as the whole answer; return the exit status.

    `about` is what else the JSON document has, `where` goes behind the verdict that all hold.
    """
    status = report(options, results, remark if options.json else print)
    word = expectations_text(results) + ("" if status else where)
    if options.json:
        emit({**record(results), **about, "verdict": word, "reproduce": command_text(options)})
    else:
        print_verdict(word, status)
        print(f"reproduce: {command_text(options)}")
    return status
