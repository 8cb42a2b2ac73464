"""`scripts/guests`: kernels of packages, fetched, booted, checked, and put into docs/guests.md.

Each is booted three times: once by `crosswalk run --guest`, which checks it, and twice without a
check, for the time that it takes, and because both have to leave the same memory, byte for byte.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.formats import Given, open_guest
from crosswalk.emu.load.payload import compression_of, unpack
from crosswalk.emu.load.placing import Module
from crosswalk.emu.load.points import parse_point
from crosswalk.emu.workers.contained import contained
from crosswalk.guest.init import init_program
from crosswalk.guest.sample import sample_kernel
from crosswalk.walker.errors import CrosswalkError
from scripts.upkeep.guest_rows import GUESTS, RowGuest
from scripts.upkeep.qemu_boots import QemuBoot, boot_seconds, find_qemu

__all__ = ["Missing", "Row", "booted", "main", "row_of", "row_text", "with_rows"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guests.md"
_TABLE = re.compile(r"(?<=<!-- scripts/guests -->\n)(\|.*\n)+")
_COLUMNS = (
    "guest",
    "version",
    "format",
    "checked at",
    "paging",
    "mappings",
    "W+X",
    "probes",
    "diverge",
    "unanswered",
    "boot",
    "QEMU",
    "check",
    "peak memory",
)
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n"
_PROGRAM = "first"
_MODES = {2: "32-bit", 3: "PAE", 4: "4-level", 5: "5-level"}


class Missing(Exception):  # What is missing is said in words.
    """A guest that can't be fetched, doesn't reach its point, or isn't the same twice."""


@dataclass(frozen=True, slots=True)
class Row:
    """CPU seconds of a guest to its point here, and to its text in QEMU; and what was found.

    `unanswered` counts different questions to hardware that isn't there.
    """

    name: str
    version: str
    format: str
    point: str
    paging: str
    mappings: int
    writable_executable: int
    probes: int
    divergences: int
    unanswered: int
    boot_seconds: float
    qemu_seconds: float | None
    check_seconds: float
    peak_mib: int
    verdict: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the rows; return 1 where one is missing or diverges."""
    parser = argparse.ArgumentParser(prog="scripts/guests", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(GUESTS)} (all)")
    parser.add_argument("--json", action="store_true", help="print an object a line")
    parser.add_argument("--write", action="store_true", help=f"write the rows into {PAGE.name}")
    options = parser.parse_intermixed_args(arguments)
    if unknown := [name for name in options.names if name not in GUESTS]:
        parser.error(f"{unknown[0]}: no such guest; there are {', '.join(GUESTS)}")
    qemu = find_qemu()
    if qemu is None:
        print("no QEMU: scripts/judges qemu-bookworm fetches one", file=sys.stderr)
    rows, failed = [], 0
    for name in options.names or GUESTS:
        try:
            row = row_of(GUESTS[name], qemu)
        except (Missing, CrosswalkError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        rows.append(row)
        failed += row.divergences > 0
        print(json.dumps(asdict(row)) if options.json else row_text(row), flush=True)
    if options.write:
        PAGE.write_text(with_rows(PAGE.read_text("utf-8"), rows), "utf-8")
    return 1 if failed else 0


def row_of(guest: RowGuest, qemu: str | None) -> Row:
    """Fetch a guest, boot it, and return its row.

    Raises `Missing` where that can't be done, and `CrosswalkError` as the boot does.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        file, version = _fetched(guest, folder)
        program = folder / _PROGRAM
        program.write_bytes(init_program())
        record, kind = _checked(guest, file, program)
        one, two = (booted(guest, file) for _ in range(2))
        if one[1] != two[1]:
            raise Missing("two boots don't leave the same memory")
        taken = (
            None
            if qemu is None
            else boot_seconds(qemu, _in_qemu(guest, file), guest.text, guest.seconds)
        )
    (point,) = record["points"]
    return Row(
        name=guest.name,
        version=version,
        format=kind,
        point=point["point"],
        paging=_MODES.get(point["levels"], "none"),
        mappings=point["mappings"],
        writable_executable=point["writable_executable"],
        probes=point["probes"],
        divergences=point["divergences"],
        unanswered=len(record["unanswered"]),
        boot_seconds=round(min(one[0], two[0]), 2),
        qemu_seconds=None if taken is None else round(taken, 2),
        check_seconds=point["seconds"],
        peak_mib=point["peak_mib"],
        verdict=record["verdict"],
    )


def _fetched(guest: RowGuest, folder: Path) -> tuple[Path, str]:
    """Return the guest's file, and the version of its package."""
    if not guest.fetch:
        file = folder / "sample.elf"
        file.write_bytes(sample_kernel())
        return file, "the project's"
    done = subprocess.run(guest.fetch, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"it can't be fetched: {_last(done.stderr)}")
    file = Path(done.stdout.strip())
    said = file.parent / "version"
    version = said.read_text("utf-8") if said.exists() else ""
    found = re.search(r"^Version: (?:\d+:)?(.*)$", version, re.MULTILINE)
    return file, found[1] if found else file.name.partition("-")[2]


def _checked(guest: RowGuest, file: Path, program: Path) -> tuple[dict[str, Any], str]:
    """Run the command; return its document, and the format that it recognised."""
    command = [
        sys.executable,
        *("-m", "crosswalk", "run", "--guest", str(file), "--json"),
        *("--until", guest.point, "--ram", str(guest.ram), "--timeout", str(int(guest.seconds))),
        *(("--append", guest.arguments) if guest.arguments else ()),
        *(() if guest.program is None else ("--module", f"{program},{guest.program}".rstrip(","))),
        *guest.options,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise Missing(_last(done.stderr))
    found = re.search(rf"^{re.escape(str(file))}: ([\w-]+)", done.stderr, re.MULTILINE)
    document: dict[str, Any] = json.loads(done.stdout)
    points = document["points"]
    shown = "failure" not in document and all(each["probes"] for each in points)
    # What diverges is a row, that says so.
    if not shown or (done.returncode == 1 and not any(each["divergences"] for each in points)):
        raise Missing(document["verdict"])
    return document, found[1] if found else "?"


def _last(said: str) -> str:
    return (said.strip().splitlines() or ["nothing was said"])[-1]


def booted(guest: RowGuest, file: Path) -> tuple[float, str]:
    """Boot the guest without a check; return the CPU seconds to its point, and a digest of RAM."""

    def work() -> tuple[float, str]:
        ram = Ram(0, guest.ram << 20)
        given = Given(modules=_modules(guest), arguments=guest.arguments)
        opened = open_guest(file, None, given)
        boot = Boot(ram, opened, exit_port=guest.exit_port, tick_every=guest.tick_every)
        began = time.process_time()
        for _ in boot.run((), parse_point(guest.point), guest.seconds):
            pass
        spent = time.process_time() - began
        return spent, hashlib.sha256(ram.bytes).hexdigest()

    return contained(work)


def _modules(guest: RowGuest) -> tuple[Module, ...]:
    return () if guest.program is None else (Module(_PROGRAM, init_program(), guest.program),)


def _in_qemu(guest: RowGuest, file: Path) -> QemuBoot:
    content = file.read_bytes()
    return QemuBoot(
        kernel=unpack(content) if compression_of(content) else content,
        arguments=guest.arguments,
        modules=tuple((each.content, each.text) for each in _modules(guest)),
        ram=guest.ram,
        grub=guest.grub,
    )


def row_text(row: Row) -> str:
    """Return a row as a line of the table."""
    qemu = "" if row.qemu_seconds is None else f"{row.qemu_seconds:.1f} s"
    cells = (
        row.name,
        row.version,
        row.format,
        f"`{row.point}`",
        row.paging,
        f"{row.mappings:,}",
        f"{row.writable_executable:,}",
        f"{row.probes:,}",
        f"{row.divergences:,}",
        f"{row.unanswered:,}",
        f"{row.boot_seconds:.1f} s",
        qemu,
        f"{row.check_seconds:.1f} s",
        f"{row.peak_mib:,} MiB",
    )
    return f"| {' | '.join(cells)} |"


def with_rows(page: str, rows: Iterable[Row]) -> str:
    """Return the page with these rows in its table; those of other guests stay.

    `ValueError` where the page has no table.
    """
    found = _TABLE.search(page)
    if found is None:
        raise ValueError("no table behind <!-- scripts/guests -->")
    lines = {line.split("|")[1].strip(): line for line in found[0].splitlines()[2:]}
    lines |= {row.name: row_text(row) for row in rows}
    kept = [lines[name] for name in GUESTS if name in lines]
    return page[: found.start()] + _HEAD + "\n".join(kept) + "\n" + page[found.end() :]


if __name__ == "__main__":
    sys.exit(main())
