"""Where the time of a fuzzing campaign goes: the command itself, measured from outside."""

import tempfile
from statistics import median
from typing import Any

from scripts.benchmarks.trees import Row, Tree

__all__ = ["PER_SECOND", "measured_campaigns", "show_campaigns"]

PER_SECOND = 100_000
"""The goal: probes a second of CPU time, of the command and its workers, all included."""

_PROBES = 1 << 21


def measured_campaigns(rounds: int, trees: list[Tree]) -> list[Row]:
    """Return for 1 and 2 workers, by tree, what a campaign of about 2^21 probes takes.

    Medians over runs by turns. Each tree runs its own default size of layouts.
    """
    runs: dict[tuple[str, int], list[Row]] = {}
    sizes = {tree.name: _accesses(tree) for tree in trees}
    for _ in range(rounds):
        for jobs in (1, 2):
            for tree in trees:
                made = _run(tree, jobs, max(1, _PROBES // sizes[tree.name]))
                runs.setdefault((tree.name, jobs), []).append(made)
    return [_row(name, jobs, sizes[name], found) for (name, jobs), found in runs.items()]


def _accesses(tree: Tree) -> int:
    module = tree.module("emu.fuzz.campaign")
    return int(tree.python(f"from {module} import Plan; print(Plan().accesses)"))


def _run(tree: Tree, jobs: int, cases: int) -> Row:
    with tempfile.TemporaryDirectory() as corpus:
        found = tree.run(
            *("fuzz", "--cases", str(cases), "--jobs", str(jobs), "--corpus", corpus, "--json")
        )
    if found["used"]["status"]:
        raise RuntimeError(f"the campaign found something: {found['summary']['findings']}")
    return found


def _row(name: str, jobs: int, accesses: int, runs: list[Row]) -> Row:
    def of(what: Any) -> float:
        return median(what(run["used"], run["summary"]) for run in runs)

    def cpu(used: Row) -> float:
        return float(used["parent"]["cpu"] + used["workers"]["cpu"])

    summary = runs[0]["summary"]
    return {
        "tree": name,
        "jobs": jobs,
        "accesses": accesses,
        "layouts": summary["layouts"],
        "probes": summary["probes"],
        "cells": sum(family["seen"] for family in summary["coverage"].values()),
        "probes_per_cpu_second": of(lambda used, summary: summary["probes"] / cpu(used)),
        "probes_per_second": of(lambda used, summary: summary["probes"] / used["wall"]),
        "layouts_per_second": of(lambda used, summary: summary["layouts"] / used["wall"]),
        "parent_cpu": of(lambda used, _: used["parent"]["cpu"]),
        "workers_cpu": of(lambda used, _: used["workers"]["cpu"]),
        "parent_peak_mib": of(lambda used, _: used["parent"]["peak_mib"]),
        "worker_peak_mib": of(lambda used, _: used["workers"]["peak_mib"]),
        "us_per_probe": {
            part: of(lambda _, summary, part=part: summary["parts"][part] / summary["probes"] * 1e6)
            for part in summary["parts"]
        },
    }


def show_campaigns(rows: list[Row]) -> None:
    """Print what was measured."""
    print("\ncampaigns: `crosswalk fuzz`, seed 0, start of the command to the verdict")
    for row in rows:
        print(
            f"  {row['tree']}, {row['jobs']} workers: {row['layouts']:,} layouts, "
            f"{row['probes']:,} probes, {row['cells']:,} cells"
        )
        print(
            f"    {row['probes_per_cpu_second']:,.0f} probes a second of CPU time, "
            f"{row['probes_per_second']:,.0f} and {row['layouts_per_second']:.1f} layouts "
            "a second of wall time"
        )
        parts = sorted(row["us_per_probe"].items(), key=lambda each: -each[1])
        total = sum(taken for _, taken in parts)
        shares = ", ".join(f"{part} {taken:.2f} ({taken / total:.0%})" for part, taken in parts)
        print(f"    workers, µs of wall time a probe: {shares}")
        print(
            f"    CPU seconds: parent {row['parent_cpu']:.2f}, workers {row['workers_cpu']:.2f}; "
            f"peak MiB: parent {row['parent_peak_mib']:.0f}, worker {row['worker_peak_mib']:.0f}"
        )
