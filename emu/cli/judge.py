"""`judge`: what other machines say of a case's probes, held against the predictions for them."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import numpy as np

from crosswalk.emu.check.allowed_outcomes import allowed_outcomes, parts_of
from crosswalk.emu.check.compare import same_rows
from crosswalk.emu.check.composites import CompositeVerdict
from crosswalk.emu.check.departures import UNICORN
from crosswalk.emu.check.judged import (
    AccessVerdicts,
    CompositeVerdicts,
    SequenceJudgement,
    Status,
)
from crosswalk.emu.cli.campaign_findings import report_of
from crosswalk.emu.cli.given_cases import Given, given_cases, tell_refused
from crosswalk.emu.cli.judge_asking import Answer, Asked, Result, ask, asked_of
from crosswalk.emu.cli.output import command_line, emit_document, print_verdict, remark
from crosswalk.emu.cli.sequence import sequence_lines
from crosswalk.emu.findings.describe import described, described_composite, joined_findings
from crosswalk.emu.findings.judged import described_judged, not_allowed
from crosswalk.emu.findings.signature import Signature, ended_signature
from crosswalk.emu.judges.judge import Judge, Question
from crosswalk.emu.judges.registry import open_judge, short_names
from crosswalk.emu.report.annotations import annotation_lines
from crosswalk.emu.report.composites import CompositeCase, composite_lines, dump_composite
from crosswalk.emu.report.finding import FindingJson, FindingsJson, finding_lines
from crosswalk.emu.report.judged import (
    JudgeTally,
    composite_document,
    concluded,
    count_lines,
    counts_text,
    judge_document,
    judged_probes,
    sequence_document,
    table_lines,
)
from crosswalk.emu.report.report_files import write_report
from crosswalk.emu.report.text import access_text, count_text, outcome_text
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import Case, Cpu, Probe, dump_case
from crosswalk.walker.formats.judged import JudgeJson
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.outcome import Outcome, PageFault
from crosswalk.walker.tlb import SequenceRecord, dump_sequence

__all__ = ["run"]

_TOGETHER = 1024
"""So many cases are put to the judges at once."""

_WRONG = (Status.DIVERGED, Status.KNOWN)

_MORE = {Status.DIVERGED: "of this rule: ", Status.KNOWN: "known, ", Status.ENDED: "ended: "}
"""What those are called that aren't shown, since one of the same was."""

_INTERRUPTED = 130
"""The exit status of what SIGINT ended."""


def run(options: argparse.Namespace) -> int:
    """Put each case to each judge, and return the exit status."""
    show = remark if options.json else print
    with ExitStack() as opened:
        judges = _opened(options.judges, opened)
        judging = _Judging(judges, as_json=options.json, verbose=options.verbose)
        judging.all(given_cases(options.cases))
    if judging.interrupted:
        remark("interrupted: what follows is of what was answered")
    asked = max(tally.probes for tally in judging.tallies)
    if asked:
        for line in (*judging.more_lines(), *table_lines(judging.tallies)):
            show(line)
        _write_reports(options, judging)
    elif not any(tally.failed for tally in judging.tallies):
        remark("nothing asked: no probes")
    for tally in judging.tallies if not asked else ():
        if tally.failed:
            remark(f"{tally.short}: {tally.failed}")
    statuses = {2} if judging.unread or not asked else set()
    for tally in judging.tallies if asked else []:
        word = concluded(tally)
        statuses.add(word.status)
        if options.json:
            remark(f"verdict: {word.text}")
        else:
            print_verdict(word.text, word.status)
    if judging.interrupted:
        return _INTERRUPTED
    return 1 if 1 in statuses else max(statuses, default=0)


def _opened(names: Sequence[str], opened: ExitStack) -> dict[str, Judge]:
    """Return the judges by name; each is closed with the stack."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"--with {printable(twice)}: given twice")
    judges = {}
    for name in names:
        judges[name] = open_judge(name)
        opened.callback(judges[name].close)
    return judges


def _write_reports(options: argparse.Namespace, judging: "_Judging") -> None:
    """Write the files of `--report`, and GitHub's annotations on standard error if asked."""
    searches = []
    for tally in judging.tallies:
        found = joined_findings(judging.findings(tally.name))
        about = [*count_lines(tally), f"verdict: {concluded(tally).text}"]
        searches.append(FindingsJson(walker=tally.short, findings=found, about=about))
    report = report_of(searches)
    for path in options.report or ():
        write_report(path, report)
    for search in searches if options.github else ():
        for line in annotation_lines(search):
            remark(line)


class _Judging:
    """Puts cases to all judges, many together, and counts what they say."""

    def __init__(self, judges: dict[str, Judge], *, as_json: bool, verbose: bool) -> None:
        self._judges, self._as_json, self._verbose = judges, as_json, verbose
        short = short_names(list(judges))
        self.tallies = [JudgeTally(name, short[name]) for name in judges]
        # What was shown once, and how many there were of it later.
        self._told: Counter[tuple[str, Status, str]] = Counter()
        self._found: dict[str, dict[Signature, FindingJson]] = {name: {} for name in judges}
        self.unread, self.interrupted = 0, False

    def findings(self, name: str) -> list[tuple[Signature, FindingJson]]:
        """Return what a judge is wrong about, by signature, each with the first that shows it."""
        return list(self._found[name].items())

    def all(self, given: Iterator[Given]) -> None:
        """Judge all that is given, in order; count those that can't be read as `unread`.

        Where that is `interrupted`, what was answered has been printed and counted, and the judges
        that would have been asked more have failed.
        """
        try:
            self._all(given)
        except KeyboardInterrupt:
            self._interrupt()

    def _interrupt(self, whole: Iterable[str] = ()) -> None:
        """Take note that the judges that have not answered the whole are asked no more."""
        self.interrupted = True
        for tally in self.tallies:
            if tally.name not in whole and not tally.failed:
                tally.failed = "interrupted"

    def _all(self, given: Iterator[Given]) -> None:
        together = list[Asked]()
        for each in given:
            try:
                if isinstance(each.content, CrosswalkError):
                    raise each.content
                together.append(asked_of(each.name, each.content))
            except CrosswalkError as error:
                tell_refused(each.name, error)
                self.unread += 1
            if len(together) == _TOGETHER:
                whole = self._together(together)
                if whole is not None:
                    self._interrupt()
                    return
                together.clear()
        whole = self._together(together)
        if whole is not None:
            self._interrupt(whole)

    def _together(self, asked: Sequence[Asked]) -> set[str] | None:
        """Put these to the judges; return who has answered all where that is interrupted."""
        answers, interrupted = self._all_answers([each for each in asked if each.probes])
        for each in asked:
            if not each.probes:
                remark(f"{each.name}: nothing asked: no probes")
                continue
            said = {name: found[id(each)] for name, found in answers.items() if id(each) in found}
            if not said:
                continue
            self._count(said)
            for tally in self.tallies:
                if tally.name in said:
                    self._gather(each, tally, said[tally.name])
            if self._as_json:
                emit_document(_document(each, said, self._judges))
            else:
                self._print(each, said)
        count = sum(bool(each.probes) for each in asked)
        whole = {name for name, found in answers.items() if len(found) == count}
        return whole if interrupted else None

    def _all_answers(self, asked: Sequence[Asked]) -> tuple[dict[str, dict[int, Answer]], bool]:
        """Return what each judge says of each, by its id, and whether that was interrupted.

        A judge that fails is asked no more.
        """
        answers: dict[str, dict[int, Answer]] = {}
        for tally in self.tallies:
            if tally.failed or not asked:
                continue
            judge = self._judges[tally.name]
            found = answers[tally.name] = {}
            try:
                try:
                    ask(tally, judge, asked, found)
                finally:
                    if found:
                        tally.version = judge.version
            except KeyboardInterrupt:
                return answers, True
            except BadInput as error:
                if len(self.tallies) == 1:
                    raise
                tally.failed = str(error).removeprefix(f"{tally.name}: ")
        return answers, False

    def _count(self, said: dict[str, Answer]) -> None:
        for tally, answer in (
            (each, said[each.name]) for each in self.tallies if each.name in said
        ):
            tally.counts.update(answer.statuses())
            result = answer.result
            if isinstance(result, AccessVerdicts):
                agreed = result.verdicts.status == Status.AGREED
                tally.unproved += int((result.unproved & agreed).sum())
            if not isinstance(result, SequenceJudgement):
                tally.unshared += int(result.verdicts.unshared.sum())
            for other in self.tallies:
                if other.name in said:
                    refuted = _refuted(answer, said[other.name])
                    tally.refutes.update((other.short, what) for what in refuted)

    def _gather(self, asked: Asked, tally: JudgeTally, answer: Answer) -> None:
        """Put the findings of one answer to those that are there, which have the first case."""
        found = self._found[tally.name]
        again = command_line(["crosswalk", "judge", asked.name, "--with", tally.name])
        for row, (status, detail) in enumerate(answer.statuses()):
            if not status.wrong:
                continue
            rule = answer.rules.get(row, "") if status is Status.DIVERGED else detail
            signature = rule if isinstance(rule, Signature) else not_allowed(tally.short, rule)
            if status is Status.ENDED:
                signature = ended_signature(tally.short, _asked_for(answer.result, row), detail)
            if signature in found:
                made = found[signature]
                found[signature] = msgspec.structs.replace(made, count=made.count + 1)
                continue
            found[signature] = msgspec.structs.replace(
                _described(asked, answer, row, signature),
                case=asked.name,
                size=count_text(asked.probes, "probe"),
                reproduce=again,
            )

    def _print(self, asked: Asked, said: dict[str, Answer]) -> None:
        answers = {each.short: said[each.name] for each in self.tallies if each.name in said}
        texts = (f"{name} {counts_text(Counter(_named(each)))}" for name, each in answers.items())
        print(f"{asked.name}: {count_text(asked.probes, 'probe')}: {'; '.join(texts)}")
        for name, answer in answers.items():
            counts = Counter(each for each in answer.statuses() if _is_shown(each[0]))
            told = {key for key in counts if (name, *key) in self._told}
            for line in _lines(asked, name, answer, None if self._verbose else told):
                print(line)
            for key, count in counts.items():
                self._told[name, *key] += count if key in told else 0

    def more_lines(self) -> Iterator[str]:
        """Yield of what was shown once, how many probes of other cases had the same."""
        for (name, status, detail), count in self._told.items() if not self._verbose else ():
            if count:
                yield f"{name}: and {count:,} more {_MORE[status]}{detail}"


def _is_shown(status: Status) -> bool:
    """Return whether probes of this status are shown without `--verbose`."""
    return status.wrong or status in _WRONG


def _asked_for(result: Result, row: int) -> AccessType | str:
    """Return what a judge was asked, as the rule of its end has it."""
    if isinstance(result, AccessVerdicts):
        return result.accesses[row].type
    return "a composite" if isinstance(result, CompositeVerdicts) else "a sequence"


def _described(asked: Asked, answer: Answer, row: int, signature: Signature) -> FindingJson:
    result, content = answer.result, asked.content
    if isinstance(result, AccessVerdicts) and isinstance(content, Case):
        words = content.entries if asked.probes == 1 else {}
        return described_judged(result, row, signature, words)
    if isinstance(content, CompositeCase):
        made = described_composite(signature, content)
        return msgspec.structs.replace(made, observed=None)
    return described(signature)


def _named(answer: Answer) -> Iterator[tuple[Status, str]]:
    """Yield the status of each probe, and of those that are known the departures."""
    for status, detail in answer.statuses():
        yield status, detail if status is Status.KNOWN else ""


def _refuted(one: Answer, other: Answer) -> Iterator[str]:
    """Yield what of another judge this one refutes: it agrees, on a probe predicted alike."""
    pairs = zip(one.statuses(), other.statuses(), _alike(one.result, other.result), strict=True)
    for (status, _), (others, what), alike in pairs:
        if status is Status.AGREED and others in _WRONG and alike:
            yield what


def _alike(one: Result, other: Result) -> Sequence[bool]:
    """Return for each probe whether the same is predicted for the CPUs of both judges."""
    if isinstance(one, AccessVerdicts) and isinstance(other, AccessVerdicts):
        alike: list[bool] = same_rows(one.predicted, other.predicted).tolist()
        return alike
    contexts = [
        each.sequence.context if isinstance(each, SequenceJudgement) else each.context
        for each in (one, other)
    ]
    return [contexts[0] == contexts[1]]


def _lines(
    asked: Asked, name: str, answer: Answer, told: AbstractSet[tuple[Status, str]] | None
) -> Iterator[str]:
    """Yield what a judge is wrong about, each sort once, without what is told; all for None."""
    result, content = answer.result, asked.content
    if isinstance(result, AccessVerdicts):
        words = content.entries if isinstance(content, Case) and asked.probes == 1 else {}
        yield from _access_lines(name, answer, result, words, told)
        return
    ((status, detail),) = answer.statuses()
    if told is not None and (not _is_shown(status) or (status, detail) in told):
        return
    if not status.answered:
        exact = (
            result.exact if isinstance(result, SequenceJudgement) else result.verdicts.exact_of(0)
        )
        yield f"{name}: {status.text}: {detail if told is not None else exact}"
    elif isinstance(result, SequenceJudgement) and result.judged is not None:
        yield f"{name}: {status.text}"
        yield from sequence_lines(result.sequence, answer.seen, result.judged)
    elif isinstance(result, CompositeVerdicts) and isinstance(content, CompositeCase):
        inner = replace(content.case, cpu=Cpu.from_context(result.context))
        known = {detail: 1} if status is Status.KNOWN else {}
        seen, wrong = result.judged.outcomes, np.array([status in _WRONG])
        verdict = CompositeVerdict(result.allowed, seen, seen, wrong, wrong, known)
        yield from composite_lines(name, replace(content, case=inner), verdict)


def _access_lines(
    name: str,
    answer: Answer,
    found: AccessVerdicts,
    words: Mapping[int, int],
    told: AbstractSet[tuple[Status, str]] | None,
) -> Iterator[str]:
    statuses = answer.statuses()
    counts, shown = Counter(statuses), set(told or ())
    for row, (status, detail) in enumerate(statuses):
        key = status, detail
        if told is not None and (not _is_shown(status) or key in shown):
            continue
        again = f" ({counts[key]:,} of them)" if counts[key] > 1 and told is not None else ""
        shown.add(key)
        access = access_text(found.accesses[row])
        rule = answer.rules.get(row)
        if isinstance(rule, Signature):
            yield f"{name}: divergence: {access}{again}"
            yield from finding_lines(described_judged(found, row, rule, words), access=False)
        elif status is Status.KNOWN:
            yield f"{name}: known, {detail}: {access}{again}"
            yield f"  judged:    {_seen_text(found, row)}"
            yield f"  predicted: {outcome_text(found.predicted[row], may=True)}"
        elif status is Status.AGREED:
            yield f"{name}: agreed: {access}: {_seen_text(found, row)}"
        else:
            why = found.verdicts.exact_of(row) if told is None else detail
            yield f"{name}: {status.text}: {access}{again}: {why}"


def _seen_text(found: AccessVerdicts, row: int) -> str:
    return outcome_text(found.seen[row], placed=not found.unproved[row])


def _document(asked: Asked, said: dict[str, Answer], judges: dict[str, Judge]) -> bytes:
    """Return the document that was given, with predictions and what the judges said filled in.

    What was observed of a case is there where the emulated CPU is one of the judges.
    """
    content, question = asked.content, asked.question
    who = {
        name: judge_document(judges[name].version, answer.context) for name, answer in said.items()
    }
    if isinstance(content, SequenceRecord):
        judged_sequences = {
            name: sequence_document(answer.result, answer.seen)
            for name, answer in said.items()
            if isinstance(answer.result, SequenceJudgement)
        }
        record = SequenceRecord(content.sequence, content.note, judges=who, judged=judged_sequences)
        return dump_sequence(record)
    if isinstance(content, CompositeCase):
        judged_composites = {
            name: composite_document(content, answer.result)
            for name, answer in said.items()
            if isinstance(answer.result, CompositeVerdicts)
        }
        parts = parts_of(question.memory, question.context, content.composite)
        allowed = allowed_outcomes(content.composite, parts)
        return dump_composite(content, allowed, judged=(who, judged_composites))
    return _case_document(content, question, who, said)


def _case_document(
    case: Case, question: Question, who: dict[str, JudgeJson], said: dict[str, Answer]
) -> bytes:
    predicted = translate_many(question.memory, question.context, question.accesses)
    outcomes = [_bare(predicted[row]) for row in range(len(predicted))]
    results = {
        name: answer.result
        for name, answer in said.items()
        if isinstance(answer.result, AccessVerdicts)
    }
    columns = {name: list(judged_probes(each, outcomes)) for name, each in results.items()}
    emulated = results.get(UNICORN)
    probes = []
    for row, probe in enumerate(case.probes):
        observed = None
        if emulated is not None and emulated.verdicts.of(row)[0].answered:
            observed = emulated.seen[row]
        filled = Probe.of(probe.asked, outcomes[row], observed)
        judged = {name: column[row] for name, column in columns.items()}
        probes.append(replace(filled, judged=judged))
    return dump_case(replace(case, probes=tuple(probes), judges=who))


def _bare(outcome: Outcome) -> Outcome:
    """Return a prediction without the words that a fault may or may not change."""
    if isinstance(outcome, PageFault):
        return PageFault(outcome.error_code, outcome.cr2)
    return outcome
