import os
import sys
from enum import Enum

import pytest
from hypothesis import settings

from crosswalk.walker.outcome import error_names

# What a test finds has to be found again: no clock decides, and no chance.
settings.register_profile("reproducible", deadline=None, derandomize=True, database=None)
settings.load_profile("reproducible")


@pytest.fixture
def fresh_seed(request, capsys):
    """A seed that no run had before, printed, so that what it finds can be found again."""
    seed = int.from_bytes(os.urandom(4), "little")
    with capsys.disabled():
        sys.stdout.write(f"\n{request.node.name}: fresh seed {seed}\n")
    return seed


ENTRY_BITS = {
    **dict(enumerate(("P", "RW", "US", "PWT", "PCD", "A", "D", "PS", "G"))),
    12: "PAT",
    63: "XD",
}
ENTRIES = {"add", "bits", "drop", "entry", "flags", "upper"}
CODES = {"code", "error_code"}
ADDRESSES = {"address", "end", "first", "frame", "gpa", "mask", "offset", "pa", "start", "va"}
UNITS = {
    "at": "at {}",
    "bit": "bit {}",
    "cpl": "CPL {}",
    "leaf": "leaf at level {}",
    "level": "level {}",
    "levels": "{}-level",
    "maxphyaddr": "MAXPHYADDR {}",
    "mode": "{}-level",
    "width": "{} bits",
}
SWITCHES = {"ac", "nxe", "page1gb", "pke", "pse", "smap", "smep", "wp"}


def pytest_make_parametrize_id(val, argname):
    """Name the parameters of a test as the manuals do; the rest is named by pytest."""
    number = isinstance(val, int) and not isinstance(val, bool)
    name = None
    if isinstance(val, Enum) and val.name:
        name = val.name.lower()
    elif argname in SWITCHES and isinstance(val, bool):
        name = f"{argname.upper()}={val:d}"
    elif argname in CODES and number:
        name = f"code {error_names(val)}"
    elif argname in ENTRIES and number:
        name = entry_name(val)
    elif argname in ADDRESSES and number:
        name = f"{argname} {val:#x}"
    elif argname in UNITS and number:
        name = UNITS[argname].format(val)
    return name


def entry_name(entry):
    """The bits of an entry by name, and its address."""
    if entry < 0:
        return str(entry)
    names = [name for bit, name in ENTRY_BITS.items() if entry >> bit & 1]
    rest = entry & ~sum(1 << bit for bit in ENTRY_BITS)
    return "|".join(names + ([f"{rest:#x}"] if rest else [])) or "0"
