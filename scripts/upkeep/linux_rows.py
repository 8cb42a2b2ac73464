"""The kernels of Debian that `scripts/linux-matrix` boots."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

__all__ = ["ROWS", "Row", "chosen"]


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel: a package of a suite of Debian, for an architecture."""

    suite: str
    flavour: str
    package: str
    arch: str = "amd64"

    @property
    def name(self) -> str:
        """What the row is called, as "trixie/cloud"."""
        return f"{self.suite}/{self.flavour}"


_AMD64 = {
    "cloud": "linux-image-cloud-amd64",
    "generic": "linux-image-amd64",
    "rt": "linux-image-rt-amd64",
}
_I386 = {"686": "linux-image-686", "686-pae": "linux-image-686-pae"}
_SUITES = {
    "bullseye": [*_AMD64, *_I386],
    "bookworm": [*_AMD64, *_I386],
    "bookworm-backports": ["cloud"],
    "trixie": [*_AMD64],
    "sid": [*_AMD64],
    "experimental": [*_AMD64],
}


def _rows() -> Iterator[Row]:
    for suite, flavours in _SUITES.items():
        for flavour in flavours:
            if flavour in _I386:
                yield Row(suite, flavour, _I386[flavour], "i386")
            else:
                yield Row(suite, flavour, _AMD64[flavour])


ROWS = tuple(_rows())
"""All rows, by suite from old to new."""


def chosen(patterns: Sequence[str], suites: Sequence[str]) -> list[Row]:
    """Return the rows whose names fit one of the patterns, of these suites; all if none are given.

    Raises `ValueError`, with the pattern or suite, where one fits no row.
    """
    unknown = [each for each in suites if each not in _SUITES]
    rows = [row for row in ROWS if not suites or row.suite in suites]
    unknown += [each for each in patterns if not any(fnmatch(row.name, each) for row in rows)]
    if unknown:
        raise ValueError(f"{unknown[0]}: no such row; there are {', '.join(r.name for r in ROWS)}")
    return [
        row for row in rows if not patterns or any(fnmatch(row.name, each) for each in patterns)
    ]
