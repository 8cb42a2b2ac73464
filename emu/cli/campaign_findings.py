"""The findings of a campaign described, each with the command that shows it again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from crosswalk.emu.check.compare import Divergence, differing_fields, explain
from crosswalk.emu.cli.output import command_line
from crosswalk.emu.cli.parser import release
from crosswalk.emu.cli.walker_options import replay_command, size_text, walker_options
from crosswalk.emu.cli.walker_place import walker_place
from crosswalk.emu.cli.walker_report import Variants
from crosswalk.emu.findings.describe import (
    case_lines,
    described,
    described_case,
    described_composite,
)
from crosswalk.emu.findings.form import Form, form_of
from crosswalk.emu.findings.manual import EDITIONS
from crosswalk.emu.findings.note import note_of, signature_in
from crosswalk.emu.findings.signature import JUDGE, WALKER, Signature, signature_of
from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.campaign.cases import FINDINGS, STATE
from crosswalk.emu.fuzz.campaign.state import Found, State, decode_state, tally_of
from crosswalk.emu.fuzz.campaign.store import digest
from crosswalk.emu.matrix.select import layout_choice
from crosswalk.emu.report.composites import parse_composite
from crosswalk.emu.report.conclusion import counted
from crosswalk.emu.report.finding import PEER, FindingJson, FindingsJson, ReportJson
from crosswalk.emu.report.text import count_text
from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.targets.tally import by_mode
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import Case, parse_case
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, one_line, printable
from crosswalk.walker.translate import walk_access

__all__ = [
    "campaign_variants",
    "case_finding",
    "finding_of",
    "kept_findings",
    "report_of",
    "reproduce",
    "unjudged_lines",
    "wrong_answers",
]

Value = TypeVar("Value", str, int, bool)


def campaign_variants(
    plan: Plan,
    state: State,
    case: Callable[[str], bytes],
    path: Callable[[str], Path | None],
    problems: list[str] | None = None,
) -> Variants:
    """Return the findings of a campaign, one a signature, the most frequent first.

    `case` and `path` give a finding's case file by its id, and where that is. What is wrong with a
    case is raised; or with `problems` it is a line there, and the finding is told without it.
    """
    place = None if plan.walker is None else walker_place(plan.walker)
    made, forms = [], dict[str, Form]()
    for slug, found in sorted(state.findings.items(), key=lambda item: (-item[1].count, item[0])):
        signature = _signature(found, plan.walker)
        where = path(slug) if found.case else None
        finding = described(signature)
        try:
            if found.case:
                data = case(slug)
                reduced = found.reduced == digest(data) and found.alone
                finding = finding_of(signature, data, str(where or slug), reduced=reduced)
                form = _form(data, slug) if reduced else None
                if form is not None:
                    forms[slug] = form
        except CrosswalkError as error:
            if problems is None:
                raise
            problems.append(str(error))
            where = None
        finding = msgspec.structs.replace(
            finding,
            id=slug,
            count=found.count,
            layout=found.layout,
            case=None if where is None else str(where),
            reproduce=reproduce(plan, found, slug, path(slug)),
            location=place if signature.of_target else None,
            unsteady=(signature.of_target or signature.of_judge) and not found.alone,
        )
        made.append((signature, finding))
    who = plan.walker if plan.judge is None else f"{JUDGE}{plan.judge}"
    return Variants(who, made, forms, tuple(_about(plan, state)))


def _form(data: bytes, slug: str) -> Form | None:
    """Return the form of a smallest case; composites have none."""
    return None if parse_composite(data, slug) is not None else form_of(parse_case(data, slug))


def kept_findings(folder: Path, problems: list[str]) -> FindingsJson:
    """Return the findings that a campaign's folder keeps; the walker isn't run.

    A case that can't be read is a line in `problems`, and its finding is told without it. Raises
    `BadInput` for a state that no campaign of this release has written.
    """
    with errors_named(str(folder / STATE)):
        state = decode_state(read_file(folder / STATE))
        plan = _plan_of(state)

    def path(slug: str) -> Path:
        return folder / FINDINGS / f"{slug}.json"

    found = campaign_variants(plan, state, lambda slug: read_file(path(slug)), path, problems)
    return msgspec.structs.replace(found.document(), folder=str(folder))


def _plan_of(state: State) -> Plan:
    """Return the plan of a state, as far as it has it: of a source, only that there was one."""
    texts = {name: _value(state, name, str) or "" for name in ("mode", "assume", "select")}
    modes, assume = (
        [word for word in texts[name].split(",") if word] for name in ("mode", "assume")
    )
    try:
        choice = layout_choice(modes, assume, texts["select"])
    except KeyError as error:
        raise BadInput(f"not the state of a campaign: mode {error}") from None
    return Plan(
        seed=_value(state, "seed", int) or 0,
        accesses=_value(state, "accesses", int) or 0,
        guided=_value(state, "guided", bool) or False,
        walker=_value(state, "walker", str),
        claims=_value(state, "claims", str),
        source=None if _value(state, "tables", str) is None else "SOURCE",
        choice=replace(choice, portable=_value(state, "portable", bool) or False),
        judge=_value(state, "judge", str),
    )


def _value(state: State, name: str, kind: type[Value]) -> Value | None:
    value = state.plan.get(name)
    if value is not None and type(value) is not kind:
        raise BadInput(f"not the state of a campaign: its {name} is {one_line(repr(value))}")
    return value


def _about(plan: Plan, state: State) -> Iterator[str]:
    """Yield how much a campaign asked, and of whom."""
    yield (
        f"{count_text(state.layouts, 'layout')} of seed {plan.seed}, "
        f"{count_text(state.probes, 'probe')}"
    )
    if plan.judge is not None:
        yield f"judge {plan.judge}: {printable(state.made_of.get('judge', 'unknown'))}"
        yield from unjudged_lines(state)
    if plan.walker is not None:
        tally = tally_of(state)
        counts = (by_mode(each) for each in (tally.asked, tally.answered, tally.declined))
        asked, answered, declined = (each.total() for each in counts)
        yield f"asked for {asked:,} accesses, answered {answered:,}, declined {declined:,}"
        yield f"wrong answers: {wrong_answers(plan, state):,}"


def unjudged_lines(state: State) -> Iterator[str]:
    """Yield what a judge has no outcome for, by reason."""
    for title, counts in (
        ("not shown by the judge", state.not_shown),
        ("not exportable", state.not_exportable),
    ):
        if counts:
            yield f"{title}: {counted(dict(sorted(counts.items())))}"
    if state.unproved:
        yield f"without the address that was reached: {count_text(state.unproved, 'agreement')}"


def wrong_answers(plan: Plan, state: State) -> int:
    """Return how many answers of the walker under test are wrong; a failure to answer is one.

    Those count that the layouts so far have shown, as all sums do.
    """
    witness, found = f"{PEER}{plan.walker}", state.findings.values()
    return sum(each.count for each in found if each.witness == witness and each.layout is not None)


def report_of(searches: Sequence[FindingsJson]) -> ReportJson:
    """Return the document of these findings."""
    return ReportJson(made_by=release(), editions=EDITIONS, searches=list(searches))


def case_finding(path: Path, data: bytes) -> tuple[Signature, FindingJson]:
    """Return the finding that a case file tells of: in its note, or by outcomes that differ.

    Raises `BadInput` for a file that is no case, or a case that tells of none.
    """
    name = str(path)
    composite = parse_composite(data, name)
    case = parse_case(data, name) if composite is None else composite.case
    with errors_named(name):
        note = note_of(case.note, case.walker)
        signature = _differing(case) if note is None else note.signature
        if signature is None:
            raise BadInput("no finding: neither a note nor outcomes say what is wrong")
        made = finding_of(signature, data, name)
    own = case.walker if signature.of_target else None
    return signature, msgspec.structs.replace(
        made,
        layout=None if note is None else note.layout,
        case=name,
        reproduce=_case_command(path, signature, own),
        location=None if own is None else walker_place(own),
    )


def _differing(case: Case) -> Signature | None:
    """Return the signature of the first probe of which a case has two outcomes that differ.

    The predicted one is the answer of the walker that the case names. Known divergences of the
    emulator are none.
    """
    context, memory = case.context(), case.memory()
    asked = [each for each in case.probes if each.predicted and each.observed]
    said, seen = (Answers.none(len(asked)) for _ in range(2))
    for at, each in enumerate(asked):
        for answers, outcome in ((said, each.predicted), (seen, each.observed)):
            if outcome is not None:
                answers.fill(at, outcome)
    columns = differing_fields(said.outcomes, seen.outcomes)
    rows = np.flatnonzero(np.logical_or.reduce(list(columns.values())))
    accesses = Accesses.of([each.asked for each in asked]).take(rows)
    outcomes = said.outcomes.take(rows), seen.outcomes.take(rows)
    known = explain(memory, context, accesses, *outcomes)
    witness = WALKER if case.walker is None else f"{PEER}{case.walker}"
    for at, row in enumerate(rows.tolist()):
        if known[at] is None:
            path = walk_access(memory, context, accesses[at])
            divergence = Divergence(accesses[at], outcomes[0][at], outcomes[1][at], path)
            names = [name for name, column in columns.items() if column[row]]
            return signature_of(context, divergence, names, witness)
    return None


def _signature(found: Found, walker: str | None) -> Signature:
    parsed = signature_in(found.signature, walker)
    return parsed or Signature(found.witness, found.signature, "", "")


def finding_of(
    signature: Signature, data: bytes | None, slug: str, *, reduced: bool = False
) -> FindingJson:
    """Return a finding with what its case file shows; `slug` is its name in errors."""
    if data is None:
        return described(signature)
    composite = parse_composite(data, slug)
    if composite is None:
        case = parse_case(data, slug)
        made = described_case(signature, case, reduced=reduced)
        count, size = len(case.entries), size_text(case)
    else:
        made = described_composite(signature, composite, reduced=reduced)
        count = len(composite.case.entries)
        size = f"{count:,} {'entry' if count == 1 else 'entries'}, 1 composite"
    text = case_lines(data)
    return msgspec.structs.replace(made, size=size, entries=count, case_text=text)


def reproduce(plan: Plan, found: Found, slug: str, path: Path | None) -> str:
    """Return the command that shows a finding again.

    That replays its case, if it shows the finding alone, and asks the walker under test in a
    finding of its own alone; or tries to reduce it. What no case holds is shown by making the
    layouts again, up to that one.
    """
    own = found.witness == f"{PEER}{plan.walker}"
    if found.again == "judge" and found.alone and plan.judge is not None:
        return judge_command(path, plan.judge)
    if found.again == "replay" and (found.alone or not own):
        named = (plan.walker, plan.claims) if own else (None, None)
        return replay_command(path, *named)
    if found.again == "reduce":
        words = walker_options(plan.walker, plan.claims)
        return command_line(["crosswalk", "reduce", str(path), *words])
    return command_line(
        [
            *("crosswalk", "fuzz", "--seed", str(plan.seed)),
            *("--cases", str((found.layout or 0) + 1)),
            *("--accesses", str(plan.accesses), *([] if plan.guided else ["--blind"])),
            *([] if plan.source is None else ["--from", plan.source]),
            *_choice_words(plan),
            *walker_options(plan.walker, plan.claims),
            *_judge_words(plan),
            *("--corpus", f"{slug}-again"),
        ]
    )


def _case_command(path: Path, signature: Signature, walker: str | None) -> str:
    """Return the command that shows again what a case file tells of."""
    if signature.of_judge:
        return judge_command(path, signature.witness.removeprefix(JUDGE))
    return replay_command(path, walker)


def judge_command(path: Path | None, judge: str) -> str:
    """Return the command that puts a case to a judge, as a shell takes it."""
    return command_line(["crosswalk", "judge", str(path), "--with", judge])


def _judge_words(plan: Plan) -> Iterator[str]:
    """Yield the options that name a judge, and say where tables and pages are."""
    if plan.judge is not None:
        yield from ("--judge", plan.judge)
        if not plan.choice.portable:
            yield "--no-portable"
    elif plan.choice.portable:
        yield "--portable"


def _choice_words(plan: Plan) -> Iterator[str]:
    """Yield the options that restrict the layouts."""
    for name, value in plan.choice.named().items():
        if value:
            yield from (f"--{name}", value)
