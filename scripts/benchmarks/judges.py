"""How fast judges are: accesses a second without boots, and boots; small cases and large ones.

Each judge is measured in a process of its own. All are asked the same: portable layouts of 4-level
paging, on a CPU of Intel's with 40 bits, without protection keys, so that all can answer; and no
fetch of the last bytes of the address space, of which QEMU dies. KVM is asked no fetches: where it
has no page tables of the processor's to use, its emulator fails at them, and QEMU waits.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np

from crosswalk.emu.check.judged import Status, access_verdicts, kind_of
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.fuzz.generate.shares import Share
from crosswalk.emu.judges.asked import Registers
from crosswalk.emu.judges.booted import BootedJudge
from crosswalk.emu.judges.judge import Judge, Question
from crosswalk.emu.judges.registry import open_judge, open_machine
from crosswalk.emu.machines.iso import judges_folder
from crosswalk.emu.machines.machine import ANY_CPU, CpuWish, Machine, Printed
from crosswalk.guest.boot.image import Place, boot_image
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingMode, Vendor
from crosswalk.walker.errors import BadInput
from scripts.benchmarks.trees import Row

__all__ = ["default_judges", "measured_judges", "show_judges"]

_SERIAL = (
    "exec:qemu-system-x86_64 -cpu max,vendor=GenuineIntel -m 4096 -display none -serial stdio "
    "-no-reboot -kernel {image}"
)
_BASE = 0x800_0000
_SHAPES = {"small": (256, 15), "large": (4, 4096)}
"""Address spaces, and accesses in each."""


def default_judges() -> list[str]:
    """Return all kinds of judges, those that scripts/judges fetched by their paths."""
    fetched = judges_folder()
    bochs = [f"bochs:{path}" for path in sorted(fetched.glob("bochs-*/bochs"))] or ["bochs"]
    acl2 = [f"x86isa:{path}" for path in fetched.glob("acl2/acl2")] or ["x86isa"]
    return ["unicorn", "qemu", _SERIAL, "qemu-mttcg", "kvm", *bochs, *acl2]


def measured_judges(rounds: int, judges: list[str]) -> list[Row]:
    """Return for each judge what it takes, or why it wasn't measured: it can't be had, or fails."""
    found = []
    for name in judges:
        print(f"bench: {name}", file=sys.stderr)
        command = [sys.executable, "-m", "scripts.benchmarks.judges", name, str(rounds)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            found.append({"judge": name, "missing": said[-1]})
        else:
            found.append(json.loads(done.stdout))
    return found


class _Counted:
    """A machine whose boots are counted."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self.boots = machine, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def boot(self, image: bytes, *, seconds: float, wish: CpuWish = ANY_CPU) -> Printed:
        self.boots += 1
        return self._machine.boot(image, seconds=seconds, wish=wish)


def _measured(name: str, rounds: int) -> Row:
    try:
        if name == "unicorn" or kind_of(name) == "x86isa":
            machine, judge = None, open_judge(name)
        else:
            machine = _Counted(open_machine(name))
            judge = BootedJudge(cast("Machine", machine))
        began = _taken()
        judge.accesses(_questions(1, 1, fetches=False))
        start = [now - then for now, then in zip(_taken(), began, strict=True)]
    except BadInput as error:
        return {"judge": name, "missing": str(error)}
    if machine is not None:
        image = boot_image([], Place(_BASE), machine.output)
        boots = [_timed(lambda: machine.boot(image, seconds=60.0)) for _ in range(rounds)]
        start = [median(each) for each in zip(*boots, strict=True)]
    row: Row = {"judge": name, "version": judge.version}
    row |= {"start_cpu": start[0], "start_wall": start[1], "shapes": {}}
    for shape, (count, size) in _SHAPES.items():
        asked = _questions(count, size, fetches=kind_of(name) != "kvm")
        row["shapes"][shape] = _shape(judge, machine, asked, rounds, start)
    who = resource.RUSAGE_SELF if name == "unicorn" else resource.RUSAGE_CHILDREN
    ended = resource.getrusage(who).ru_maxrss
    row["peak_mib"] = max([ended, *map(_peak, _below(os.getpid()))]) / 1024
    judge.close()
    return row


def _shape(
    judge: Judge,
    machine: _Counted | None,
    questions: list[Question],
    rounds: int,
    start: list[float],
) -> Row:
    """Return what these questions take; `start` is CPU and wall time of a boot."""
    statuses: list[Status] = []
    for question, judged in zip(questions, judge.accesses(questions), strict=True):
        who = "qemu" if judge.name == _SERIAL else kind_of(judge.name)
        verdicts = access_verdicts(question, judged, who).verdicts
        statuses += map(Status, verdicts.status.tolist())
    if Status.ENDED in statuses:  # What a death takes is no speed.
        raise ValueError(f"{judge.name}: ended {statuses.count(Status.ENDED)} times")
    answered = sum(each.answered for each in statuses)
    before = machine.boots if machine else 0
    times = [_timed(lambda: judge.accesses(questions)) for _ in range(rounds)]
    boots = (machine.boots - before) / rounds if machine else 0
    cpu, wall = (median(each) for each in zip(*times, strict=True))
    return {
        "asked": len(statuses),
        "answered": answered,
        "diverged": statuses.count(Status.DIVERGED),
        "boots": boots,
        "cpu": cpu,
        "wall": wall,
        "accesses_a_cpu_second": answered / (cpu - boots * start[0]),
    }


def _timed(work: Callable[[], object]) -> list[float]:
    before = _taken()
    work()
    return [now - then for now, then in zip(_taken(), before, strict=True)]


def _taken() -> list[float]:
    """Return seconds of CPU time of this process and all below it, and on the clock."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = sum(_ticks(each) for each in _below(os.getpid())) / os.sysconf("SC_CLK_TCK")
    return [
        time.process_time() + ended.ru_utime + ended.ru_stime + alive,
        time.perf_counter(),
    ]


def _below(process: int) -> Iterator[int]:
    """Yield the processes below one that live."""
    for each in Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split():
        yield int(each)
        yield from _below(int(each))


def _ticks(process: int) -> int:
    """Return the ticks of CPU time of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _peak(process: int) -> int:
    """Return the most memory that a living process had, in KiB; 0 for one that has just ended."""
    status = Path(f"/proc/{process}/status").read_text("utf-8", errors="replace")
    words = status.partition("VmHWM:")[2].split()
    return int(words[0]) if words else 0


def _questions(count: int, size: int, *, fetches: bool = True) -> list[Question]:
    """Return so many address spaces, each with up to so many accesses."""
    found: list[Question] = []
    choice = LayoutChoice(portable=True)
    for index in range(64 * count):
        made = generate(
            0, index, accesses=max(size, 48), share=Share(PagingMode.LEVEL4), choice=choice
        )
        try:
            context = replace(made.context, vendor=Vendor.INTEL, maxphyaddr=40, page1gb=True)
        except BadInput:
            continue
        features = {name for name, _ in Registers.of(context).features}
        if context.encryption_mask or not features <= {"smep", "smap", "nx"}:
            continue
        found.append(
            Question(made.memory(), context, _askable(made.accesses, size, fetches=fetches))
        )
        if len(found) == count:
            return found
    raise ValueError(f"only {len(found)} of {count} layouts can be put to all judges")


def _askable(accesses: Accesses, size: int, *, fetches: bool) -> Accesses:
    """Return some, but for addresses that aren't canonical, and for fetches that end QEMU."""
    high = accesses.va >> np.uint64(47)
    asked = (high == 0) | (high == np.uint64((1 << 17) - 1))
    fine = accesses.va < np.uint64((1 << 64) - 16) if fetches else np.zeros(len(high), np.bool_)
    asked &= (accesses.type != AccessType.EXECUTE) | fine
    return accesses.take(np.flatnonzero(asked)[:size])


def show_judges(rows: list[Row]) -> None:
    """Print what was measured, as a table of Markdown; ratios are to the first judge."""
    print("\njudges: accesses a second of CPU time, boots left out; × is that of the first")
    print("| judge | boot, CPU s | boot, s | small cases | × | large layouts | × | peak MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    first = next((row for row in rows if "shapes" in row), None)
    for row in rows:
        if "shapes" not in row:
            print(f"| {kind_of(row['judge'])} | not measured: {row['missing']} |")
            continue
        cells = []
        for shape in _SHAPES:
            speed = row["shapes"][shape]["accesses_a_cpu_second"]
            ratio = speed / first["shapes"][shape]["accesses_a_cpu_second"] if first else 1.0
            cells += [f"{speed:,.0f}", f"{ratio:.3g}"]
        boot = f"{row['start_cpu']:.2f} | {row['start_wall']:.2f}"
        name = kind_of(row["judge"])
        print(
            f"| {name}: {row['version']} | {boot} | {' | '.join(cells)} | {row['peak_mib']:,.0f} |"
        )
    for row in rows:
        for shape, found in row.get("shapes", {}).items():
            if found["diverged"]:
                print(f"{kind_of(row['judge'])}, {shape}: {found['diverged']:,} diverged")


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1], int(sys.argv[2]))))
