"""`fuzz`: a campaign of generated layouts, its progress and its report."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from crosswalk.emu.cli.campaign_findings import campaign_findings
from crosswalk.emu.cli.fuzz_report import record, report_lines, verdict
from crosswalk.emu.cli.output import command_text, emit, print_verdict, progress, remark
from crosswalk.emu.cli.walker_options import chosen_walker
from crosswalk.emu.fuzz.campaign import Campaign, Plan, Progress
from crosswalk.emu.fuzz.campaign.cluster import open_pool
from crosswalk.emu.fuzz.campaign.reduce_findings import reduce_findings
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.coverage import CELLS, coverage_lines
from crosswalk.emu.report.junit import junit
from crosswalk.emu.report.text import count_text
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import write_file

__all__ = ["run"]

_EVERY = 10.0


def run(options: argparse.Namespace) -> int:
    """Search for divergences, report the findings, and return the exit status."""
    cases, seconds = options.cases, options.time
    if cases is None and seconds is None:
        cases = 256
    jobs = os.cpu_count() or 1 if options.jobs is None else options.jobs
    if options.scheduler is not None and options.jobs is not None:
        raise BadInput("--scheduler: the cluster says how many work, not --jobs")
    walker = chosen_walker(options)
    walker.require_opening()
    plan = Plan(
        seed=options.seed,
        accesses=options.accesses,
        guided=not options.blind,
        walker=walker.name,
        claims=walker.claims,
        limits=walker.limits,
        source=options.source,
    )
    store = Store(options.corpus, plan)
    try:
        campaign = Campaign(plan, store)
        done = campaign.state.layouts
        if done:
            remark(f"going on after {count_text(done, 'layout')} in {options.corpus}")
        if cases is not None and done >= cases:
            remark("all layouts are done; for more, a larger --cases, or --time")
        _search(campaign, options.scheduler, jobs, cases, seconds)
        if not options.no_reduce:
            _reduce(campaign, store, jobs)
        return _report(options, campaign, store)
    except KeyboardInterrupt:
        remark("what was found is kept; the same command goes on")
        raise
    finally:
        store.close()


def _search(
    campaign: Campaign, scheduler: str | None, jobs: int, cases: int | None, seconds: float | None
) -> None:
    pool = open_pool(jobs, scheduler)
    try:
        with _progress(cases) as state:
            campaign.run(pool, cases, seconds, state)
    finally:
        pool.close()


def _reduce(campaign: Campaign, store: Store, jobs: int) -> None:
    with progress("reducing findings") as report:
        for slug, words in reduce_findings(campaign, store, jobs, report).items():
            remark(f"{slug}: {words}")


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


def _report(options: argparse.Namespace, campaign: Campaign, store: Store) -> int:
    reproduce = command_text(options)
    document = campaign_findings(campaign.plan, campaign.state, store.case, store.case_path)
    if options.junit is not None:
        state = campaign.state
        title = f"crosswalk fuzz, seed {campaign.plan.seed}"
        passed = f"{state.layouts} layouts"
        write_file(options.junit, junit(document, title, passed, state.seconds))
    if options.json:
        emit({**record(campaign, document), "reproduce": reproduce})
    else:
        for line in report_lines(campaign, document):
            print(line)
    if options.coverage:
        for line in coverage_lines(campaign.seen):
            (remark if options.json else print)(line)
    status, word = verdict(campaign.state)
    if not options.json:
        print_verdict(word, status)
        print(f"reproduce: {reproduce}")
    elif status == 2:
        remark(f"verdict: {word}")
    return status
