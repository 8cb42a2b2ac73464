"""Time and memory: side by side, by turns, medians."""

import ctypes
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from statistics import median
from time import thread_time

from scripts.benchmarks.contenders import Contender, python_walks
from scripts.benchmarks.images import IMAGES, Image

__all__ = ["medians", "peak_in_child"]

_PATIENCE = 2.0
"""After so many seconds in all, a contender has had its turns."""


def medians(contenders: Iterable[Contender], image: Image, rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each, all run by turns in this thread.

    CPU time, so that other processes don't count. Slow contenders have
    fewer turns.
    """
    _keep_heap()
    taken: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    for contender in taken:
        contender.run(image)
    for _ in range(rounds):
        for contender, times in taken.items():
            if sum(times) > _PATIENCE:
                continue
            start = thread_time()
            found = contender.run(image)
            times.append(thread_time() - start)
            del found  # Let go of before the next one runs.
    return {contender.name: median(times) for contender, times in taken.items()}


def _keep_heap() -> None:
    """Have glibc keep what is freed, where glibc it is.

    C writes into an array that was touched before. What others allocate comes from the system
    page by page or not, depending on what ran before them; so let it not do so for anybody.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def peak_in_child(image: str, contender: str) -> int:
    """Return the peak of what one run in a fresh process allocates, in bytes."""
    command = [sys.executable, "-m", "scripts.benchmarks.measure", image, contender]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def _peak(image: Image, contender: Contender) -> int:
    # tracemalloc sees what Python and numpy allocate, and no page of the image itself.
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = contender.run(image)
    _, peak = tracemalloc.get_traced_memory()
    del kept
    return peak - before


if __name__ == "__main__":
    chosen = {contender.name: contender for contender in python_walks()}[sys.argv[2]]
    print(_peak(IMAGES[sys.argv[1]](), chosen))
