"""One file, opened and walked in a process of its own: what it takes, as JSON on standard output.

Arguments: the file, its memory map or nothing, and what is known of the registers, as JSON.
"""

import json
import sys
from pathlib import Path
from time import process_time

from crosswalk.emu.report.source import format_text
from crosswalk.walker import mappings, walk_leaves
from crosswalk.walker.formats import Registers, open_contents, source_of

__all__ = ["main", "memory_of"]

_WIDEST = 52


def main(path: str, memory_map: str, registers: str) -> None:
    """Print the format, CPU seconds until the first and the last mapping, and memory in bytes.

    `own_before` is what the process had of its own before it opened the file, `mapped_bytes` the
    peak beyond what it had in all, with the pages of mapped files.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # The peak begins anew.
    own, before = memory_of("self", "RssAnon"), memory_of("self", "VmRSS")
    began = process_time()
    contents = open_contents(path, memory_map=[memory_map] if memory_map else ())
    source = source_of(contents, Registers(**json.loads(registers)), width=_WIDEST)
    next(mappings(source.memory, source.context), None)
    first = process_time() - began
    count = sum(len(leaves) for leaves in walk_leaves(source.memory, source.context))
    whole = process_time() - began
    found = {
        "format": format_text(source).partition(" (unpacked")[0],
        "unpacked": source.unpacked.partition(",")[0],
        "own_before": own,
        "mapped_bytes": memory_of("self", "VmHWM") - before,
        "first_seconds": first,
        "seconds": whole,
        "mappings": count,
    }
    print(json.dumps(found))


def memory_of(process: str, name: str) -> int:
    """Return a line of /proc/PROCESS/status in bytes; 0 where it has none: the process ended."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    values = (int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
    return next(values, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
