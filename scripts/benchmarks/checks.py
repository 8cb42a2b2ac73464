"""Time and memory of `crosswalk check`: the command itself, measured from outside."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from scripts.benchmarks.images import Image, dense, mixed

__all__ = ["PEAK_MIB", "judge_checks", "measured_checks", "show_checks"]

PEAK_MIB = 600
"""The goal: the peak of any process of a check, whatever the number of mappings."""

_HERE = Path(__file__).parents[2]
# Runs the command in a process of its own, and tells what that and its children took.
_WRAPPER = """
import contextlib, io, json, resource, sys, time
from crosswalk.emu.cli.main import main
began, out = time.perf_counter(), io.StringIO()
with contextlib.redirect_stdout(out):
    status = main(sys.argv[1:])
used = {"wall": time.perf_counter() - began, "status": status}
for name, who in ("parent", resource.RUSAGE_SELF), ("workers", resource.RUSAGE_CHILDREN):
    usage = resource.getrusage(who)
    used[name] = {"cpu": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
print(json.dumps({"used": used, "summary": json.loads(out.getvalue())}))
"""

Row = dict[str, Any]


def measured_checks(
    rounds: int, *, quick: bool, source: Path | None = None, against: Path | None = None
) -> list[Row]:
    """Return what checks of made images take, with 1 and 2 processes; of `source` as well.

    Medians over runs by turns. `against` is another tree of this project, to be measured beside
    this one, as many processes as it takes by itself.
    """
    images = [dense(100_000, "dense")] if quick else [dense(), mixed()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for image in images:
            path = Path(folder) / image.name
            image.words.tofile(path)
            rows += _by_turns(
                rounds, image.name, [str(path), "--cr3", "0", *_limit(image)], against
            )
        if source is not None:
            rows += _by_turns(rounds, source.name, [str(source.resolve())], against)
    return rows


def _limit(image: Image) -> list[str]:
    # With room for the tables' own entries, which a tree without --limit N would refuse.
    return ["--limit", str(2 * image.leaves)]


def _by_turns(rounds: int, name: str, arguments: list[str], against: Path | None) -> list[Row]:
    ways: list[tuple[str, Path, int]] = [("here", _HERE, jobs) for jobs in (1, 2)]
    if against is not None:
        ways.append(("there", against.resolve(), 0))
    runs: dict[tuple[str, int], list[Row]] = {}
    for _ in range(rounds):
        for tree, folder, jobs in ways:
            extra = ["--jobs", str(jobs)] if jobs else []
            print(f"bench: check, {name}, {tree}, {jobs or 'its own'} processes", file=sys.stderr)
            found = _run(folder, [*arguments, *extra])
            runs.setdefault((tree, jobs), []).append(found)
    return [_row(name, tree, jobs, found) for (tree, jobs), found in runs.items()]


def _run(tree: Path, arguments: list[str]) -> Row:
    done = subprocess.run(
        [sys.executable, "-c", _WRAPPER, "check", *arguments, "--json"],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
    )
    found: Row = json.loads(done.stdout)
    if found["used"]["status"]:
        raise RuntimeError(f"the check found something: {found['summary']}")
    return found


def _row(name: str, tree: str, jobs: int, runs: list[Row]) -> Row:
    def of(*keys: str) -> float:
        values = []
        for run in runs:
            value: Any = run["used"]
            for key in keys:
                value = value[key]
            values.append(value)
        return float(median(values))

    cpu = of("parent", "cpu") + of("workers", "cpu")
    probes = runs[0]["summary"]["probes"]
    return {
        "image": name,
        "tree": tree,
        "jobs": jobs,
        "probes": probes,
        "wall": of("wall"),
        "cpu": cpu,
        "probes_per_cpu_second": probes / cpu,
        "parent_peak_mib": of("parent", "peak_mib"),
        "worker_peak_mib": of("workers", "peak_mib"),
    }


def judge_checks(rows: list[Row]) -> list[Row]:
    """Return the goals of checks: what, found, meant."""
    return [
        {
            "goal": f"check, {row['image']}, {row['jobs']} processes, peak MiB",
            "found": max(row["parent_peak_mib"], row["worker_peak_mib"]),
            "most": PEAK_MIB,
        }
        for row in rows
        if row["tree"] == "here"
    ]


def show_checks(rows: list[Row]) -> None:
    """Print what was measured."""
    print("\nchecks: `crosswalk check`, start of the command to the verdict")
    print(
        f"  {'image':<24}{'tree':<7}{'jobs':>5}{'probes':>13}{'wall s':>9}{'CPU s':>9}"
        f"{'a CPU second':>14}{'parent MiB':>12}{'worker MiB':>12}"
    )
    for row in rows:
        print(
            f"  {row['image']:<24}{row['tree']:<7}{row['jobs'] or '':>5}{row['probes']:>13,}"
            f"{row['wall']:>9.1f}{row['cpu']:>9.1f}{row['probes_per_cpu_second']:>14,.0f}"
            f"{row['parent_peak_mib']:>12,.0f}{row['worker_peak_mib']:>12,.0f}"
        )
