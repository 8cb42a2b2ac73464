"""`fuzz`: a campaign of generated layouts, its progress and its report."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.cli.campaign_findings import campaign_variants, report_of
from crosswalk.emu.cli.fuzz_report import Ended, gone_lines, record, report_lines, verdict
from crosswalk.emu.cli.output import command_text, emit, print_verdict, progress, remark
from crosswalk.emu.cli.walker_options import chosen_walker
from crosswalk.emu.findings.baseline import Muting, read_muting
from crosswalk.emu.fuzz.campaign import Campaign, Plan, Progress
from crosswalk.emu.fuzz.campaign.cases import read_cases
from crosswalk.emu.fuzz.campaign.cluster import open_pool
from crosswalk.emu.fuzz.campaign.kept import ask_again
from crosswalk.emu.fuzz.campaign.reduce_findings import reduce_findings, unreduced
from crosswalk.emu.fuzz.campaign.store import Store, require_own_folder, slug_of
from crosswalk.emu.fuzz.coverage import CELLS, coverage_lines
from crosswalk.emu.fuzz.judged import require_campaign_judge
from crosswalk.emu.matrix.select import layout_choice
from crosswalk.emu.report.annotations import annotation_lines
from crosswalk.emu.report.junit import junit
from crosswalk.emu.report.report_files import write_report
from crosswalk.emu.report.text import count_text
from crosswalk.emu.workers.temporary import temporary_files_together
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import write_file

__all__ = ["portable_chosen", "run"]

_EVERY = 10.0
_ANY_RAM = ("unicorn",)
"""Kinds of judges that have RAM wherever a layout has it."""


def run(options: argparse.Namespace) -> int:
    """Search for divergences, report the findings, and return the exit status."""
    cases, seconds = options.cases, options.time
    if cases is None and seconds is None:
        cases = 256
    jobs = os.cpu_count() or 1 if options.jobs is None else options.jobs
    if options.scheduler is not None and options.jobs is not None:
        raise BadInput("--scheduler: the cluster says how many work, not --jobs")
    walker = chosen_walker(options)
    judge = options.judge
    if judge is not None:
        if walker.name is not None:
            raise BadInput("--judge: a machine is put under test, or a walker (--walker), not both")
        require_campaign_judge(judge)
    with walker.opened() as target:
        modes = None if target is None else target.modes
    plan = Plan(
        seed=options.seed,
        accesses=options.accesses,
        guided=not options.blind,
        walker=walker.name,
        claims=walker.claims,
        limits=walker.limits,
        source=options.source,
        choice=replace(
            layout_choice(options.mode, options.assume, options.select or ""),
            portable=portable_chosen(options),
        ),
        judge=judge,
    )
    muting = read_muting(options.ignore, options.baseline, options.write_baseline)
    folder = _folder(options, plan)
    store = Store(folder, plan, fresh=options.fresh)
    try:
        campaign = Campaign(plan, store)
        this = _Run(options, campaign, store, muting, modes)
        try:
            with temporary_files_together():
                this.ask_again(jobs)
                this.search(jobs, cases, seconds, folder)
                if not options.no_reduce:
                    this.reduce(jobs, seconds)
        except KeyboardInterrupt:
            this.report(interrupted=True)
            raise
        return this.report(interrupted=False)
    finally:
        store.close()


def portable_chosen(options: argparse.Namespace) -> bool:
    """Return whether tables and pages are to be where machines have RAM.

    That is so by default where a machine is asked.
    """
    machine = options.judge is not None and kind_of(options.judge) not in _ANY_RAM
    return (options.portable or machine) and not options.no_portable


def _folder(options: argparse.Namespace, plan: Plan) -> Path:
    """Return the campaign's folder; what can't be read of one that it starts from is reported."""
    own = Path("crosswalk-fuzz")
    if plan.walker is not None or plan.judge is not None:
        own /= slug_of(plan.walker or plan.judge or "")
    folder: Path = own if options.corpus is None else options.corpus
    if folder != own:
        require_own_folder(folder)
    read_cases.cache_clear()  # Workers are forked with what is read here, whatever becomes of it.
    if plan.cases:
        source = Path(str(plan.source))
        if source.resolve() == folder.resolve():
            raise BadInput(f"--from {source}: the folder of this very campaign")
        for problem in read_cases(source)[1]:
            remark(f"not taken: {problem}")
    return folder


class _Run:
    """One run of a campaign: what its options ask for, step by step."""

    def __init__(
        self,
        options: argparse.Namespace,
        campaign: Campaign,
        store: Store,
        muting: Muting,
        modes: frozenset[PagingMode] | None,
    ) -> None:
        self._options, self._campaign, self._store = options, campaign, store
        self._muting, self._modes = muting, modes
        self._gone: tuple[str, ...] = ()

    def ask_again(self, jobs: int) -> None:
        """Ask the findings of earlier runs again."""
        campaign = self._campaign
        if campaign.changed and (campaign.state.layouts or campaign.state.findings):
            names = {"walker": "the walker", "judge": "the judge", "crosswalk": "Crosswalk"}
            which = " and ".join(names[each] for each in reversed(campaign.changed))
            have = "have" if len(campaign.changed) > 1 else "has"
            remark(f"{which} {have} changed: findings are asked again, and layouts begin anew")
        before = campaign.state.layouts
        with progress("asking findings again") as report:
            again = ask_again(campaign, self._store, jobs, report)
        self._gone = again.gone
        if again.gone and not campaign.changed and before:
            remark("findings are gone, so that something has changed: layouts begin anew")
        if again.dropped:
            count = count_text(len(again.dropped), "finding")
            remark(f"{count} that no case shows alone: left to the layouts to find again")
        for slug, why in again.failed.items():
            remark(f"{slug}: not asked again: {why}")

    def search(self, jobs: int, cases: int | None, seconds: float | None, folder: Path) -> None:
        """Make layouts, as many as there are to be."""
        done = self._campaign.state.layouts
        if done:
            remark(f"going on after {count_text(done, 'layout')} in {folder}")
        if cases is not None and done >= cases:
            remark("all layouts are done; for more, a larger --cases, or --time")
        plan = self._campaign.plan
        longest = 0.0 if plan.walker is None else plan.limits.longest
        judged = plan.judge is not None
        pool = open_pool(jobs, self._options.scheduler, longest, judged=judged)
        try:
            with _progress(cases) as state:
                self._campaign.run(pool, cases, seconds, state)
        finally:
            pool.close()

    def reduce(self, jobs: int, seconds: float | None) -> None:
        """Make the cases of findings small, for as long as the search may take."""
        with progress("reducing findings") as report:
            left = reduce_findings(self._campaign, self._store, jobs, report, seconds)
        for slug, words in left.items():
            remark(f"{slug}: {words}")

    def report(self, *, interrupted: bool) -> int:
        """Report what was found, and return the exit status of a run that comes to its end."""
        options, campaign, store = self._options, self._campaign, self._store
        found = campaign_variants(campaign.plan, campaign.state, store.case, store.case_path)
        if interrupted:
            remark("what was found is kept; the same command goes on")
        # What an interrupted run didn't find may yet be; nor is this what a baseline should have.
        document, accepted = found.judged(self._muting, whole=not interrupted)
        ended = Ended(
            campaign,
            document,
            accepted,
            tuple(
                (slug, store.gone_path(slug)) for slug in self._gone if slug in campaign.state.gone
            ),
            len(unreduced(campaign, store)) if interrupted or not options.no_reduce else 0,
            self._modes,
            interrupted,
        )
        status, word = verdict(ended)
        self._write(ended, status, f"{word}; interrupted" if interrupted else word)
        return status

    def _write(self, ended: Ended, status: int, word: str) -> None:
        options, campaign = self._options, self._campaign
        reproduce = command_text(options)
        self._write_files(ended, word if status == 2 else None)
        if options.github:
            for line in annotation_lines(ended.document):
                remark(line)
        if options.json:
            emit({**record(ended), "reproduce": reproduce})
        else:
            for line in report_lines(ended):
                print(line)
        if options.coverage:
            for line in coverage_lines(campaign.seen):
                (remark if options.json else print)(line)
        if not options.json:
            print_verdict(word, status)
            print(f"reproduce: {reproduce}")
        elif status == 2:
            remark(f"verdict: {word}")

    def _write_files(self, ended: Ended, problem: str | None) -> None:
        """Write the reports that the options name; `problem` is why a run is no result."""
        state = self._campaign.state
        if self._options.junit is not None:
            title = f"crosswalk fuzz, seed {self._campaign.plan.seed}"
            about = title, count_text(state.layouts, "layout"), state.seconds, problem
            write_file(self._options.junit, junit(ended.document, *about))
        lines = [*ended.document.about, *gone_lines(ended), *ended.accepted.lines()]
        if problem is not None:
            lines.append(f"verdict: {problem}")
        report = report_of([msgspec.structs.replace(ended.document, about=lines)])
        for path in self._options.report or ():
            write_report(path, report)
        if self._options.map is not None:
            # What draws isn't needed for anything else.
            from crosswalk.emu.cli.charts import write_findings_map  # noqa: PLC0415

            write_findings_map(self._options.map, report, self._campaign.seen)


@contextmanager
def _progress(cases: int | None) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress: live on a terminal, else a line every ten seconds."""
    began = time.monotonic()

    def line(state: Progress) -> str:
        return _line(state, cases, time.monotonic() - began)

    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415  # Where nobody watches, not worth its import.
        from rich.live import Live  # noqa: PLC0415  # The same.

        with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
            yield lambda state: live.update(line(state))
        return
    last = began

    def show(state: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            remark(line(state))

    yield show


def _line(state: Progress, cases: int | None, seconds: float) -> str:
    of = "" if cases is None else f" of {cases:,}"
    share = state.seen / CELLS.reachable
    seconds = max(seconds, 0.001)
    return (
        f"{state.layouts:,}{of} layouts ({state.layouts_now / seconds:,.1f} a second), "
        f"{state.probes:,} probes ({state.probes_now / seconds:,.0f} a second), "
        f"{share:.1%} of cells seen, {state.findings:,} findings"
    )
