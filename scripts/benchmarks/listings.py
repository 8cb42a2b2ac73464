"""`crosswalk walk` and `frames`, whole commands, beside a plain loop that writes the same lines."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from scripts.benchmarks.images import Image, dense, random_frames
from scripts.benchmarks.trees import Tree

__all__ = ["judge_listings", "measured_listings", "show_listings"]

_FORMS: dict[str, tuple[str, ...]] = {
    "text": ("walk",),
    "json": ("walk", "--json"),
    "coalesced": ("walk", "--coalesce"),
    "csv": ("walk", "--format", "csv"),
    "parquet": ("walk", "--format", "parquet"),
    "arrow": ("walk", "--format", "arrow"),
    "frames": ("frames",),
}
_PEERS = ("text", "json", "coalesced")
_OLD = (*_PEERS, "frames")
"""What older trees have, too."""
_PEER = "scripts.benchmarks.plain_listing"
# Runs a command with its standard output in a file, and prints what the process took.
_WRAPPER = """
import importlib, json, os, resource, sys
shown = os.dup(1)
os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
status = importlib.import_module(sys.argv[2]).main(sys.argv[3:])
sys.stdout.flush()
usage = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss: that counts the process that started this one, too.
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
seconds = usage.ru_utime + usage.ru_stime
found = {"status": status, "seconds": seconds, "mib": int(peak[0]) / 1024}
os.write(shown, json.dumps(found).encode())
"""
_GOALS = {"text": 1.5, "json": 2.5, "coalesced": 1.5, "csv": 1.0, "parquet": 1.0, "arrow": 1.0}
"""As multiples of the loop that writes the same; of the one that writes text for tables."""

Row = dict[str, Any]


def measured_listings(turns: int, trees: list[Tree], *, count: int = 1_000_000) -> list[Row]:
    """Return CPU seconds and peak memory of each command, by turns with its peer.

    `AssertionError` where two of them write different bytes.
    """
    rows = []
    for image in (dense(count), random_frames(count)):
        print(f"bench: listings, {image.name}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            rows += _of_image(image, Path(folder), turns, trees)
    return rows


def _of_image(image: Image, folder: Path, turns: int, trees: list[Tree]) -> list[Row]:
    path, out = folder / "image.raw", folder / "out"
    path.write_bytes(image.words.tobytes())
    runs: dict[tuple[str, str], Callable[[Path], Row]] = {}
    for form in _PEERS:
        runs[form, "loop"] = partial(_run, trees[0], _PEER, [str(path), form])
    for tree in trees:
        for form, words in _FORMS.items():
            if tree is trees[0] or form in _OLD:
                command = [*words, str(path), "--kind", "raw", "--cr3", "0"]
                module = tree.module("emu.cli.main")
                runs[form, tree.name] = partial(_run, tree, module, command)
    written: dict[str, str] = {}
    for (form, who), run in runs.items():
        run(out)
        digest = sha256(out.read_bytes()).hexdigest()
        if written.setdefault(form, digest) != digest:
            raise AssertionError(f"{image.name}, {form}: {who} writes other bytes")
    found: dict[tuple[str, str], list[Row]] = {each: [] for each in runs}
    for _ in range(turns):
        for each, run in runs.items():
            # Nowhere: a plain loop writes 8 KiB at a time, which costs more or less by the disk.
            found[each].append(run(Path(os.devnull)))
    return [_row(image, form, found) for form in _FORMS]


def _row(image: Image, form: str, found: dict[tuple[str, str], list[Row]]) -> Row:
    def seconds(form: str, who: str) -> float:
        return median(row["seconds"] for row in found[form, who])

    row: Row = {"image": image.name, "mappings": image.leaves, "form": form}
    row["loop"] = seconds(form if form in _PEERS else "text", "loop")
    for who in ("here", "there"):
        if (form, who) in found:
            row[who] = seconds(form, who)
            row[f"{who} mib"] = max(each["mib"] for each in found[form, who])
    return row


def _run(tree: Tree, module: str, arguments: list[str], out: Path) -> Row:
    """Return CPU seconds and peak memory of a command, whose output goes to `out`."""
    found: Row = json.loads(tree.python(_WRAPPER, str(out), module, *arguments))
    if found["status"]:
        raise AssertionError(f"{' '.join(arguments)}: status {found['status']}")
    return found


def show_listings(rows: list[Row]) -> None:
    """Print the times and their ratios."""
    print("lists: CPU seconds of whole commands, × a plain loop that writes f-strings, peak MiB\n")
    heads = ("image", "list", "loop", "here", "×", "MiB", "there", "×", "MiB")
    print("".join(f"{head:>11}" for head in heads))
    for row in rows:
        cells = [row["image"], row["form"], f"{row['loop']:.2f}"]
        for who in ("here", "there"):
            if who in row:
                ratio = row[who] / row["loop"]
                cells += [f"{row[who]:.2f}", f"{ratio:.2f}", f"{row[f'{who} mib']:.0f}"]
        print("".join(f"{cell:>11}" for cell in cells))


def judge_listings(rows: list[Row]) -> list[Row]:
    """Return the goals of lists: what, found, meant."""
    return [
        {
            "goal": f"{row['form']}, {row['image']}, × a loop",
            "found": row["here"] / row["loop"],
            "most": _GOALS[row["form"]],
        }
        for row in rows
        if row["form"] in _GOALS
    ]
