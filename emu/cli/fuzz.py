"""`fuzz`: generated layouts, put to the walker, the CPU and whoever is under test."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from crosswalk.emu.cli.fuzz_report import junit, record, report_lines, verdict
from crosswalk.emu.cli.output import add_json, command_text, emit, progress_bar, remark, write_file
from crosswalk.emu.cli.walker_options import add_walker, chosen_walker
from crosswalk.emu.fuzz.campaign import Campaign, Plan, Told
from crosswalk.emu.fuzz.campaign.cluster import open_pool
from crosswalk.emu.fuzz.campaign.reduce_findings import reduce_findings
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.coverage import CELLS, coverage_lines
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import parse_int

__all__ = ["add_commands"]

_DESCRIPTION = """\
Search for the page table that proves a walker wrong. Layouts are made from a seed, steered by
what has not been seen yet; every access is put to the walker, the emulated CPU, the layout's own
intentions, and the walker under test.

What differs is gathered by the rule that differs, and the first case of each is written to
DIR/findings, with what was said and seen in it; when the search is over, all are made as small
as they can be. A layout with which the emulator crashes, hangs or fails is a finding too. The
command that shows a finding again is printed with it.

The same seed, options and number of layouts come to the same findings, byte for byte, with any
number of processes, and whatever interrupts the search: Ctrl-C, kill -9, a full disk. The same
command goes on where it was; so does one with a larger --cases, or another --jobs. A search
with another seed, walker or set of options needs a folder of its own."""

_EPILOG = """\
exit status: 0 nothing was found; 1 there are findings; 2 nothing was asked, or answered by the
walker under test; bad usage, a folder that can't be used, or a cluster that is gone; 130
interrupted."""

_EVERY = 10.0


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `fuzz`."""
    parser = commands.add_parser(
        "fuzz",
        help="search for divergences with generated layouts",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", metavar="N", default="0", help="what all is made from (0)")
    parser.add_argument(
        "--cases", metavar="N", help="end after so many layouts in all (256, unless --time)"
    )
    parser.add_argument(
        "--time", metavar="SECONDS", help="end after so long in this run; whichever comes first"
    )
    parser.add_argument("--jobs", metavar="N", help="processes (one a CPU)")
    parser.add_argument(
        "--accesses", metavar="N", default="8192", help="a layout's accesses, about (8192)"
    )
    parser.add_argument(
        "--corpus", metavar="DIR", type=Path,
        help="keep findings and state here, and go on from them (./crosswalk-fuzz)",
        default=Path("crosswalk-fuzz"),
    )  # fmt: skip
    parser.add_argument(
        "--from", metavar="SOURCE", dest="source",
        help="change the tables of this case, ELF core, or guest:4level, instead of making some",
    )  # fmt: skip
    add_walker(parser, "none but the built-in one")
    parser.add_argument("--no-reduce", action="store_true", help="leave findings as they are found")
    parser.add_argument("--blind", action="store_true", help="don't let coverage steer")
    parser.add_argument("--coverage", action="store_true", help="print what was seen, and what not")
    parser.add_argument(
        "--junit",
        metavar="FILE",
        type=Path,
        help="write a JUnit XML report here, with a failure for each finding",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="work on the Dask cluster there, instead of --jobs processes here; its workers need "
        "the same versions of crosswalk, unicorn and numpy",
    )
    add_json(parser, "one summary document")
    parser.set_defaults(run=_fuzz)


def _fuzz(options: argparse.Namespace) -> int:
    cases = None if options.cases is None else parse_int(options.cases, "--cases", bits=32)
    seconds = None if options.time is None else float(parse_int(options.time, "--time", bits=32))
    if cases is None and seconds is None:
        cases = 256
    jobs = (
        os.cpu_count() or 1 if options.jobs is None else parse_int(options.jobs, "--jobs", bits=8)
    )
    accesses = parse_int(options.accesses, "--accesses", bits=20)
    if not jobs or accesses < 16:
        raise BadInput("--jobs is at least 1, --accesses at least 16")
    if options.scheduler is not None and options.jobs is not None:
        raise BadInput("--scheduler: the cluster says how many work, not --jobs")
    walker = chosen_walker(options)
    with walker.opened():
        pass  # Errors now, not in workers.
    plan = Plan(
        seed=parse_int(options.seed, "--seed"),
        accesses=accesses,
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
            remark(f"going on after {done:,} layouts in {options.corpus}")
        if cases is not None and done >= cases:
            remark("all layouts are done; for more, a larger --cases, or --time")
        with _terminable():
            _search(campaign, options.scheduler, jobs, cases, seconds)
            if not options.no_reduce:
                _reduce(campaign, store, jobs)
        return _tell(options, campaign, store)
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
        with _progress(cases) as told:
            campaign.run(pool, cases, seconds, told)
    finally:
        pool.close()


def _reduce(campaign: Campaign, store: Store, jobs: int) -> None:
    with progress_bar("reducing findings") as report:
        for slug in reduce_findings(campaign, store, jobs, report):
            remark(f"{slug}: its case alone doesn't show it, and is left as it was found")


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM for an interrupt."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(cases: int | None) -> Iterator[Callable[[Told], None]]:
    """Yield what tells how far it is: a live line on a terminal, else one every ten seconds."""
    began = time.monotonic()

    def line(told: Told) -> str:
        return _line(told, cases, time.monotonic() - began)

    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415  # Where nobody watches, not worth its import.
        from rich.live import Live  # noqa: PLC0415  # The same.

        with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
            yield lambda told: live.update(line(told))
        return
    last = began

    def tell(told: Told) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            remark(line(told))

    yield tell


def _line(told: Told, cases: int | None, seconds: float) -> str:
    of = "" if cases is None else f" of {cases:,}"
    share = told.seen / CELLS.reachable
    seconds = max(seconds, 0.001)
    return (
        f"{told.layouts:,}{of} layouts ({told.layouts_now / seconds:,.1f} a second), "
        f"{told.probes:,} probes ({told.probes_now / seconds:,.0f} a second), "
        f"{share:.1%} of cells seen, {told.findings:,} findings"
    )


def _tell(options: argparse.Namespace, campaign: Campaign, store: Store) -> int:
    reproduce = command_text(options)
    if options.junit is not None:
        write_file(options.junit, junit(campaign, store))
    if options.json:
        document: dict[str, Any] = record(campaign, store)
        emit({**document, "reproduce": reproduce})
    else:
        for line in report_lines(campaign, store):
            print(line)
    if options.coverage:
        for line in coverage_lines(campaign.seen):
            (remark if options.json else print)(line)
    status, word = verdict(campaign.state)
    if not options.json:
        print(f"verdict: {word}")
        print(f"reproduce: {reproduce}")
    elif status == 2:
        remark(f"verdict: {word}")
    return status
