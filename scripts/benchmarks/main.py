"""`scripts/bench`: the walk against the Heki walk in C, probes, campaigns, checks, formats."""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scripts.benchmarks.boots import judge_boots, measured_boots, show_boots
from scripts.benchmarks.campaign import PER_SECOND, measured_campaigns, show_campaigns
from scripts.benchmarks.cases import judge_cases, measured_cases, show_cases
from scripts.benchmarks.checks import judge_checks, measured_checks, show_checks
from scripts.benchmarks.contenders import (
    VOLATILITY,
    Contender,
    c_walks,
    checked,
    python_walks,
    volatility_walks,
)
from scripts.benchmarks.cwalk import CWalker, compiler_version
from scripts.benchmarks.delivery import judge_delivery, measured_delivery, show_delivery
from scripts.benchmarks.formats import measured_formats, show_formats
from scripts.benchmarks.images import IMAGES, Image, dense
from scripts.benchmarks.judges import default_judges, measured_judges, show_judges
from scripts.benchmarks.listings import judge_listings, measured_listings, show_listings
from scripts.benchmarks.measure import medians, peak_in_child
from scripts.benchmarks.probes import GOALS as PROBE_GOALS
from scripts.benchmarks.probes import PAGES, measured_probes, probe_scaling
from scripts.benchmarks.roots import judge_roots, measured_roots, show_roots
from scripts.benchmarks.spaces import judge_spaces, measured_spaces, show_spaces
from scripts.benchmarks.startup import judge_startup, measured_startup, show_startup
from scripts.benchmarks.trees import HERE, Tree

_COLUMNAR = ("walk_leaves", "with pa, size, flags", "coalesce_leaves")
_OBJECTS, _TUPLES = "mappings", "tuple generator"
_GOALS = {  # As multiples of C.
    ("dense", "walk_leaves"): 1.0,
    ("mixed", "walk_leaves"): 2.0,
    ("sparse", "walk_leaves"): 1.5,
    ("dense", "with pa, size, flags"): 2.0,
    ("dense", "coalesce_leaves"): 3.0,
    ("dense", "collective_rights"): 8.0,
    ("mixed", "collective_rights"): 8.0,
    ("random", "collective_rights"): 8.0,
}
_GOAL_OBJECTS, _GOAL_BYTES = 2.5, 24
_SMALL = 20_000

Row = dict[str, Any]


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns, smaller scaling series")
    parser.add_argument("--huge", action="store_true", help="go on to 10^7 leaves")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    parser.add_argument("--campaign", action="store_true", help="fuzzing campaigns, nothing else")
    parser.add_argument("--check", action="store_true", help="`crosswalk check`, nothing else")
    parser.add_argument("--delivery", action="store_true", help="exceptions, nothing else")
    parser.add_argument("--cases", action="store_true", help="small cases, nothing else")
    parser.add_argument("--spaces", action="store_true", help="many address spaces, nothing else")
    parser.add_argument("--roots", action="store_true", help="the search for roots, nothing else")
    parser.add_argument("--listings", action="store_true", help="lists of mappings, nothing else")
    parser.add_argument(
        "--boots",
        metavar="KERNEL",
        nargs="+",
        type=Path,
        help="boots of these kernels beside QEMU's, nothing else",
    )
    parser.add_argument("--startup", action="store_true", help="how long commands take to start")
    parser.add_argument(
        "--judges",
        metavar="J",
        nargs="*",
        help="judges, nothing else; those named as `crosswalk judge --with` has them, or all kinds",
    )
    parser.add_argument(
        "--formats",
        metavar="FILE",
        nargs="*",
        help="formats, nothing else: these files (FILE=MAP with its memory map), or samples",
    )
    parser.add_argument("--source", metavar="FILE", type=Path, help="with --check, check this, too")
    parser.add_argument(
        "--against", metavar="TREE", type=Path, help="another tree, by turns with this one"
    )
    options = parser.parse_args()
    trees = [Tree(HERE, "here")]
    if options.against is not None:
        try:
            trees.append(Tree(options.against, "there"))
        except ValueError as error:
            parser.error(str(error))
    measure = _everything
    for chosen, asked in (
        (_campaigns, options.campaign),
        (_checks, options.check),
        (_delivery, options.delivery),
        (_cases, options.cases),
        (_spaces, options.spaces),
        (_roots, options.roots),
        (_listings, options.listings),
        (_startup, options.startup),
        (_boots, options.boots is not None),
        (_judges, options.judges is not None),
        (_formats, options.formats is not None),
    ):
        measure = chosen if asked else measure
    try:
        document, show = measure(options, trees)
    except ValueError as error:
        parser.error(str(error))
    document = {"machine": _machine(), **document}
    if options.json:
        print(json.dumps(document))
    else:
        show(document)
    return 0


Measured = tuple[Row, Callable[[Row], None]]
"""A document, but for the machine, and what prints it for people."""


def _campaigns(options: argparse.Namespace, trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_campaigns(document["campaigns"])
        _show_goals(list(_judge_campaigns(document["campaigns"])))

    return {"campaigns": measured_campaigns(1 if options.quick else 5, trees)}, show


def _checks(options: argparse.Namespace, trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_checks(document["checks"])
        _show_goals(judge_checks(document["checks"]))

    rounds = 1 if options.quick else 3
    checks = measured_checks(rounds, trees, quick=options.quick, source=options.source)
    return {"checks": checks}, show


def _delivery(options: argparse.Namespace, trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_delivery(document["delivery"])
        _show_goals(judge_delivery(document["delivery"]))

    rounds = 1 if options.quick else 3
    return {"delivery": measured_delivery(rounds, trees, quick=options.quick)}, show


def _cases(options: argparse.Namespace, trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_cases(document["cases"])
        _show_goals(list(judge_cases(document["cases"])))

    count = 64 if options.quick else 256
    return {"cases": measured_cases(1 if options.quick else 3, trees, count=count)}, show


def _spaces(options: argparse.Namespace, _trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_spaces(document["spaces"])
        _show_goals(judge_spaces(document["spaces"]))

    return {"spaces": measured_spaces(3 if options.quick else 9)}, show


def _roots(options: argparse.Namespace, _trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_roots(document["roots"])
        _show_goals(judge_roots(document["roots"]))

    return {"roots": measured_roots(1 if options.quick else 3)}, show


def _listings(options: argparse.Namespace, trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_listings(document["listings"])
        _show_goals(judge_listings(document["listings"]))

    return {"listings": measured_listings(1 if options.quick else 3, trees)}, show


def _startup(options: argparse.Namespace, _trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_startup(document["startup"])
        _show_goals(judge_startup(document["startup"]))

    return {"startup": measured_startup(5 if options.quick else 21)}, show


def _boots(options: argparse.Namespace, trees: list[Tree]) -> Measured:
    def show(document: Row) -> None:
        show_boots(document["boots"])
        _show_goals(judge_boots(document["boots"]))

    return {"boots": measured_boots(options.boots, trees, quick=options.quick)}, show


def _judges(options: argparse.Namespace, _trees: list[Tree]) -> Measured:
    judges = options.judges or default_judges()
    found = measured_judges(1 if options.quick else 5, judges)
    return {"judges": found}, lambda document: show_judges(document["judges"])


def _formats(options: argparse.Namespace, _trees: list[Tree]) -> Measured:
    found = measured_formats(1 if options.quick else 3, options.formats)
    return {"formats": found}, lambda document: show_formats(document["formats"])


def _everything(options: argparse.Namespace, trees: list[Tree]) -> Measured:
    rounds = 5 if options.quick else 21
    c = None
    if compiler_version() is None:
        print("bench: no C compiler (cc, gcc, clang): no ratios to C", file=sys.stderr)
    else:
        c = CWalker()
    document: Row = {"images": [], "scaling": []}
    for build in IMAGES.values():
        document["images"].append(_compare(build(), c, rounds))
    top = 7 if options.huge else 5 if options.quick else 6
    for power in range(3, top + 1):
        document["scaling"].append(_scale(dense(10**power), c, rounds))
    document["peers"] = _peers(c)
    print("bench: probes", file=sys.stderr)
    document["probes"] = measured_probes(5 if options.quick else 15)
    document["probe_scaling"] = probe_scaling(5)
    print("bench: campaigns", file=sys.stderr)
    document["campaigns"] = measured_campaigns(1 if options.quick else 5, trees)
    document["goals"] = [
        *_judge(document["images"]),
        *_judge_probes(document["probes"]),
        *_judge_campaigns(document["campaigns"]),
    ]
    return document, _show


def _machine() -> Row:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    found = {"cpu": f"{cpu[0]}, {len(cpu)} cores" if cpu else platform.processor()}
    found |= {"python": platform.python_version(), "numpy": version("numpy")}
    found["cc"] = compiler_version() or "none"
    try:
        found["volatility3"] = version("volatility3")
    except PackageNotFoundError:
        found["volatility3"] = "not installed"
    return found


def _compare(image: Image, c: CWalker | None, rounds: int) -> Row:
    _progress(image)
    contenders = _contenders(image, c)
    sums = checked(contenders, image)
    rows = _rows(medians(contenders, image, rounds), image)
    for row in rows:
        if row["name"] in _COLUMNAR:
            row["peak_bytes_per_leaf"] = peak_in_child(image.name, row["name"]) / image.leaves
    size = image.words.nbytes >> 20
    return {
        "name": image.name,
        "leaves": image.leaves,
        "mib": size,
        "ranges": sums["ranges"],
        "rows": rows,
    }


def _scale(image: Image, c: CWalker | None, rounds: int) -> Row:
    _progress(image)
    chosen = [it for it in _contenders(image, c) if it.name in {"C", *_COLUMNAR}]
    checked(chosen, image)
    return {"leaves": image.leaves, "rows": _rows(medians(chosen, image, rounds), image)}


def _peers(c: CWalker | None) -> list[Row]:
    """Measure other people's walkers on a small image; the time of a mapping stands for all."""
    others = volatility_walks()
    if not others:
        return []
    image = dense(_SMALL)
    contenders = [it for it in _contenders(image, c) if it.name in {"C", "walk_leaves"}]
    contenders += others
    checked(contenders, image)
    return _rows(medians(contenders, image, 5), image)


def _progress(image: Image) -> None:
    print(f"bench: {image.name}, {image.leaves:,} leaves", file=sys.stderr)


def _contenders(image: Image, c: CWalker | None) -> list[Contender]:
    if c is None:
        return python_walks()
    c.reserve(image)
    return c_walks(c) + python_walks()


def _rows(seconds: dict[str, float], image: Image) -> list[Row]:
    rows = []
    for name, taken in seconds.items():
        row: Row = {"name": name, "ns_per_leaf": taken / image.leaves * 1e9}
        if "C" in seconds:
            row["of_c"] = taken / seconds["C"]
        if "C, quicker callback" in seconds:
            row["of_quicker_c"] = taken / seconds["C, quicker callback"]
        rows.append(row)
    return rows


def _judge(images: list[Row]) -> Any:
    """Yield the goals of walks: name, value found, upper bound."""
    for image in images:
        rows = {row["name"]: row for row in image["rows"]}
        for name, row in rows.items():
            goal = _GOALS.get((image["name"], name))
            if goal is not None and "of_c" in row:
                yield {"goal": f"{name}, {image['name']}", "found": row["of_c"], "most": goal}
        if image["name"] == "dense":
            found = rows[_OBJECTS]["ns_per_leaf"] / rows[_TUPLES]["ns_per_leaf"]
            yield {"goal": "mappings, of tuples", "found": found, "most": _GOAL_OBJECTS}
            found = rows["walk_leaves"]["peak_bytes_per_leaf"]
            yield {"goal": "lean peak, bytes a leaf", "found": found, "most": _GOAL_BYTES}


def _judge_probes(rows: list[Row]) -> Any:
    """Yield the goals of probes: the same."""
    for row in rows:
        if row["name"] in PROBE_GOALS:
            most = PROBE_GOALS[row["name"]]
            yield {"goal": f"probes: {row['name']}", "found": row["of_loop"], "most": most}


def _judge_campaigns(rows: list[Row]) -> Any:
    """Yield the goals of campaigns, as µs of CPU time a probe."""
    for row in rows:
        if row["tree"] == "here":
            found = 1e6 / row["probes_per_cpu_second"]
            most = 1e6 / PER_SECOND
            yield {"goal": f"campaign, {row['jobs']} workers, µs", "found": found, "most": most}


def _show_probes(rows: list[Row]) -> None:
    print(f"\nprobes: {PAGES:,} pages, ns a probe; × is the engine's time of a bare guest loop's")
    print(f"  {'':<24}{'engine':>10}{'×':>8}{'run':>10}{'probe':>10}{'one a call':>12}")
    for row in rows:
        cells = [row.get(name) for name in ("of_loop", "run_ns", "probe_ns", "alone_ns")]
        times, run, probe, alone = ("" if cell is None else f"{cell:,.2f}" for cell in cells)
        print(
            f"  {row['name']:<24}{row['engine_ns']:>10,.1f}{times:>8}{run:>10}{probe:>10}", end=""
        )
        print(f"{alone:>12}")


def _show(document: Row) -> None:
    for name, what in document["machine"].items():
        print(f"{name}: {what}")
    for image in document["images"]:
        print(
            f"\n{image['name']}: {image['leaves']:,} leaves, {image['mib']} MiB of tables, ", end=""
        )
        print(f"{image['ranges']:,} ranges")
        _table(image["rows"])
    print("\nscaling, dense: ns a leaf")
    names = [row["name"] for row in document["scaling"][0]["rows"]]
    print("".join(f"{name:>24}" for name in ["leaves", *names]))
    for series in document["scaling"]:
        cells = [f"{series['leaves']:,}", *(f"{row['ns_per_leaf']:.1f}" for row in series["rows"])]
        print("".join(f"{cell:>24}" for cell in cells))
    if document["peers"]:
        print(f"\n{VOLATILITY}: {_SMALL:,} dense leaves, and per mapping from there")
        _table(document["peers"])
    _show_probes(document["probes"])
    print("\nprobes, half of which fault, ns each: ", end="")
    series = document["probe_scaling"]
    print(", ".join(f"{row['probes']:,}: {row['probe_ns']:,.0f}" for row in series))
    show_campaigns(document["campaigns"])
    _show_goals(document["goals"])


def _show_goals(goals: list[Row]) -> None:
    print("\ngoals")
    for goal in goals:
        result = "met" if goal["found"] <= goal["most"] else "MISSED"
        print(f"  {goal['goal']:<38}{goal['found']:>8.2f} of {goal['most']:<6}{result}")


def _table(rows: list[Row]) -> None:
    print(f"  {'':<24}{'ns/leaf':>12}{'× C':>10}{'× quicker C':>14}{'peak B/leaf':>14}")
    for row in rows:
        cells = (row.get("of_c"), row.get("of_quicker_c"), row.get("peak_bytes_per_leaf"))
        texts = ["" if cell is None else f"{cell:,.2f}" for cell in cells]
        print(f"  {row['name']:<24}{row['ns_per_leaf']:>12,.1f}", end="")
        print(f"{texts[0]:>10}{texts[1]:>14}{texts[2]:>14}")


if __name__ == "__main__":
    sys.exit(main())
