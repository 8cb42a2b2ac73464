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

from emu.cli.fuzzed import junit, record, report_lines
from emu.cli.output import add_json, command_text, emit, remark, write_file
from emu.cli.reducing import add_walker
from emu.fuzz.campaign import Campaign, Plan, Told
from emu.fuzz.campaign.pools import open_pool
from emu.fuzz.campaign.store import Store
from emu.fuzz.campaign.tidy import reduce_findings
from emu.fuzz.coverage import CELLS, coverage_lines
from emu.peers.opening import open_peer
from walker.errors import BadInput
from walker.source import parse_int

__all__ = ["add_commands"]

_DESCRIPTION = """\
Search for the page table that proves a walker wrong: layouts are made from a seed, steered by
what has not been seen yet, and every access is put to the walker, the emulated CPU, the layout's
own intentions, and the walker under test. Equal seeds and counts give equal findings, with any
number of processes."""

_EVERY = 10.0


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `fuzz`."""
    parser = commands.add_parser(
        "fuzz",
        help="search for divergences with generated layouts",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", metavar="N", default="0", help="what all is made from (0)")
    parser.add_argument("--cases", metavar="N", help="how many layouts (256, unless --time)")
    parser.add_argument("--time", metavar="SECONDS", help="end after so long")
    parser.add_argument(
        "--jobs", metavar="N", default=str(os.cpu_count() or 1), help="processes (one a CPU)"
    )
    parser.add_argument(
        "--accesses", metavar="N", default="4096", help="a layout's accesses (4096)"
    )
    parser.add_argument(
        "--corpus", metavar="DIR", type=Path,
        help="keep findings and state here, and go on from them (crosswalk-fuzz)",
        default=Path("crosswalk-fuzz"),
    )  # fmt: skip
    parser.add_argument(
        "--from", metavar="FILE", dest="source",
        help="change the tables of this case or ELF core instead of making some",
    )  # fmt: skip
    add_walker(parser, "none but the built-in one")
    parser.add_argument("--no-reduce", action="store_true", help="leave findings as they are found")
    parser.add_argument("--blind", action="store_true", help="don't let coverage steer")
    parser.add_argument("--coverage", action="store_true", help="print what was seen, and what not")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write a JUnit XML report here")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="work on this Dask cluster")
    add_json(parser, "one summary document")
    parser.set_defaults(run=_fuzz)


def _fuzz(options: argparse.Namespace) -> int:
    cases = None if options.cases is None else parse_int(options.cases, "--cases", bits=32)
    seconds = None if options.time is None else float(parse_int(options.time, "--time", bits=32))
    if cases is None and seconds is None:
        cases = 256
    jobs = parse_int(options.jobs, "--jobs", bits=8)
    accesses = parse_int(options.accesses, "--accesses", bits=20)
    if not jobs or accesses < 16:
        raise BadInput("--jobs is at least 1, --accesses at least 16")
    if options.walker is not None:
        open_peer(options.walker, claims=options.claims).close()  # Errors now, not in workers.
    plan = Plan(
        seed=parse_int(options.seed, "--seed"),
        accesses=accesses,
        guided=not options.blind,
        walker=options.walker,
        claims=options.claims,
        source=options.source,
    )
    store = Store(options.corpus, plan)
    campaign = Campaign(plan, store)
    if campaign.state.layouts:
        remark(f"going on after {campaign.state.layouts:,} layouts in {options.corpus}")
    try:
        _run(campaign, jobs, options.scheduler, cases, seconds)
    except KeyboardInterrupt:
        remark(f"{campaign.state.layouts:,} layouts done; the same command goes on")
        raise
    if not options.no_reduce:
        reduce_findings(campaign, store)
    return _tell(options, campaign, store)


def _run(
    campaign: Campaign, jobs: int, scheduler: str | None, cases: int | None, seconds: float | None
) -> None:
    pool = open_pool(jobs, scheduler)
    try:
        with _terminable(), _progress(cases) as told:
            campaign.run(pool, cases, seconds, told)
    finally:
        pool.close()


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
    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415  # Where nobody watches, not worth its import.
        from rich.live import Live  # noqa: PLC0415  # The same.

        with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
            yield lambda told: live.update(_line(told, cases, time.monotonic() - began))
        return
    last = began

    def tell(told: Told) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY:
            last = now
            remark(_line(told, cases, now - began))

    yield tell


def _line(told: Told, cases: int | None, seconds: float) -> str:
    of = "" if cases is None else f" of {cases:,}"
    share = told.seen / int(CELLS.possible.sum())
    return (
        f"{told.layouts:,}{of} layouts, {told.probes:,} probes "
        f"({told.probes / max(seconds, 0.001):,.0f} a second), {share:.1%} of cells seen, "
        f"{told.findings:,} findings"
    )


def _tell(options: argparse.Namespace, campaign: Campaign, store: Store) -> int:
    state = campaign.state
    reproduce = command_text(options)
    if options.junit is not None:
        write_file(options.junit, junit(campaign))
    if options.json:
        document: dict[str, Any] = record(campaign, store)
        emit({**document, "reproduce": reproduce})
    else:
        for line in report_lines(campaign, store):
            print(line)
    if options.coverage:
        for line in coverage_lines(campaign.seen):
            (remark if options.json else print)(line)
    if not options.json:
        print(f"verdict: {'FAILED' if state.findings else 'agreement'}")
        print(f"reproduce: {reproduce}")
    return 1 if state.findings else 0
