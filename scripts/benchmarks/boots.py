"""Boots of Linux: the CPU time beside QEMU TCG's, between the same two lines of the console.

Both boot the same kernel with the same arguments, initial RAM disk and RAM, by turns. From the
first line that the kernel prints to the line asked for: start-up, firmware, the loader and the
decompression of the kernel are left out on both sides, and so are checks.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from scripts.benchmarks.trees import Row, Tree
from scripts.upkeep.qemu_boots import find_qemu, times_at

__all__ = ["LINE", "MOST", "judge_boots", "measured_boots", "show_boots"]

MOST = 2.0
"""The goal: times QEMU's CPU time."""

FIRST, LINE = "Linux version", "Run /init"
"""The first line, and the one that ends a boot."""

_RAM = 256
_PATIENCE = 600.0
_TURNS = 3

# In any tree that boots kernels: the arguments of a boot, then seconds of CPU time at both lines.
_BOOT = r"""
import importlib, json, sys, time
from pathlib import Path
prefix, kernel, line, ram = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
module = lambda name: importlib.import_module(prefix + name)
linux = module("emu.load.linux.guest")
initrd = module("guest.init").init_archive()
if line == "":
    Path(kernel).write_bytes(initrd)
    print(json.dumps({"arguments": linux.ARGUMENTS}))
    raise SystemExit
image = module("emu.load.linux.image").load_kernel(Path(kernel))
first = []
def shown(text):
    if not first:
        first.append(time.process_time())
Boot, Ram = module("emu.load.boot").Boot, module("emu.cpu.ram").Ram
boot = Boot(Ram(0, ram << 20), linux.LinuxGuest(image, initrd), on_line=shown)
point = module("emu.load.points").parse_point("console:" + line)
for reached in boot.run([], point, 600):
    print(json.dumps({"seconds": time.process_time() - first[0]}))
"""


def measured_boots(kernels: Sequence[Path], trees: Sequence[Tree], *, quick: bool) -> list[Row]:
    """Boot each kernel in each tree and in QEMU, by turns; return a row for each tree and kernel.

    `seconds` and `qemu` are medians of CPU seconds; the latter is missing without a QEMU.
    """
    qemu = find_qemu()
    rows = []
    for kernel in kernels:
        taken: dict[str, list[float]] = {tree.name: [] for tree in trees}
        theirs: list[float] = []
        for _ in range(1 if quick else _TURNS):
            for tree in trees:
                print(f"bench: boot of {kernel.name}, {tree.name}", file=sys.stderr)
                taken[tree.name].append(_booted(tree, kernel, LINE)["seconds"])
            seconds = None if qemu is None else _qemu_seconds(qemu, kernel, trees[0])
            if seconds is not None:
                theirs.append(seconds)
        for name, turns in taken.items():
            row: Row = {"kernel": kernel.name, "tree": name, "seconds": median(turns)}
            if theirs:
                row |= {"qemu": median(theirs), "of_qemu": row["seconds"] / median(theirs)}
            rows.append(row)
    return rows


def _booted(tree: Tree, kernel: Path, line: str) -> Row:
    prefix = tree.module("x").removesuffix("x")
    found: Row = json.loads(tree.python(_BOOT, prefix, str(kernel.resolve()), line, str(_RAM)))
    return found


def _qemu_seconds(qemu: str, kernel: Path, tree: Tree) -> float | None:
    print(f"bench: boot of {kernel.name}, QEMU", file=sys.stderr)
    with TemporaryDirectory() as folder:
        initrd = Path(folder) / "initrd"
        said = _booted(tree, initrd, "")
        command = [
            qemu,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "pc", "-accel", "tcg,thread=single", "-smp", "1"),
            *("-cpu", "Icelake-Server", "-m", str(_RAM), "-serial", "stdio"),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-append", said["arguments"]),
        ]
        times = times_at(command, (FIRST, LINE), _PATIENCE)
    if len(times) < 2:
        print(f"bench: QEMU doesn't come to {(FIRST, LINE)[len(times)]!r}", file=sys.stderr)
        return None
    return times[1] - times[0]


def judge_boots(rows: Sequence[Row]) -> list[Row]:
    """Return the goals of boots: name, value found, upper bound."""
    return [
        {"goal": f"{row['kernel']}, × QEMU TCG", "found": row["of_qemu"], "most": MOST}
        for row in rows
        if row["tree"] == "here" and "of_qemu" in row
    ]


def show_boots(rows: Sequence[Row]) -> None:
    """Print what was measured."""
    print(f"\nboots: CPU seconds from {FIRST!r} to {LINE!r}")
    print(f"  {'kernel':<40}{'tree':<8}{'here':>8}{'QEMU':>8}{'× QEMU':>9}")
    for row in rows:
        theirs = f"{row['qemu']:>8.2f}{row['of_qemu']:>9.2f}" if "of_qemu" in row else ""
        print(f"  {row['kernel']:<40}{row['tree']:<8}{row['seconds']:>8.2f}{theirs}")
