"""Writes the sample kernel to a file: `python -m crosswalk.guest.sample [--bug BUG] FILE`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from crosswalk.guest.sample.image import Bug, sample_kernel


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m crosswalk.guest.sample", description=__doc__)
    parser.add_argument("--bug", type=Bug, choices=list(Bug), help="a mistake in its mappings")
    parser.add_argument("file", type=Path, metavar="FILE", help="the ELF file to write")
    options = parser.parse_args(arguments)
    try:
        options.file.write_bytes(sample_kernel(options.bug))
    except OSError as error:
        parser.error(f"{options.file}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
