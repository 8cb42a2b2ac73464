"""`scripts/emulator-divergences`: what judges say of the cases of departures, and their page."""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crosswalk.emu.check.judged import kind_of
from crosswalk.emu.machines.iso import judges_folder, require_iso_tools
from crosswalk.emu.machines.qemu import require_kvm
from crosswalk.emu.report.known_page import Columns, known_page
from crosswalk.walker.errors import BadInput

__all__ = [
    "CASES",
    "DATA",
    "FOLDERS",
    "PAGE",
    "at_hand",
    "columns",
    "digest_of",
    "fresh",
    "label_of",
    "main",
    "said_of",
]

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "cases"
FOLDERS = ("known", "composite", "known-sequences", "judges")
DATA = ROOT / "docs" / "data" / "judges.json"
PAGE = ROOT / "docs" / "emulator-divergences.md"

_SUITES = ("bookworm", "trixie", "sid")
_CPUS = re.compile(r"(, [^,]+ of \d+(, \d+)* bits)+$")


def paths() -> list[str]:
    """Return the paths of all cases, in tests/cases."""
    return [
        f"{folder}/{path.name}" for folder in FOLDERS for path in sorted((CASES / folder).iterdir())
    ]


def digest_of(path: str) -> str:
    """Return the beginning of the SHA-256 of a case, by which a changed one is noticed."""
    return hashlib.sha256((CASES / path).read_bytes()).hexdigest()[:16]


def at_hand() -> list[str]:
    """Return the judges that can be asked here, as `--with` takes them."""
    folder = judges_folder().resolve()
    qemu = [f"qemu:{folder}/qemu-{suite}/qemu-system-x86_64" for suite in _SUITES]
    bochs = [f"bochs:{folder}/bochs-{suite}/bochs" for suite in _SUITES]
    found = ["unicorn"]
    if shutil.which("qemu-system-x86_64"):
        found += ["qemu", "qemu-mttcg"]
        qemu = qemu[1:]  # The oldest is the system's.
        try:
            require_kvm()
            found.append("kvm")
        except BadInput as error:
            print(error, file=sys.stderr)
    try:
        require_iso_tools()
    except BadInput as error:
        bochs = []
        print(f"no Bochs: {error}", file=sys.stderr)
    found += [name for name in (*qemu, *bochs) if Path(name.partition(":")[2]).exists()]
    return [*found, "x86isa"] if shutil.which("acl2") else found


def label_of(version: str) -> str:
    """Return the head of a judge's column: "QEMU 7.2.22 (TCG)" of what it says it is."""
    name, _, more = _CPUS.sub("", version).partition(", ")
    return f"{name} ({more})" if more else name


def documents(text: str) -> Iterator[dict[str, Any]]:
    """Yield JSON documents that stand one behind the other."""
    decoder, text = json.JSONDecoder(), text.lstrip()
    while text:
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].lstrip()


def said_of(document: dict[str, Any], judge: str) -> dict[str, int]:
    """Return how many probes of a case a judge answered in which way, from `judge --json`."""
    probes = [document] if "judged" in document else document["probes"]
    counts: Counter[str] = Counter()
    for each in probes:
        said = each["judged"][judge]
        status = said.get("verdict") or said["outcome"]
        status = "right" if status == "agreed" else status
        detail = said.get("known") or said.get("why")
        counts[f"{status.replace('_', ' ')}: {detail}" if detail else status] += 1
    return dict(sorted(counts.items()))


def asked(judge: str) -> tuple[str, dict[str, Any]]:
    """Ask a judge about all cases; return the head of its column, and the column."""
    names = paths()
    command = [sys.executable, "-m", "crosswalk", "judge", *(str(CASES / name) for name in names)]
    ran = subprocess.run(
        [*command, "--json", "--with", judge], capture_output=True, text=True, check=False, cwd=ROOT
    )
    found = list(documents(ran.stdout))
    if len(found) != len(names):
        raise SystemExit(f"{judge}: {ran.stderr.strip().splitlines()[-1]}")
    version = found[-1]["judges"][judge]["version"]
    cases = {
        name: {"of": digest_of(name), "said": said_of(document, judge)}
        for name, document in zip(names, found, strict=True)
    }
    return label_of(version), {"who": kind_of(judge, version), "cases": cases}


def columns(data: dict[str, Any]) -> Columns:
    """Return what each judge said of each case."""
    return {
        label: {name: case["said"] for name, case in column["cases"].items()}
        for label, column in data.items()
    }


def fresh(data: dict[str, Any]) -> dict[str, Any]:
    """Return the columns without cases that are gone, or have changed since they were asked."""
    there = set(paths())
    return {
        label: column
        | {
            "cases": {
                name: case
                for name, case in column["cases"].items()
                if name in there and case["of"] == digest_of(name)
            }
        }
        for label, column in data.items()
    }


def _order(column: tuple[str, object]) -> tuple[bool, str, list[int]]:
    label, _ = column
    kind = label.partition("(")[2]
    return (
        label[:7] != "Unicorn",
        label.split(maxsplit=1)[0] + kind,
        [int(n) for n in re.findall(r"\d+", label)],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask judges if so told, and write data and page; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/emulator-divergences", description=__doc__)
    parser.add_argument("--run", action="store_true", help="ask all judges that are at hand")
    parser.add_argument(
        "--with", action="append", default=[], dest="judges", metavar="J", help="ask this one"
    )
    options = parser.parse_args(arguments)
    data = json.loads(DATA.read_text("utf-8")) if DATA.exists() else {}
    for judge in [*(at_hand() if options.run else []), *options.judges]:
        label, column = asked(judge)
        print(f"{label}: {len(column['cases'])} cases", file=sys.stderr)
        data[label] = column
    data = dict(sorted(fresh(data).items(), key=_order))
    DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(known_page(columns(data)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
