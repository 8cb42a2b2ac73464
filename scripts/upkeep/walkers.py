"""The table of docs/walkers.md: campaigns of the walkers that can be had here, with one seed."""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["WALKERS", "Walker", "main", "row", "with_rows"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "walkers.md"
ADAPTERS = "emu/targets/starters/adapters"
CASES = 32
_TABLE = re.compile(r"(?<=<!-- scripts/walkers-table -->\n)(\|.*\n)+")
_HEAD = """\
| walker | claims | modes | accesses answered | what is wrong (accesses; entries of its case) |
|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Walker:
    """A walker: its name in the table, in `--walker`, and the command that prints its version.

    That command fails where the walker can't be had.
    """

    name: str
    walker: str
    version: tuple[str, ...]
    options: tuple[str, ...] = ()


def _debian(package: str) -> tuple[str, ...]:
    return ("dpkg-query", "--showformat", "${Version}", "--show", package)


def _python(python: str, distribution: str) -> tuple[str, ...]:
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return (python, "-c", code)


def _adapter(python: str, name: str) -> str:
    return f"exec:{shlex.quote(python)} {ADAPTERS}/{name}_walker.py"


def walkers(bochscpu: str) -> tuple[Walker, ...]:
    """Return all walkers of the table; `bochscpu` is a Python that has bochscpu-python."""
    system = "/usr/bin/python3"
    return (
        Walker("Volatility 3", "volatility3", _python(sys.executable, "volatility3")),
        Walker(
            "libkdumpfile (Debian)", _adapter(system, "kdumpfile"), _debian("python3-libkdumpfile")
        ),
        Walker("drgn (Debian)", _adapter(system, "drgn"), _debian("python3-drgn")),
        Walker(
            "bochscpu-python", _adapter(bochscpu, "bochscpu"), _python(bochscpu, "bochscpu-python")
        ),
        Walker(
            "QEMU, `gva2gpa` (Debian)",
            _adapter(system, "qemu"),
            _debian("qemu-system-x86"),
            ("--walker-memory", "1200000"),
        ),
    )


WALKERS = walkers("bochs/bin/python")


def version_of(walker: Walker) -> str | None:
    """Return the version of a walker, None where it can't be had."""
    try:
        ran = subprocess.run(walker.version, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def campaign(walker: Walker, cases: int = CASES) -> dict[str, Any]:
    """Return what `crosswalk fuzz --json` prints for it, with a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "crosswalk", "fuzz", "--walker", walker.walker]
        command += ["--cases", str(cases), "--corpus", folder, "--json", *walker.options]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if ran.returncode not in {0, 1}:
        raise SystemExit(f"{walker.name}: {ran.stderr.splitlines()[-1]}")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def row(walker: Walker, version: str, found: dict[str, Any]) -> str:
    """Return the row of a walker: its claims, modes, counts, and findings by cause."""
    answered = {mode: count for mode, count in found["answered"].items() if count}
    share = f"{sum(answered.values()):,} of {sum(found['asked'].values()):,}"
    wrong = [
        f"{each['cause']} ({each['count']:,}; {each['entries']})"
        for each in sorted(found["findings"], key=lambda each: -each["count"])
    ]
    cells = (
        f"{walker.name} {version}",
        ", ".join(found["claims"]),
        ", ".join(answered),
        share,
        "<br>".join(wrong) or "nothing",
    )
    return f"| {' | '.join(cells)} |\n"


def with_rows(page: str, rows: dict[str, str]) -> str:
    """Return the page with these rows in its table, by the name of the walker; others stay."""
    found = _TABLE.search(page)
    old = found[0].splitlines(keepends=True)[2:] if found else []
    kept = {
        each.name: line for each in WALKERS for line in old if line.startswith(f"| {each.name} ")
    }
    new = kept | rows
    table = _HEAD + "".join(new[each.name] for each in WALKERS if each.name in new)
    return _TABLE.sub(lambda _: table, page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the campaigns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bochscpu-python", metavar="PYTHON", default="bochs/bin/python")
    rows = dict(_rows(walkers(parser.parse_args(arguments).bochscpu_python)))
    PAGE.write_text(with_rows(PAGE.read_text("utf-8"), rows), "utf-8")


def _rows(chosen: Sequence[Walker]) -> Iterator[tuple[str, str]]:
    for each in chosen:
        version = version_of(each)
        if version is None:
            print(f"{each.name}: can't be had here; its row stays", file=sys.stderr)
        else:
            yield each.name, row(each, version, campaign(each))


if __name__ == "__main__":
    main()
