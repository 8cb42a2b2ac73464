"""Time and memory of `crosswalk check`: the command itself, measured from outside."""

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from scripts.benchmarks.images import dense, mixed
from scripts.benchmarks.trees import Row, Tree

__all__ = ["PEAK_MIB", "judge_checks", "measured_checks", "show_checks"]

PEAK_MIB = 600
"""The goal: the peak of any process of a check, whatever the number of mappings."""


def measured_checks(
    rounds: int, trees: list[Tree], *, quick: bool, source: Path | None = None
) -> list[Row]:
    """Return what checks of made images take, with 1 and 2 processes; of `source` as well.

    Medians over runs by turns of the trees.
    """
    images = [dense(100_000, "dense")] if quick else [dense(), mixed()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for image in images:
            path = Path(folder) / image.name
            image.words.tofile(path)
            # With room for the tables' own entries.
            limit = str(2 * image.leaves)
            rows += _by_turns(
                rounds, image.name, [str(path), "--cr3", "0", "--limit", limit], trees
            )
        if source is not None:
            rows += _by_turns(rounds, source.name, [str(source.resolve())], trees)
    return rows


def _by_turns(rounds: int, image: str, arguments: list[str], trees: list[Tree]) -> list[Row]:
    runs: dict[tuple[str, int], list[Row]] = {}
    for _ in range(rounds):
        for jobs in (1, 2):
            for tree in trees:
                print(f"bench: check, {image}, {tree.name}, {jobs} processes", file=sys.stderr)
                found = _run(tree, [*arguments, "--jobs", str(jobs)])
                runs.setdefault((tree.name, jobs), []).append(found)
    return [_row(image, tree, jobs, found) for (tree, jobs), found in runs.items()]


def _run(tree: Tree, arguments: list[str]) -> Row:
    found = tree.run("check", *arguments, "--json")
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
    """Return the goals of checks: name, value found, upper bound."""
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
            f"  {row['image']:<24}{row['tree']:<7}{row['jobs']:>5}{row['probes']:>13,}"
            f"{row['wall']:>9.1f}{row['cpu']:>9.1f}{row['probes_per_cpu_second']:>14,.0f}"
            f"{row['parent_peak_mib']:>12,.0f}{row['worker_peak_mib']:>12,.0f}"
        )
