"""`scripts/linux-matrix`: boots and checks Debian's kernels, and writes docs/linux.md's table."""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from crosswalk.guest.init import DONE
from crosswalk.walker.formats import open_source
from scripts.upkeep import linux_boots
from scripts.upkeep.linux_boots import RAM_MIB
from scripts.upkeep.linux_rows import ROWS, Row, chosen
from scripts.upkeep.qemu_boots import find_qemu

__all__ = [
    "CROSSWALK",
    "DATA",
    "PAGE",
    "POINTS",
    "Found",
    "Point",
    "Protection",
    "booted_again",
    "checked",
    "kept",
    "main",
    "merged",
    "protected",
    "table",
    "with_table",
]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "linux.md"
DATA = ROOT / "docs" / "data" / "linux-matrix.json"
POINTS = ("symbol:mark_rodata_ro", "user", "idle")
"""Where each kernel is checked: before it protects itself, at its first process, at the end."""

CROSSWALK = (sys.executable, "-m", "crosswalk")
"""The command that is asked."""

_TABLE = re.compile(r"(?<=<!-- scripts/linux-matrix -->\n)(\|.*\n)+")
_PASSED = "passed"
_BITS = {"amd64": 64, "i386": 32}
_PAGING = {2: "32-bit", 3: "PAE", 4: "4-level", 5: "5-level"}
"""The modes of paging by their levels."""


class Point(msgspec.Struct, frozen=True):
    """What was found at a point; the supervisor may write and execute the `exposed` mappings."""

    point: str
    paging: str
    mappings: int
    exposed: int
    probes: int
    divergences: int
    known_divergences: int
    seconds: float


class Protection(msgspec.Struct, frozen=True):
    """What `protect --kernel` came to: its exit status, and how many attacks it made and stopped.

    Attacks that couldn't be built are none that were made.
    """

    status: int
    attacks: int
    stopped: int


class Found(msgspec.Struct, frozen=True):
    """What was found of a row; `failures` has a line for each thing that isn't as it should be.

    `boot_seconds` and `peak_mib` are of the checked boot up to its end; `cpu_seconds` are CPU
    seconds between two lines of the console, and `qemu_seconds` QEMU TCG's, if it was there.
    `same` says whether the unchecked boot ended with the same RAM, byte for byte.
    """

    row: str
    release: str = ""
    bits: int = 64
    points: tuple[Point, ...] = ()
    boot_seconds: float = 0
    peak_mib: int = 0
    own_check: str = ""
    cpu_seconds: float = 0
    same: bool | None = None
    qemu_seconds: float | None = None
    protection: Protection | None = None
    failures: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Boot the rows chosen, print and keep what was found, and return the exit status."""
    options = _options(arguments)
    try:
        rows = chosen(options.rows, options.suite)
    except ValueError as error:
        print(f"linux-matrix: {error}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    found = []
    for row in rows:
        _remark(f"{row.name}…")
        found.append(measured(row, options))
        for failure in found[-1].failures:
            _remark(f"{row.name}: {failure}")
        if options.write:
            _keep(found[-1])
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        print(table(found), end="")
    if options.write:
        PAGE.write_text(with_table(PAGE.read_text("utf-8"), kept()), "utf-8")
    return int(any(each.failures for each in found))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/linux-matrix",
        description=f"""Fetches kernels of Debian, boots each without any argument, checks it at
        {", ".join(POINTS)}, boots it once more without checks, and protects it. Exit status: 0; 1
        where a kernel can't be fetched, doesn't get to the end, or isn't as it should be; 2 bad
        usage.""",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="as trixie/cloud or '*/686*' (all)")
    parser.add_argument("--suite", action="append", default=[], help="rows of this suite alone")
    parser.add_argument("--list", action="store_true", help="list the rows, and do nothing")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument(
        "--write", action="store_true", help="keep it in docs/data, and write docs/linux.md's table"
    )
    parser.add_argument("--no-protect", action="store_true", help="don't protect the kernels")
    parser.add_argument("--no-again", action="store_true", help="don't boot them without checks")
    parser.add_argument("--qemu", help="a QEMU to compare with (that of scripts/judges)")
    return parser.parse_args(arguments)


def measured(row: Row, options: argparse.Namespace) -> Found:
    """Return what is found of a row; what can't be done is among its failures."""
    fetched = subprocess.run(
        [ROOT / "scripts" / "fetch-kernel", "--suite", row.suite, "--arch", row.arch, row.package],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        return Found(row.name, failures=(fetched.stderr.strip() or "it can't be fetched",))
    kernel = Path(fetched.stdout.strip())
    found = Found(row.name, kernel.name.removeprefix("vmlinuz-"), _BITS[row.arch])
    with tempfile.TemporaryDirectory() as folder:
        core = Path(folder) / "core"
        found = checked(found, kernel, core)
        if not found.failures and not options.no_again:
            found = booted_again(found, kernel, core, options.qemu or find_qemu())
    if not options.no_protect:
        found = protected(found, kernel)
    return found


def checked(found: Found, kernel: Path, core: Path, crosswalk: Sequence[str] = CROSSWALK) -> Found:
    """Return a row with what `crosswalk run` says of it; the state at the end goes to `core`."""
    command = [
        *(*crosswalk, "run", "--kernel", str(kernel), "--json", "--console"),
        *("--timeout", "3600", "--save", str(core), "--check-at", *POINTS[:-1]),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if not ran.stdout:
        return _with(found, failures=(_last(ran),))
    answer = json.loads(ran.stdout)
    if "failure" in answer:
        return _with(found, failures=(answer["verdict"],))
    points = tuple(_point(each) for each in answer["points"])
    own = re.search(r"Checked W\+X mappings: (.*)", ran.stderr)
    found = _with(
        found,
        points=points,
        boot_seconds=answer["points"][-1]["boot_seconds"],
        peak_mib=max(each["peak_mib"] for each in answer["points"]),
        own_check=own[1].strip(" .") if own else "",
    )
    failures = []
    if ran.returncode:
        failures.append(f"exit status {ran.returncode}: {answer['verdict']}")
    if tuple(each.point for each in points) != POINTS:
        failures.append(f"not all points were reached: {', '.join(p.point for p in points)}")
    failures += [
        f"{each.divergences} divergences at {each.point}" for each in points if each.divergences
    ]
    if DONE not in ran.stderr:
        failures.append(f"{DONE!r} isn't on the console")
    if own and own[1].startswith(_PASSED) == any(each.exposed for each in points[1:]):
        failures.append(f"the kernel says of its W+X mappings: {own[1]}")
    return _with(found, failures=tuple(failures))


def _point(record: dict[str, Any]) -> Point:
    return Point(
        point=record["point"],
        paging=_PAGING[record["levels"]],
        mappings=record["mappings"],
        exposed=record["writable_executable"],
        probes=record["probes"],
        divergences=record["divergences"],
        known_divergences=record["known_divergences"],
        seconds=record["seconds"],
    )


def booted_again(found: Found, kernel: Path, core: Path, qemu: str | None) -> Found:
    """Return a row with the times of boots without checks, here and in QEMU if there is one."""
    failures = []
    try:
        boot = linux_boots.here(kernel, list(POINTS))
        found = _with(found, cpu_seconds=round(boot.cpu_seconds, 1))
        memory = open_source(core).memory
        same = hashlib.sha256(memory.read(0, RAM_MIB << 20)).hexdigest() == boot.ram
        found = _with(found, same=same)
        if not same:
            failures.append("a second boot ended with other bytes in RAM")
        if qemu is not None:
            seconds = linux_boots.in_qemu(qemu, kernel, found.bits)
            found = _with(found, qemu_seconds=round(seconds, 1))
    except RuntimeError as error:
        failures.append(str(error))
    return _with(found, failures=(*found.failures, *failures))


def protected(found: Found, kernel: Path, crosswalk: Sequence[str] = CROSSWALK) -> Found:
    """Return a row with what `crosswalk protect` says of it."""
    command = [*crosswalk, "protect", "--kernel", str(kernel), "--json", "--timeout", "3600"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if not ran.stdout:
        return _with(found, failures=(*found.failures, f"protect: {_last(ran)}"))
    answer = json.loads(ran.stdout)
    made = [each for each in answer["attacks"] if not each["not_built"]]
    found = _with(
        found,
        protection=Protection(
            status=ran.returncode,
            attacks=len(made),
            stopped=sum(each["unprotected"] and not each["protected"] for each in made),
        ),
    )
    broken = [f"protect: {each['text']}" for each in answer["checks"] if not each["holds"]]
    if not made:
        broken.append("protect: no attack was made")
    if ran.returncode and not broken:
        broken = [f"protect: {_last(ran)}"]
    return _with(found, failures=(*found.failures, *broken))


def kept() -> list[Found]:
    """Return what docs/data has, in the order of the rows."""
    found = msgspec.json.decode(DATA.read_bytes(), type=list[Found]) if DATA.exists() else []
    order = [row.name for row in ROWS]
    return sorted((each for each in found if each.row in order), key=lambda f: order.index(f.row))


def merged(earlier: Found | None, found: Found) -> Found:
    """Return what was found of a row, with what only an earlier run of that release looked at."""
    if earlier is None or earlier.release != found.release:
        return found
    unasked = ("cpu_seconds", "same", "qemu_seconds") if found.same is None else ()
    if found.protection is None:
        unasked += ("protection",)
    return _with(found, **{name: getattr(earlier, name) for name in unasked})


def _keep(found: Found) -> None:
    before = {each.row: each for each in kept()}
    before[found.row] = merged(before.get(found.row), found)
    DATA.write_bytes(msgspec.json.format(msgspec.json.encode(list(before.values()))) + b"\n")


def table(found: Sequence[Found]) -> str:
    """Return the table of these rows."""
    return "".join(f"{line}\n" for line in _lines(found))


def with_table(page: str, found: Sequence[Found]) -> str:
    """Return the page with the table of these rows in its place."""
    return _TABLE.sub(lambda _: table(found), page)


def _lines(found: Sequence[Found]) -> Iterator[str]:
    yield (
        "| suite, flavour | release | paging | mappings | of them W+X: early, `user`, `idle` "
        "| kernel's own check | probes | same RAM | CPU s | QEMU's | times | peak MiB | protect |"
    )
    yield "|---" * 13 + "|"
    for each in found:
        if not each.points:
            yield f"| {each.row} | {each.release} | {'; '.join(each.failures)} |" + " |" * 10
            continue
        exposed = ", ".join(f"{point.exposed:,}" for point in each.points)
        last = each.points[-1]
        ratio = each.cpu_seconds / each.qemu_seconds if each.qemu_seconds else None
        cells = [
            each.row,
            each.release,
            last.paging,
            f"{last.mappings:,}",
            exposed,
            "passed" if each.own_check.startswith("passed") else each.own_check or "none",
            f"{sum(point.probes for point in each.points):,}",
            {True: "yes", False: "NO", None: ""}[each.same],
            f"{each.cpu_seconds:.1f}" if each.cpu_seconds else "",
            "" if each.qemu_seconds is None else f"{each.qemu_seconds:.1f}",
            "" if ratio is None else f"{ratio:.1f}",
            f"{each.peak_mib:,}",
            _protection_text(each),
        ]
        yield f"| {' | '.join(cells)} |"


def _protection_text(found: Found) -> str:
    made = found.protection
    if made is None:
        return ""
    return f"{'yes' if made.status == 0 else 'NO'}, {made.stopped} of {made.attacks} attacks"


def _with(found: Found, **changes: Any) -> Found:
    return msgspec.structs.replace(found, **changes)


def _last(ran: "subprocess.CompletedProcess[str]") -> str:
    return (ran.stderr.strip() or f"status {ran.returncode}").splitlines()[-1]


def _remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
