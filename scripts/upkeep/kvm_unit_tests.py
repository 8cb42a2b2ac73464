"""`scripts/kvm-unit-tests`: the tests of a checkout of kvm-unit-tests, as guests, in a table.

What the checkout's owner has built, x86/*.flat, is run; nothing is built here. docs/data/
kvm-unit-tests.toml says what a test needs, and which fail, and why.
"""

import argparse
import json
import re
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import unicorn
from unicorn import x86_const as x86

from crosswalk.emu.cpu.engine import MODELS
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.formats import Given, open_guest
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.walker.errors import BadInput
from scripts.upkeep.kvm_access import Stride, read_access_test

__all__ = ["Known", "Outcome", "Ran", "main", "outcome_of", "read_known", "run_flat", "with_table"]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "kvm-unit-tests.toml"
PAGE = ROOT / "docs" / "guests.md"
EXIT_PORT = 0xF4
_TABLE = re.compile(r"(?<=<!-- scripts/kvm-unit-tests -->\n)(\|.*\n)+")
_HEAD = "| test | exit | PASS | FAIL | SKIP | unanswered | |\n|---|---|---|---|---|---|---|\n"
_LINE = re.compile(r"^(PASS|FAIL|SKIP|XFAIL|XPASS)\b", re.MULTILINE)
_COMBINATIONS = re.compile(r"^(\d+) tests, (\d+) failures$", re.MULTILINE)
_SKIPPED = 77 >> 1
"""What a test that skips itself writes: 77 is to be QEMU's exit status."""
_EXIT = Point(PointKind.EXIT)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a test: how it is run, and why it doesn't pass, if it doesn't.

    `ram` is in MiB, `seconds` are of the clock, `stride` is that of the access test, `model` the
    CPU's, as in `crosswalk run --model`.
    """

    arguments: str = ""
    ram: int = 512
    seconds: float = 60.0
    stride: int = 0
    model: str = "icelake"
    fails: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """A test that was run.

    `status` is what it wrote to the exit port, None if it didn't; then `ended` says how it ended.
    `counts` are its lines by their first word, `combinations` those of the access test, tested and
    failed, for each number of levels; `unanswered` counts questions to hardware that isn't there.
    """

    name: str
    status: int | None
    ended: str
    counts: Mapping[str, int]
    combinations: tuple[tuple[int, int], ...]
    unanswered: int
    seconds: float
    console: str

    @property
    def passed(self) -> bool:
        """Whether it ended by itself, with status 0, and said of nothing that it failed."""
        return self.status == 0 and not self.counts.get("FAIL")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test came out beside what is known of it; `wrong` where it's not as known."""

    word: str
    wrong: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/kvm-unit-tests", description=__doc__)
    parser.add_argument("checkout", type=Path, metavar="DIR", help="with x86/*.flat, built")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, as smap (all)")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="the stride of the access test, 1 for all"
    )
    parser.add_argument("--console", action="store_true", help="show what each test printed")
    parser.add_argument("--json", action="store_true", help="print an object a line")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write the table of {PAGE.name}; of some tests, their rows",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.stride is not None and options.stride < 1:
        parser.error("--stride: a positive number")
    flats = {path.stem: path for path in sorted((options.checkout / "x86").glob("*.flat"))}
    if not flats:
        parser.error(f"{options.checkout}: no x86/*.flat; build the checkout: ./configure && make")
    if missing := [name for name in options.names if name not in flats]:
        parser.error(f"{missing[0]}: no such test in {options.checkout / 'x86'}")
    known = read_known(DATA)
    wrong = 0
    rows = []
    for name in options.names or flats:
        what = known.get(name, Known())
        ran = run_flat(flats[name], what, options.stride or what.stride)
        outcome = outcome_of(ran, what)
        wrong += outcome.wrong
        rows.append((ran, outcome))
        if options.json:
            print(json.dumps(_record(ran, outcome)), flush=True)
        else:
            print(_line(ran, outcome), flush=True)
        if options.console:
            print(ran.console, file=sys.stderr, flush=True)
    if options.write:
        table = with_table(PAGE.read_text("utf-8"), rows, others=bool(options.names))
        PAGE.write_text(table, "utf-8")
    passed = sum(ran.passed for ran, _ in rows)
    print(
        f"{len(rows)} tests: {passed} pass, {len(rows) - passed} don't, {wrong} not as known",
        file=sys.stderr,
    )
    return 1 if wrong else 0


def read_known(path: Path) -> dict[str, Known]:
    """Return what is known, by the tests' names."""
    return {name: Known(**row) for name, row in tomllib.loads(path.read_text("utf-8")).items()}


def run_flat(path: Path, known: Known, stride: int = 0) -> Ran:
    """Run a test in a process of its own."""
    began = time.monotonic()
    try:
        ran = contained(lambda: _run(path, known, stride), known.seconds + 30)
    except (EmulatorCrash, BadInput) as error:
        spent = time.monotonic() - began
        return Ran(path.stem, None, str(error), {}, (), 0, spent, "")
    return ran


def _run(path: Path, known: Known, stride: int) -> Ran:
    guest = open_guest(path, None, Given(arguments=known.arguments))
    ram, model = Ram(0, known.ram << 20), MODELS[known.model]
    boot = Boot(ram, guest, model=model, exit_port=EXIT_PORT)
    if stride > 1:
        _stride(boot, path, stride)
    began = time.monotonic()
    ended = ""
    try:
        for _ in boot.run((), _EXIT, known.seconds):
            pass
    except GuestFailure as failure:
        ended = str(failure)
    seconds = time.monotonic() - began
    console = boot.machine.console.decode("utf-8", "replace").replace("\r", "")
    counts: dict[str, int] = {}
    for word in _LINE.findall(console):
        counts[word] = counts.get(word, 0) + 1
    # isa-debug-exit: the value that was written, twice, and one.
    status = None if boot.exit_status is None else boot.exit_status >> 1
    combinations = tuple((int(a), int(b)) for a, b in _COMBINATIONS.findall(console))
    asked = sum(each.count for each in boot.machine.unanswered)
    return Ran(path.stem, status, ended, counts, combinations, asked, seconds, console)


class _GuestWords:
    """Words of the guest's memory."""

    def __init__(self, engine: unicorn.Uc) -> None:
        self._engine = engine

    def read(self, at: int) -> int:
        return int.from_bytes(self._engine.mem_read(at, 4), "little")

    def write(self, at: int, value: int) -> None:
        self._engine.mem_write(at, value.to_bytes(4, "little"))


def _stride(boot: Boot, path: Path, steps: int) -> None:
    """Have the access test test only some of its combinations."""
    test = read_access_test(path.read_bytes())
    engine = boot.machine.engine
    stride = Stride(test, steps, _GuestWords(engine))

    def at(address: int, called: Callable[[], None]) -> None:
        engine.hook_add(unicorn.UC_HOOK_CODE, lambda *_: called(), begin=address, end=address)

    at(test.access, lambda: stride.entered(engine.reg_read(x86.UC_X86_REG_RDI)))
    at(test.returns, stride.returned)


def outcome_of(ran: Ran, known: Known) -> Outcome:
    """Return how a test came out, beside what is known of it."""
    if ran.passed:
        return Outcome(
            "passes, though known to fail" if known.fails else "passes", bool(known.fails)
        )
    if known.fails:
        return Outcome(f"known: {known.fails}", wrong=False)
    if ran.status is None:
        return Outcome(ran.ended, wrong=True)
    if ran.status == _SKIPPED:
        return Outcome("skips itself", wrong=False)
    return Outcome("fails", wrong=True)


def _record(ran: Ran, outcome: Outcome) -> dict[str, Any]:
    record = asdict(ran) | {"outcome": outcome.word, "as_known": not outcome.wrong}
    del record["console"]
    return record


def _line(ran: Ran, outcome: Outcome) -> str:
    status = "-" if ran.status is None else ran.status
    counts = " ".join(f"{count} {word}" for word, count in sorted(ran.counts.items())) or "-"
    tested = "".join(f"; {count:,} combinations, {bad:,} fail" for count, bad in ran.combinations)
    return (
        f"{ran.name:<20} exit {status}  {counts}{tested}; {ran.unanswered:,} unanswered; "
        f"{ran.seconds:.1f} s: {outcome.word}"
    )


def with_table(page: str, rows: Sequence[tuple[Ran, Outcome]], *, others: bool = False) -> str:
    """Return the page with these rows as its table, or, with the `others` that it has, in it.

    `ValueError` where the page has no table.
    """
    found = _TABLE.search(page)
    if found is None:
        raise ValueError("no table behind <!-- scripts/kvm-unit-tests -->")
    lines = [_cells(ran, outcome) for ran, outcome in rows]
    if others:
        held = {_name_in(line): line for line in found[0].splitlines()[2:]}
        held |= {_name_in(line): line for line in lines}
        lines = [held[name] for name in sorted(held)]
    return page[: found.start()] + _HEAD + "\n".join(lines) + "\n" + page[found.end() :]


def _name_in(line: str) -> str:
    """Return which test a row of the table is about."""
    return line.split("|")[1].strip()


def _cells(ran: Ran, outcome: Outcome) -> str:
    counts = (str(ran.counts.get(word, "")) for word in ("PASS", "FAIL", "SKIP"))
    tested = " and ".join(
        f"{count:,} combinations, {bad:,} fail" for count, bad in ran.combinations
    )
    word = f"{outcome.word}: {tested}" if tested else outcome.word
    status = "" if ran.status is None else str(ran.status)
    return f"| {' | '.join((ran.name, status, *counts, f'{ran.unanswered:,}', word))} |"


if __name__ == "__main__":
    sys.exit(main())
