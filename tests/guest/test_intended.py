from dataclasses import replace

import pytest

from crosswalk.guest.errors import LayoutError
from crosswalk.guest.intended import recursive_views
from crosswalk.guest.layout import Bit, MemoryMap, Raw, Region, Upper
from crosswalk.guest.status import Table

# A 4-level world with slot 480, worked out by hand: in octal, an address is its four indices.
WORLD = MemoryMap(
    levels=4,
    ram_size=1 << 24,
    regions=(
        Region(
            name="small",
            va=0o001_002_003_004_0000,
            pa=0x5000,
            flags=Bit.P | Bit.RW,
            supervisor="r-x",
            upper=Upper(((3, Bit.P),)),
        ),
        Region(
            name="huge",
            va=0o001_005_000_000_0000,
            pa=0x4000_0000,
            level=3,
            flags=Bit.P | Bit.RW | Bit.PAT_LARGE,
            supervisor="rwx",
        ),
    ),
    raws=(
        Raw(name="junk", va=0o001_006_000_000_0000, level=3, entry=0xFFFE),
        Raw(name="bit 51", va=0o001_007_000_000_0000, level=3, entry=1 << 51 | 7),
    ),
    holes=(),
    recursive_slot=0o740,
    recursive_flags=Bit.P | Bit.RW | Bit.NX,
    symbols={},
)
VA = 0o001_002_003_004_0000
TABLES = (Table(4, 0, 0x10000), Table(3, VA, 0x11000), Table(2, VA, 0x12000), Table(1, VA, 0x13000))
HIGH = 0xFFFF_0000_0000_0000


def views(world=WORLD):
    return {
        view.va: (view.pa, view.size, view.supervisor, view.user)
        for view in recursive_views(world, TABLES)
    }


def test_tables_and_large_leaves_are_seen_one_level_down_and_further():
    expected = {
        HIGH | 0o740_740_740_740_0000: (0x10000, 1 << 12, "rw-", "---"),
        HIGH | 0o740_740_740_001_0000: (0x11000, 1 << 12, "rw-", "---"),
        # The page directory and what is below it are read-only: by its own entry, at level 3.
        HIGH | 0o740_740_001_002_0000: (0x12000, 1 << 12, "r--", "---"),
        HIGH | 0o740_001_002_003_0000: (0x13000, 1 << 12, "r--", "---"),
        # The 1-GiB leaf as a 2-MiB leaf, where bit 12 is PAT, and as a 4-KiB one, where it is not.
        HIGH | 0o740_001_005_000_0000: (0x4000_0000, 1 << 21, "rw-", "---"),
        HIGH | 0o740_740_001_005_0000: (0x4000_1000, 1 << 12, "rw-", "---"),
    }
    assert expected == views()


def test_a_reserved_bit_of_a_large_leaf_is_an_address_bit_of_a_small_one():
    raw = Raw(name="bit 13", va=0o001_010_000_000_0000, level=3, entry=Bit.P | Bit.PS | 1 << 13)
    added = views(replace(WORLD, raws=(raw,))).items() - views(replace(WORLD, raws=())).items()
    assert {(HIGH | 0o740_740_001_010_0000, (0x2000, 1 << 12, "r--", "---"))} == added


def test_a_slot_that_lends_other_rights_is_refused():
    with pytest.raises(LayoutError, match="must have NX set and U/S clear"):
        list(recursive_views(replace(WORLD, recursive_flags=Bit.P | Bit.RW), TABLES))
