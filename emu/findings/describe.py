"""A finding described for people and machines, from its signature and its case.

Nothing is run for it but Crosswalk's own walk of the case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from crosswalk.emu.check import Divergence
from crosswalk.emu.findings.blame import Beside, beside, blamed
from crosswalk.emu.findings.cause import Cause, cause_of, joined
from crosswalk.emu.findings.findings import wrong_answer
from crosswalk.emu.findings.form import Form
from crosswalk.emu.findings.manual import manual_of
from crosswalk.emu.findings.note import answer_text, claimed_text, note_of
from crosswalk.emu.findings.signature import DUE, WALKER, Signature, signature_of
from crosswalk.emu.report.composites import (
    CompositeCase,
    composite_accesses,
    composite_text,
    composite_walks,
)
from crosswalk.emu.report.finding import PEER, EntryJson, FindingJson, SectionJson, VariantJson
from crosswalk.emu.report.text import (
    access_text,
    context_text,
    entry_name,
    no_walk_text,
    outcome_text,
    step_text,
)
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.judge import TargetVerdict
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.formats import Case, Probe
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Outcome, Translation
from crosswalk.walker.translate import Walk, descend, page_address, translate, walk_access

__all__ = [
    "case_lines",
    "described",
    "described_access",
    "described_answer",
    "described_case",
    "described_composite",
    "described_divergence",
    "joined_findings",
]

_SHOWN, _OF_MANY = 16, 4
"""The most entries beside a walk that are shown, and how many where there are more: a case that
isn't reduced has thousands, and one of a table of equal entries needs them all."""
_LINES = 80
"""The longest case, in lines, that a description holds as text."""


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
    note = note_of(case.note, case.walker)
    answer = note.detail if note is not None and note.signature == signature else None
    if len(case.probes) == 1:
        made = described_access(
            signature, memory, context, case.probes[0], answer=answer, words=case.entries
        )
        return msgspec.structs.replace(made, needed=reduced)
    bare = msgspec.structs.replace(
        described(signature),
        manual=_sections(signature.rule, context.mode),
        answer=printable(signature.said if answer is None else answer),
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
    own: Outcome = translate(memory, context, access)
    said, seen = probe.predicted, probe.observed
    if not _about_words(signature.rule):
        own = _without_words(own)
        said, seen = (each and _without_words(each) for each in (said, seen))
    made = msgspec.structs.replace(
        described(signature),
        manual=_sections(signature.rule, context.mode),
        context=context_text(context),
        access=access_text(access),
        answer=answer_text(signature, said) if answer is None else printable(answer),
        predicted=f"{_mapped_text(signature, context, path, own)}{outcome_text(own, may=True)}",
        observed=None if seen is None else outcome_text(seen),
        walk=_entries(context, path, blame),
        remark=None if path.steps else no_walk_text(context, path),
    )
    return _with_beside(made, memory, context, words or {}, (path,))


def described_answer(
    target: Target,
    memory: PhysicalMemory,
    context: PagingContext,
    verdict: TargetVerdict,
    row: int,
    *,
    observed: Outcome | None,
    lacking: str | None = None,
    words: Mapping[int, int] | None = None,
) -> tuple[Signature, FindingJson]:
    """Return the finding that a wrong answer of a walker under test is: its signature, and all.

    `observed` is what the emulated CPU did, None where it wasn't asked; `lacking` names what it
    lacks for the access. `words` are as for `described_access`.
    """
    access, said = verdict.accesses[row], verdict.said(row)
    claims, witness = verdict.claims_of(row, target.claims), f"{PEER}{target.name}"
    signature, _ = wrong_answer(memory, context, witness, target.claims, verdict, row)
    probe = Probe.of(access, said, observed)
    answer = claimed_text(claims, said)
    made = described_access(signature, memory, context, probe, answer=answer, words=words)
    if lacking is not None:
        made = msgspec.structs.replace(made, observed=f"nothing, for want of {lacking}")
    return signature, made


def described_divergence(
    memory: PhysicalMemory,
    context: PagingContext,
    divergence: Divergence,
    witness: str = WALKER,
    words: Mapping[int, int] | None = None,
) -> tuple[Signature, FindingJson]:
    """Return the finding that a divergence is: its signature, and all.

    `witness` is who predicted; `words` are as for `described_access`.
    """
    said, seen = divergence.predicted, divergence.observed
    signature = signature_of(context, divergence, _unlike(said, seen), witness)
    probe = Probe.of(divergence.access, said, seen)
    return signature, described_access(signature, memory, context, probe, words=words)


def _unlike(said: Outcome, seen: Outcome) -> set[str]:
    """Return what of two outcomes differs; of a fault, also the words changed beyond those said."""
    if type(said) is not type(seen):
        return {"outcome"}
    names = ("pa", "error_code", "cr2")
    unlike = {name for name in names if getattr(said, name, 0) != getattr(seen, name, 0)}
    free = not isinstance(said, Translation) and set(seen.entries) <= set(said.entries)
    return unlike if said.entries == seen.entries or free else {*unlike, "entries"}


def described_composite(
    signature: Signature, case: CompositeCase, *, reduced: bool = False
) -> FindingJson:
    """Return a finding that a composite shows, with the walks of both of its pages.

    To blame is what refuses one of its accesses.
    """
    inner = case.case
    memory, context = inner.memory(), inner.context()
    walked = composite_walks(case)
    blame: dict[int, str] = {}
    for access in composite_accesses(case):
        if not isinstance(translate(memory, context, access), Translation):
            blame |= blamed(context, "", access, walk_access(memory, context, access))
    entries = {entry.pa: entry for path in walked for entry in _entries(context, path, blame)}
    made = msgspec.structs.replace(
        described(signature),
        manual=_sections(signature.rule, context.mode),
        context=context_text(context),
        access=composite_text(case),
        # A judge is held to what the manuals allow; the walker to what was observed.
        predicted=printable(signature.truth) if signature.of_judge else None,
        observed=None if signature.of_judge else printable(signature.truth),
        walk=list(entries.values()),
    )
    made = _with_beside(made, memory, context, inner.entries, walked)
    return msgspec.structs.replace(made, needed=reduced)


def joined_findings(
    made: Sequence[tuple[Signature, FindingJson]], forms: Mapping[str, Form] | None = None
) -> list[FindingJson]:
    """Return one finding a cause, the most frequent first: the first one made, and its variants.

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
    first, *rest = members
    members = [first, *sorted(rest, key=lambda member: -member[1].count)]
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


def _mapped_text(signature: Signature, context: PagingContext, path: Walk, own: Outcome) -> str:
    """Return where an address is mapped, if that is the question and this access is refused."""
    if signature.truth != "mapped" or isinstance(own, Translation) or path.leaf is None:
        return ""
    pa = page_address(context, path.leaf, path.va)
    return f"mapped, pa {pa:#x}; but this access: "


def _about_words(rule: str) -> bool:
    """Return whether a rule is about the words that an access changes."""
    return rule.startswith(("A ", "D ", "bit 5 of ", "a word beside", "more than A and D"))


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
    """Return the finding with the entries that no walk reads.

    First are those that the index bits of an address select which isn't canonical: somebody who
    doesn't look at its upper bits reads them.
    """
    taken = {
        step.pa
        for path in walked
        if not path.steps and context.mode.long
        for step in descend(memory, context, path.va).steps
    }
    others = beside(memory, context, words, walked)
    first = [each for each in others if each.pa in taken]
    rest = [each for each in others if each.pa not in taken]
    shown = first + rest[: _SHOWN if len(others) <= _SHOWN else _OF_MANY]
    return msgspec.structs.replace(
        finding,
        beside=[_beside(context, each) for each in shown],
        more=len(others) - len(shown),
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
