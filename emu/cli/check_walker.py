"""`check --walker`: an image put to a walker under test whole, and each answer judged."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from crosswalk.emu.check import Verdict
from crosswalk.emu.check.verdict import Lost
from crosswalk.emu.cli.campaign_findings import finding_of, report_of
from crosswalk.emu.cli.check_pieces import TIME_LIMIT, add_up, in_processes, survey_of
from crosswalk.emu.cli.output import command_line, command_text, progress, remark
from crosswalk.emu.cli.sources import require_unread
from crosswalk.emu.cli.walker_options import Chosen, chosen_walker, replay_command
from crosswalk.emu.cli.walker_place import walker_place
from crosswalk.emu.cli.walker_report import Variants, finding_records, question_lines, wrong_text
from crosswalk.emu.findings.baseline import Accepted, read_muting
from crosswalk.emu.findings.image import ImageAsker, Part, part_of, pieces_of, tables_alone
from crosswalk.emu.findings.note import signature_text
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.report.annotations import annotation_lines
from crosswalk.emu.report.conclusion import Conclusion, counted
from crosswalk.emu.report.finding import FindingJson, FindingsJson, search_lines
from crosswalk.emu.report.report_files import write_report
from crosswalk.emu.report.text import count_text
from crosswalk.emu.report.verdict import divergence_case
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.questions import NOT_LISTED, PUT_ASIDE
from crosswalk.emu.targets.registry import open_target
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu, Probe, Source, dump_case
from crosswalk.walker.formats.files import make_folder, write_file
from crosswalk.walker.leaves import TOP
from crosswalk.walker.memory import PhysicalMemory, SparseWords
from crosswalk.walker.translate import walk_access

__all__ = ["Answered", "ask_walker"]

_LARGEST = 1 << 16  # So many entries may a case have that holds a whole image's structures.


@dataclass(frozen=True, slots=True)
class Answered:
    """What a walker under test answered of an image: `document` has the findings that fail."""

    chosen: Chosen
    part: Part
    document: FindingsJson
    accepted: Accepted

    def conclude(self, word: Conclusion) -> Conclusion:
        """Return the last word: that of the check, where nothing is wrong with the walker."""
        tally = self.part.tally
        if self.document.findings:
            return Conclusion(1, "FAILED")
        if word.status == 1:
            return word
        if tally.unanswered:
            return Conclusion(2, tally.verdict)
        clauses = [word.text]
        _, _, declined = tally.total
        if declined:
            clauses.append(f"{self.chosen.name} declined {declined:,} of its accesses")
        if self.not_asked:
            clauses.append(f"not asked: {counted(self.not_asked)}")
        if self.accepted.count:
            clauses.append(f"{count_text(self.accepted.count, 'finding')} accepted")
        return replace(word, text="; ".join(clauses))

    @property
    def not_asked(self) -> dict[str, int]:
        """How many accesses weren't put to it, by the reason."""
        counts = {PUT_ASIDE: self.part.unasked, NOT_LISTED: self.part.unlisted}
        return {reason: count for reason, count in counts.items() if count}

    @property
    def pardoned(self) -> int:
        """How many probes it is wrong about where that is accepted."""
        return self.part.disputed if self.accepted.count else 0

    @property
    def wrong_text(self) -> str:
        """How many of its answers are wrong, behind the counts of the check."""
        return wrong_text(self.chosen.name, self.part.counts.total())

    def lines(self) -> Iterator[str]:
        """Yield what the walker was asked and answered, and each finding with its walk."""
        yield from self._question_lines()
        yield from self.accepted.lines()
        yield from search_lines(self.document)

    def _question_lines(self) -> Iterator[str]:
        yield from question_lines(str(self.chosen.name), self.part.tally)
        if self.not_asked:
            yield f"    not asked: {counted(self.not_asked)}"

    def record(self) -> dict[str, Any]:
        """Return the same for the summary document."""
        return {
            "walker": self.chosen.name,
            **self.part.tally.record(),
            "wrong_answers": self.part.counts.total(),
            "findings": finding_records(self.document),
            "accepted": self.accepted.record(),
        }

    def write_reports(self, options: argparse.Namespace, word: Conclusion) -> None:
        """Write the files of `--report`, and GitHub's annotations on standard error if asked."""
        lines = [*self._question_lines()]
        lines.append(f"wrong answers: {self.part.counts.total():,}")
        lines += [*self.accepted.lines(), f"verdict: {word.text}"]
        report = report_of([msgspec.structs.replace(self.document, about=lines)])
        for path in options.report or ():
            write_report(path, report)
        for line in annotation_lines(self.document) if options.github else ():
            remark(line)


def ask_walker(
    options: argparse.Namespace, source: Source, between: tuple[int, int]
) -> tuple[Verdict, Answered]:
    """Return the verdict of the check, and what the walker under test answers.

    Cases of what is wrong are written into the folder of `--cases`.
    """
    chosen = chosen_walker(options)
    chosen.require_opening()
    muting = read_muting(options.ignore, options.baseline, options.write_baseline)
    memory, context = source.memory, source.context
    words = tables_alone(memory, context)

    def begin() -> ImageAsker:
        target = open_target(str(chosen.name), chosen.limits, claims=chosen.claims)
        width = not source.width_known
        return ImageAsker(memory, words, context, target, assumed_width=width)

    with progress("probes") as report:
        verdict, part = _ask_in_pieces(
            begin,
            memory,
            context,
            between=between,
            limit=options.limit,
            jobs=options.jobs,
            progress=report,
            seconds=chosen.limits.longest,
        )
    with chosen.opened() as target:
        if target is None:
            raise BadInput("--walker: an empty name")
        found = _Cases(options, chosen, target, words, context).variants(part)
    document, accepted = found.judged(muting)
    return verdict, Answered(chosen, part, document, accepted)


def _ask_in_pieces(
    begin: Callable[[], ImageAsker],
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    between: tuple[int, int] = (0, TOP),
    limit: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    seconds: float = 0.0,
) -> tuple[Verdict, Part]:
    """Return the verdict of a check, and what a walker under test answers to its accesses.

    `begin` returns what asks it, in each process; that may take `seconds` of each piece. Without
    `limit` what it lists is asked for as a whole, else where something is accessed. The walker of a
    piece that was lost has answered nothing of it.
    """
    survey = survey_of(memory, context, [between], limit)
    pieces = pieces_of(context, survey.pieces(), between, whole=limit is None)
    limited = TIME_LIMIT + seconds
    tasks = pieces, lambda: begin().check, jobs, limited, lambda piece: piece.targets
    answers = Part()

    def verdicts() -> Iterator[Verdict | Lost]:
        nonlocal answers
        for result in in_processes(*tasks):
            if isinstance(result, Lost):
                yield result
                continue
            verdict, part = result
            answers += part
            yield verdict

    return add_up(survey, verdicts(), progress), answers


class _Cases:
    """Makes a case of each wrong answer, as small as shows it, and the command to see it again."""

    def __init__(
        self,
        options: argparse.Namespace,
        chosen: Chosen,
        target: Target,
        words: SparseWords,
        context: PagingContext,
    ) -> None:
        self._options, self._chosen = options, chosen
        self._target = target
        self._words, self._context = words, context

    def variants(self, part: Part) -> Variants:
        """Return the findings, one a signature, the most frequent first."""
        made = []
        place = walker_place(str(self._chosen.name))
        for signature, count in sorted(part.counts.items(), key=lambda each: (-each[1], each[0])):
            finding = msgspec.structs.replace(
                self._finding(part, signature),
                count=count,
                location=place if signature.of_target else None,
            )
            made.append((signature, finding))
        return Variants(self._chosen.name, made)

    def _finding(self, part: Part, signature: Signature) -> FindingJson:
        case, alone = self._case(part, signature)
        va = next(self._addresses(part, signature), None) if alone else None
        again = self._range_command(va)
        data = None if case is None else dump_case(case)
        finding = finding_of(signature, data, signature.slug)
        path = None if data is None else self._written(signature, data)
        if path is not None:
            again = replay_command(path, self._chosen.name, self._chosen.claims)
        return msgspec.structs.replace(
            finding,
            reproduce=again,
            case=None if path is None else str(path),
            answer=part.answers.get(signature) or finding.answer,
        )

    def _case(self, part: Part, signature: Signature) -> tuple[Case | None, bool]:
        """Return a case that shows the same, and whether it has the walk's entries alone.

        Else it has all entries; None where they are too many, or don't show it either.
        """
        note = signature_text(signature, self._chosen.name)
        if signature in part.first:
            divergence = part.first[signature]
            small = divergence_case(self._context, tuple(self._words.ranges), divergence)
        else:
            small = self._of_accesses(part.failed[signature])
        small = replace(small, note=note, walker=self._chosen.name)
        if self._shows(small, signature):
            return small, True
        entries = dict(self._words.words())
        whole = replace(small, entries=entries)
        if len(entries) <= _LARGEST and self._shows(whole, signature):
            return whole, False
        return None, False

    def _of_accesses(self, accesses: Accesses) -> Case:
        """Return a case of accesses, with the entries of their walks."""
        rows = [accesses[row] for row in range(len(accesses))]
        entries: dict[int, int] = {}
        for access in rows:
            path = walk_access(self._words, self._context, access)
            entries |= {pa: word for pa, word in path.words if word}
        return Case(
            cpu=Cpu.from_context(self._context),
            ram=tuple(self._words.ranges),
            entries=entries,
            probes=tuple(Probe.of(access) for access in rows),
        )

    def _shows(self, case: Case, signature: Signature) -> bool:
        memory, context = case.memory(), case.context()
        accesses = Accesses.of([probe.asked for probe in case.probes])
        truth = translate_many(memory, context, accesses)
        return signature in part_of(self._target, memory, context, accesses, truth).counts

    def _addresses(self, part: Part, signature: Signature) -> Iterator[int]:
        if signature in part.first:
            yield part.first[signature].access.va
        elif len(part.failed[signature]):
            yield int(part.failed[signature].va[0])

    def _range_command(self, va: int | None) -> str:
        """Return this command, for the page of an address alone if there is one."""
        if va is None:
            return command_text(self._options)
        words = ["crosswalk", *self._options.given, "--start", hex(va), "--end", hex(va + 1)]
        return command_line(words)

    def _written(self, signature: Signature, data: bytes) -> Path | None:
        folder: Path | None = self._options.cases
        if folder is None:
            return None
        make_folder(folder)
        path = folder / f"{signature.slug}.json"
        require_unread(path, self._options.source)
        write_file(path, data)
        return path
