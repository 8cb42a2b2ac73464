"""What each format of memory takes: peak memory, the first mapping, the whole walk."""

import bz2
import gzip
import json
import lzma
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import lz4.frame
import numpy as np
import zstandard

from crosswalk.walker.formats.corewriter import CoreState, core_parts
from crosswalk.walker.memory import FRAME, Segments
from scripts.benchmarks.images import IMAGES
from scripts.benchmarks.opened import memory_of
from scripts.benchmarks.trees import HERE

__all__ = ["measured_formats", "show_formats"]

Row = dict[str, Any]

_RAM = 64 << 20
_BUSY = 1 << 20
_RUN = [sys.executable, "-m", "scripts.benchmarks.opened"]
_MEDIANS = ("own_bytes", "mapped_bytes", "first_seconds", "seconds")
_POLLED = 0.001


@dataclass(frozen=True)
class Opened:
    """A file to open: its memory map, if any, and the registers that it doesn't have."""

    path: Path
    memory_map: str = ""
    registers: str = "{}"


def measured_formats(rounds: int, files: Sequence[str]) -> list[Row]:
    """Return a row a file, medians of so many processes each; without files, of samples.

    A file may be followed by =MAP, its memory map. `ratio` is the time of the walk, opened and
    all, as a multiple of the first file's: of the samples, that of the mapped ELF core.
    """
    if files:
        return _compared([_row(_given(each), rounds) for each in files])
    with TemporaryDirectory() as folder:
        return _compared([_row(each, rounds) for each in _samples(Path(folder))])


def show_formats(rows: list[Row]) -> None:
    """Print the rows."""
    print("formats: peak of the process's own memory, and with the pages of mapped files, beyond")
    print("what it had before it opened the file; CPU time from opening on; × is that of the walk,")
    print("as a multiple of the first row's\n")
    titles = ("file, MiB", "own, MiB", "mapped", "first, ms", "walk, ms", "×", "mappings")
    print(f"  {'format':<44}{''.join(f'{title:>11}' for title in titles)}")
    for row in rows:
        if "error" in row:
            print(f"  {row['name']}: {row['error']}")
            continue
        what = f"{row['format']}, {row['unpacked']}" if row["unpacked"] else row["format"]
        sizes = (row[name] / 2**20 for name in ("bytes", "own_bytes", "mapped_bytes"))
        times = (1e3 * row[name] for name in ("first_seconds", "seconds"))
        print(
            f"  {what:<44}{''.join(f'{size:>11,.1f}' for size in sizes)}"
            f"{''.join(f'{time:>11,.0f}' for time in times)}"
            f"{row['ratio']:>11.2f}{row['mappings']:>11,}"
        )


def _given(text: str) -> Opened:
    path, _, memory_map = text.partition("=")
    return Opened(Path(path), memory_map)


def _compared(rows: list[Row]) -> list[Row]:
    base = next((row["seconds"] for row in rows if "seconds" in row), None)
    return [{**row, "ratio": row["seconds"] / base} if "seconds" in row else row for row in rows]


def _row(each: Opened, rounds: int) -> Row:
    print(f"bench: {each.path.name}", file=sys.stderr)
    found = [_measured(each) for _ in range(rounds)]
    row: Row = {"name": each.path.name} | found[0]
    if "error" not in row:
        row["bytes"] = each.path.stat().st_size
        row |= {name: median(one[name] for one in found) for name in _MEDIANS}
    return row


def _measured(each: Opened) -> Row:
    command = [*_RUN, str(each.path.resolve()), each.memory_map, each.registers]
    own = 0
    with subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            own = max(own, memory_of(str(process.pid), "RssAnon"))
            sleep(_POLLED)
        out, error = process.communicate()
    if process.returncode:
        return {"error": error.strip().rpartition("\n")[2]}
    row: Row = json.loads(out)
    return row | {"own_bytes": max(own - row.pop("own_before"), 0)}


def _samples(folder: Path) -> Iterator[Opened]:
    """Yield files of one memory, the mixed image in RAM that is mostly zeros, in each format."""
    image = IMAGES["mixed"]()
    ram = np.zeros(_RAM, np.uint8)
    tables = image.words.nbytes
    ram[:tables] = image.words.view(np.uint8)
    ram[tables : tables + _BUSY] = np.random.default_rng(5).integers(0, 256, _BUSY, np.uint8)
    memory = ram.tobytes()

    def put(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    context = image.context
    state = CoreState(control={"cr0": context.cr0, "cr4": context.cr4}, paging=context)
    core = b"".join(core_parts(Segments([(0, memory)]), state))
    registers = json.dumps({"cr3": 0, "cr4": context.cr4})
    yield Opened(put("core.elf", core))
    for name, pack in _PACKS.items():
        yield Opened(put(f"core.elf.{name}", pack(core)))
    half = _RAM // 2
    yield Opened(put("image.raw", memory), "", registers)
    yield Opened(put("holed.raw", memory), f"pc:{half}", registers)
    parts = ((0, memory[:half]), (4 << 30, memory[half:]))
    lime = b"".join(
        struct.pack("<4sIQQQ", b"EMiL", 1, first, first + len(part) - 1, 0) + part
        for first, part in parts
    )
    yield Opened(put("image.lime", lime), "", registers)
    yield from (Opened(put(name, content), "", registers) for name, content in _by_extras(memory))


_PACKS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 6, mtime=0),  # noqa: TID251 - Without the time.
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "bz2": bz2.compress,
    "lz4": lz4.frame.compress,
}


def _by_extras(memory: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the formats that tests write, and that libraries of the extras read."""
    try:
        from tests.walker.formats import avmls, kdumps, saved_states  # noqa: PLC0415
    except ModuleNotFoundError as error:
        print(f"bench: no kdump and AVML: {error}", file=sys.stderr)
        return
    frames = {at // FRAME: memory[at : at + FRAME] for at in range(0, len(memory), FRAME)}
    pages = {number: page for number, page in frames.items() if any(page)}
    for name, codec in (("zlib", kdumps.ZLIB), ("zstd", kdumps.ZSTD), ("lzo", kdumps.LZO)):
        dump = kdumps.Kdump(pages=pages, ram=range(len(frames)), codec=codec, level=1)
        yield f"image.{name}.kdump", dump.file()
    yield "image.avml", avmls.image((0, memory))
    sent = [(number, page if any(page) else 0) for number, page in frames.items()]
    yield "image.qevm", saved_states.qevm(sent)
    yield "image.dmp", saved_states.windows(memory=memory, runs=[(0, len(frames))])
