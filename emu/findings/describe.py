"""A finding described for people and machines, from its signature and its case.

Nothing is run for it but Crosswalk's own walk of the case.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from crosswalk.emu.findings.blame import Beside, beside, blamed
from crosswalk.emu.findings.cause import Cause, cause_of, joined
from crosswalk.emu.findings.findings import INTENDED, SECOND_WALK, WALKER
from crosswalk.emu.findings.form import Form
from crosswalk.emu.findings.manual import manual_of
from crosswalk.emu.findings.signature import CROSSWALK, DUE, EFFECTIVE, Signature
from crosswalk.emu.report.composites import CompositeCase, composite_text, composite_walks
from crosswalk.emu.report.finding import EntryJson, FindingJson, SectionJson, VariantJson
from crosswalk.emu.report.text import (
    access_text,
    context_text,
    entry_name,
    no_walk_text,
    outcome_text,
    step_text,
)
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.formats import Case, Probe
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome, Translation
from crosswalk.walker.translate import Walk, translate, walk_access

__all__ = [
    "case_lines",
    "described",
    "described_access",
    "described_case",
    "described_composite",
    "joined_findings",
    "layout_in",
    "signature_in",
]

_SHOWN = 16
"""The most entries beside a walk that are shown: a case that isn't reduced has thousands."""
_LINES = 80
"""The longest case, in lines, that a description holds as text."""

_NOTE = re.compile(r"(?P<text>.*) \(layout (?P<layout>\d+)\)(?P<why>: .*)?", re.DOTALL)
_WITNESSES = (WALKER, SECOND_WALK, INTENDED, "emulator", CROSSWALK)


def signature_in(note: str, walker: str | None) -> Signature | None:
    """Return the signature that a case's note holds; None for a note of other words.

    `walker` is the walker under test that the case names.
    """
    found = _NOTE.fullmatch(note)
    text = found["text"] if found else note
    peer = () if walker is None else (f"peer:{walker}",)
    for witness in (*peer, *_WITNESSES):
        rule, due, said = text.partition(f" is due: {witness}: ")
        if due:
            return Signature(witness, rule, said, DUE)
        rule, says, rest = text.partition(f": {witness} says ")
        said, is_, truth = rest.rpartition(", it is ")
        if says and is_:
            return Signature(witness, rule, said, truth)
    return None


def layout_in(note: str | None) -> int | None:
    """Return the number of the layout that a case's note names."""
    found = _NOTE.fullmatch(note or "")
    return int(found["layout"]) if found else None


def _sections(rule: str, mode: PagingMode) -> list[SectionJson]:
    """Return the sections of the manuals that state a rule."""
    texts = manual_of(rule, mode) or ()
    split = (text.removesuffix('"').partition(', "') for text in texts)
    return [SectionJson(manual, section) for manual, _, section in split]


def described(signature: Signature) -> FindingJson:
    """Return what a signature says alone, without a case."""
    return FindingJson(
        id=signature.slug,
        cause=printable(str(cause_of(signature))),
        signature=printable(str(signature)),
        rule=printable(signature.rule),
        witness=printable(signature.witness),
        said=printable(signature.said),
        truth=signature.truth,
        manual=[],
        access=None,
        answer=printable(signature.said),
        predicted=None,
        observed=None,
        context=None,
    )


def described_case(signature: Signature, case: Case, *, reduced: bool = False) -> FindingJson:
    """Return a finding that a case shows, whose probe's predicted outcome is the wrong answer.

    `reduced` says that the case holds nothing that isn't needed. `BadInput` for registers that are
    none.
    """
    memory, context = case.memory(), case.context()
    if len(case.probes) == 1:
        made = described_access(signature, memory, context, case.probes[0], words=case.entries)
        return msgspec.structs.replace(made, needed=reduced)
    bare = msgspec.structs.replace(
        described(signature),
        manual=_sections(signature.rule, context.mode),
        context=context_text(context),
    )
    return _with_beside(bare, memory, context, case.entries, ())


def described_access(
    signature: Signature,
    memory: PhysicalMemory,
    context: PagingContext,
    probe: Probe,
    *,
    answer: str | None = None,
    words: Mapping[int, int] | None = None,
) -> FindingJson:
    """Return a finding that an access shows, to which the predicted outcome is the wrong answer.

    `answer` is that answer in words, where more of it is known. `words` are those of memory, of
    which those that the walk doesn't read are shown.
    """
    access = probe.asked
    path = walk_access(memory, context, access)
    blame = {} if signature.truth == DUE else blamed(context, signature.rule, access, path)
    own, seen = translate(memory, context, access), probe.observed
    if not _about_words(signature.rule):
        own, seen = _without_words(own), seen and _without_words(seen)
    made = msgspec.structs.replace(
        described(signature),
        manual=_sections(signature.rule, context.mode),
        context=context_text(context),
        access=access_text(access),
        answer=_answer_text(signature, probe.predicted) if answer is None else answer,
        predicted=outcome_text(own, may=True),
        observed=None if seen is None else outcome_text(seen),
        walk=_entries(context, path, blame),
        remark=None if path.steps else no_walk_text(context, path),
    )
    return _with_beside(made, memory, context, words or {}, (path,))


def described_composite(
    signature: Signature, case: CompositeCase, *, reduced: bool = False
) -> FindingJson:
    """Return a finding that a composite shows, with the walks of both of its pages."""
    inner = case.case
    memory, context = inner.memory(), inner.context()
    walked = composite_walks(case)
    entries = {entry.pa: entry for path in walked for entry in _entries(context, path, {})}
    made = msgspec.structs.replace(
        described(signature),
        manual=_sections(signature.rule, context.mode),
        context=context_text(context),
        access=composite_text(case),
        predicted=None,
        observed=printable(signature.truth),
        walk=list(entries.values()),
    )
    made = _with_beside(made, memory, context, inner.entries, walked)
    return msgspec.structs.replace(made, needed=reduced)


def joined_findings(
    made: Sequence[tuple[Signature, FindingJson]], forms: Mapping[str, Form] | None = None
) -> list[FindingJson]:
    """Return one finding a cause, the most frequent first: the first one made, with its variants.

    Its count is that of all of them, its layout the first with any. `forms` are those of the
    smallest cases, by the finding's id: two of one form have one cause.
    """
    known = forms or {}
    found = [
        _of_cause(cause, members)
        for cause, members in joined(made, lambda item: item[0], lambda item: known.get(item[1].id))
    ]
    return sorted(found, key=lambda finding: (-finding.count, finding.id))


def _of_cause(cause: Cause, members: Sequence[tuple[Signature, FindingJson]]) -> FindingJson:
    variants = [finding for _, finding in members]
    listed = [
        VariantJson(
            each.id,
            each.rule,
            each.signature,
            each.count,
            each.reproduce,
            each.case,
            list(map(printable, cause_of(signature).texts)),
        )
        for signature, each in members
    ]
    layouts = [each.layout for each in variants if each.layout is not None]
    return msgspec.structs.replace(
        variants[0],
        cause=printable(str(cause)),
        count=sum(each.count for each in variants),
        layout=min(layouts, default=None),
        variants=listed,
    )


def case_lines(data: bytes) -> str | None:
    """Return a case file as text, None for one of many lines."""
    return data.decode() if data.count(b"\n") <= _LINES else None


def _answer_text(signature: Signature, said: Outcome | None) -> str:
    """Return an answer in words, as far as the signature shows that it was given."""
    if said is None or signature.truth == DUE:
        return printable(signature.said)
    if {signature.said, signature.truth} & {"mapped", "allowed", "not mapped", "refused"}:
        where = f", pa {said.pa:#x}" if isinstance(said, Translation) else ""
        return f"{signature.said}{where}"
    what = signature.rule.partition(" of ")[0]
    if what.startswith(EFFECTIVE):
        return f"{outcome_text(said)}; {what}: {signature.said}"
    if what in {"size", "flags"}:
        return f"{outcome_text(said)}; {signature.said} {what}"
    return outcome_text(said)


def _about_words(rule: str) -> bool:
    """Return whether a rule is about the words that an access changes."""
    return rule.startswith(("A ", "D ", "a word beside", "more than A and D"))


def _without_words(outcome: Outcome) -> Outcome:
    return replace(outcome, entries=())


def _entries(context: PagingContext, path: Walk, blame: dict[int, str]) -> list[EntryJson]:
    return [
        EntryJson(
            entry_name(context, step),
            hex(step.pa),
            hex(step.entry),
            step_text(context, step),
            blame.get(step.pa, msgspec.UNSET),
        )
        for step in path.steps
    ]


def _with_beside(
    finding: FindingJson,
    memory: PhysicalMemory,
    context: PagingContext,
    words: Mapping[int, int],
    walked: Sequence[Walk],
) -> FindingJson:
    others = beside(memory, context, words, walked)
    return msgspec.structs.replace(
        finding,
        beside=[_beside(context, each) for each in others[:_SHOWN]],
        more=max(0, len(others) - _SHOWN),
    )


def _beside(context: PagingContext, each: Beside) -> EntryJson:
    if each.step is None:
        text = f"{'a word':<12} at {each.pa:#013x} = {each.word:#018x}  in no table"
        return EntryJson("a word", hex(each.pa), hex(each.word), text)
    return EntryJson(
        entry_name(context, each.step),
        hex(each.pa),
        hex(each.word),
        step_text(context, each.step),
        va=hex(each.va),
    )
