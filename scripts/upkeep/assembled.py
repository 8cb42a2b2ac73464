"""Assembles all that is shipped assembled, and writes it, or holds the file to the sources."""

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import msgspec

from crosswalk.guest.assembler import SHIPPED, Assembled, assembling_anew

_FILE = Path(__file__).resolve().parents[2] / "guest" / SHIPPED


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; or, with --check, return 1 where it is another."""
    parser = argparse.ArgumentParser(prog="scripts/assemble", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if it differs"
    )
    parser.add_argument(
        "--file", type=Path, default=_FILE, help="another than guest/assembled.json"
    )
    options = parser.parse_args(arguments)
    data = dump(assemble_all())
    if not options.check:
        options.file.write_bytes(data)
    elif data != options.file.read_bytes():
        print(f"{options.file} isn't what the sources give: scripts/assemble", file=sys.stderr)
        return 1
    return 0


def assemble_all() -> list[Assembled]:
    """Return all code that is known before run time, in the order of the file.

    `RuntimeError` where a module that assembles when it is imported has been imported before.
    """
    if "crosswalk.emu.probe" in sys.modules:
        raise RuntimeError("the probe has been imported: its code is assembled")
    with assembling_anew() as made:
        probe = import_module("crosswalk.emu.probe")
        for module in pkgutil.walk_packages(probe.__path__, f"{probe.__name__}."):
            import_module(module.name)
        for levels in (4, 5):
            import_module("crosswalk.guest.builder").build_image(levels)
        init = import_module("crosswalk.guest.init")
        for bits in (64, 32):
            for patching in (False, True):
                init.init_program(patching=patching, bits=bits)
        boot = import_module("crosswalk.guest.boot.image")
        boot.boot_image((), boot.Place(2 << 20))
        import_module("crosswalk.guest.monitor.image").monitor_image(2 << 20)
        sample = import_module("crosswalk.guest.sample.image")
        for bug in (None, *sample.Bug):
            sample.sample_kernel(bug)
    return sorted({row.inputs: row for row in made}.values())


def dump(rows: list[Assembled]) -> bytes:
    """Return the file's content: a row a line."""
    lines = b",\n".join(msgspec.json.encode(row) for row in rows)
    return b"[\n" + lines + b"\n]\n"


if __name__ == "__main__":
    sys.exit(main())
