"""MTRRs as people have them: BASE:SIZE:TYPE, Linux' /proc/mtrr and boot log, MSRs with values.

The boot log and the MSRs say all there is; /proc/mtrr leaves out the default type and the fixed
ranges.
"""

import re
from collections.abc import Callable, Sequence

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, one_line
from crosswalk.walker.mtrrs import MemoryType, Mtrrs, VariableRange, mtrrs_of_msrs, named_type

__all__ = ["mtrrs_from"]

_LARGEST_FILE = 1 << 24
_LONGEST = 400
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_NUMBER = r"(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})"
_HEX = r"[0-9a-fA-F]{1,16}"
_LOG = "MTRR default type:"


class _Given:
    """What the texts say so far."""

    def __init__(self) -> None:
        self.default: MemoryType | None = None
        self.tom2 = 0
        self.variable: list[VariableRange] = []
        self.fixed: list[tuple[int, int, MemoryType]] = []
        self.msrs: dict[int, int] = {}
        self.disabled: set[str] = set()

    def set_default(self, name: str) -> None:
        self.default = named_type(name)

    def add_range(self, base: str, size: str, name: str) -> None:
        self.variable.append(VariableRange(_number(base), _number(size), named_type(name)))

    def add_proc(self, base: str, size: str, unit: str, name: str) -> None:
        self.add_range(base, size + unit, name)

    def add_fixed(self, first: str, last: str, name: str) -> None:
        start, end = int(first, 16), int(last, 16) + 1
        if end <= start:
            raise BadInput(f"MTRRs: {first}-{last} is no range")
        self.fixed.append((start, end - start, named_type(name)))

    def add_masked(self, base: str, mask: str, name: str) -> None:
        bits = int(mask, 16)
        size = bits & -bits
        if not bits or bits + size & bits + size - 1:
            raise BadInput(f"MTRRs: mask {bits:#x} is of no contiguous range")
        self.variable.append(VariableRange(int(base, 16) & bits, size, named_type(name)))

    def set_tom2(self, address: str) -> None:
        self.tom2 = int(address, 16)

    def set_state(self, which: str, state: str) -> None:
        # Linux prints the ranges also where they are disabled.
        if state == "dis":
            self.disabled.add(which)

    def add_msr(self, number: str, value: str) -> None:
        self.msrs[int(number, 16)] = int(value, 16)

    def mtrrs(self) -> Mtrrs:
        ranges = self.default is not None or self.variable or self.fixed
        if self.msrs:
            if ranges:
                raise BadInput("MTRRs: as MSRs or as ranges, not as both")
            return mtrrs_of_msrs(self.msrs)
        if self.default is None:
            raise BadInput(
                "MTRRs: the default type, which /proc/mtrr leaves out, is not given: add "
                "default:TYPE (as Linux prints it at boot with mtrr=debug; uc on most machines)"
            )
        return Mtrrs(
            default=self.default,
            variable=tuple(self.variable),
            fixed=() if "fixed" in self.disabled else tuple(self.fixed),
            enabled="variable" not in self.disabled,
            tom2=self.tom2,
        )


_Form = tuple[re.Pattern[str], Callable[..., None]]
"""A line's form, and the method of `_Given` that takes its groups."""

_SPECS: tuple[_Form, ...] = (
    (re.compile(r"default:(\S+)"), _Given.set_default),
    (re.compile(rf"({_NUMBER}[kKmMgGtT]?):({_NUMBER}[kKmMgGtT]?):(\S+)"), _Given.add_range),
)
_LINES: tuple[_Form, ...] = (
    *_SPECS,
    (
        re.compile(
            rf"reg\d+: base=({_NUMBER}) \([^)]*\), size= *({_NUMBER})([KMGT])B(?:, count=\d+)?"
            r": ([\w-]+)(?:, count=\d+)?"
        ),
        _Given.add_proc,
    ),
    (re.compile(rf"{_LOG} ([\w-]+)"), _Given.set_default),
    (re.compile(r"MTRR (fixed|variable) ranges (en|dis)abled:?"), _Given.set_state),
    (re.compile(rf"TOM2: ({_HEX}) aka \d+M"), _Given.set_tom2),
    (re.compile(r"([0-9A-F]{5})-([0-9A-F]{5}) ([\w-]+)"), _Given.add_fixed),
    (re.compile(rf"\d+ base ({_HEX}) mask ({_HEX}) ([\w-]+)"), _Given.add_masked),
    (re.compile(rf"(?:0[xX])?({_HEX})\s*[:=\s]\s*(?:0[xX])?({_HEX})"), _Given.add_msr),
)
_SKIPPED = re.compile(r"(#.*)?|\d+ disabled")
_LOG_TIME = re.compile(r"^(?:<\d+>)?\[[\s\d.]+\]\s*")


def mtrrs_from(texts: Sequence[str]) -> Mtrrs:
    """Return the MTRRs that texts describe, each on its own or as @FILE with one a line.

    A text is `default:TYPE` or `BASE:SIZE:TYPE`, of a variable range. Numbers are hex with 0x or
    decimal, K, M, G and T behind them powers of 1,024; types are uc, wc, wt, wp, wb or Linux'
    words. A file has such lines, or those of /proc/mtrr, or a line for each MSR, its number and
    value in hex; empty lines and those that begin with # don't count. Or it is Linux' boot log, of
    which the lines from "MTRR default type" on count, up to one about something else.

    Raises `BadInput` in one line for what is none of these, a file that can't be read, MTRRs
    without a default type, and as `mtrrs_of_msrs` does.
    """
    given = _Given()
    for text in texts:
        if text.startswith("@"):
            _read(text.removeprefix("@"), given)
        elif not _take(text.strip(), _SPECS, given):
            raise BadInput(
                f"MTRR {one_line(text[:_LONGEST])}: is neither BASE:SIZE:TYPE nor default:TYPE, "
                "and no file (@FILE)"
            )
    return given.mtrrs()


def _read(name: str, given: _Given) -> None:
    text = read_file(name, _LARGEST_FILE).decode("utf-8", "replace")
    lines = [_LOG_TIME.sub("", line[:_LONGEST]).strip() for line in text.splitlines()]
    logged = next((row for row, line in enumerate(lines) if line.startswith(_LOG)), None)
    with errors_named(one_line(name)):
        for number, bare in enumerate(lines[logged or 0 :], 1):
            if not _take(bare, _LINES, given) and not _SKIPPED.fullmatch(bare):
                if logged is not None:
                    break
                raise BadInput(f"line {number} says nothing of an MTRR: {one_line(bare[:60])}")


def _take(text: str, forms: Sequence[_Form], given: _Given) -> bool:
    """Add what a text says; return whether it has one of the forms."""
    for form, add in forms:
        found = form.fullmatch(text)
        if found is not None:
            add(given, *found.groups())
            return True
    return False


def _number(text: str) -> int:
    digits = text.rstrip("kKmMgGtT")
    return int(digits, 0 if "x" in digits.lower() else 10) << _UNITS[text[len(digits) :].upper()]
