"""What the emulated CPU lacks, decided access by access and refused by the probe."""

import re
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.compare import agreements
from crosswalk.emu.probe import FEATURES, Prober
from crosswalk.emu.probe.composite import CompositeProber
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.scope import lacking_features
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.accesses import execute, read, write
from tests.emu.composites import composite
from tests.tables import OPEN, ROOT, RW, A, P, PageTables, context

VA = 0x40_0000
LOW_TAG, HIGH_TAG = 1 << 50, 1 << 58  # Set in a lower half address: metadata of LAM48 and LAM57.
UP = (1 << 64) - (1 << 39)  # The last slot of the upper half.
LA57 = 0x1020
WIDE_AT = 1 << 40


class Raw:
    """Registers as a processor might have them, whether or not the walker models each bit."""

    cr0, cr3, cr4, efer = 0x8001_0033, 0x1000, 0x20, 0xD00
    pkru, pkrs, rflags_ac, maxphyaddr, encryption_mask = 0, 0, False, 40, 0

    def __init__(self, **registers):
        for name, value in registers.items():
            setattr(self, name, value)


def names(accesses, **registers):
    control = Control.of(Raw(**registers))
    found = lacking_features(control, Accesses.of(accesses))
    return ["" if not each else FEATURES[each - 1] for each in found.tolist()]


@pytest.mark.parametrize(
    ("registers", "va", "expected"),
    [
        ({}, LOW_TAG | VA, ""),
        ({"cr3": 1 << 62}, LOW_TAG | VA, "LAM"),
        ({"cr3": 1 << 62}, 1 << 47 | VA, "LAM"),  # Bit 47 differs from bit 63: #GP, says LAM.
        ({"cr3": 1 << 62}, VA, ""),
        ({"cr3": 1 << 62}, UP, ""),
        ({"cr3": 1 << 62}, UP ^ 1 << 50, ""),  # Supervisor pointers are masked by CR4.LAM_SUP.
        ({"cr3": 1 << 61}, HIGH_TAG | VA, "LAM"),
        ({"cr3": 1 << 61, "cr4": LA57}, HIGH_TAG | VA, "LAM"),
        ({"cr3": 1 << 61, "cr4": LA57}, LOW_TAG | VA, ""),  # An address of 57 bits.
        ({"cr3": 1 << 62, "cr4": LA57}, LOW_TAG | VA, "LAM"),  # The same, and bits of LAM48.
        ({"cr3": 3 << 61, "cr4": LA57}, LOW_TAG | VA, ""),  # LAM57 goes first.
        ({"cr4": 1 << 28 | 0x20}, UP ^ 1 << 50, "LAM"),
        ({"cr4": 1 << 28 | 0x20}, LOW_TAG | VA, ""),
        ({"cr4": 1 << 28 | LA57}, UP ^ 1 << 50, ""),
        ({"cr4": 1 << 28 | LA57}, UP ^ 1 << 58, "LAM"),
        ({"efer": 0xD00 | 1 << 20}, HIGH_TAG | VA, "UAI"),
        ({"efer": 0xD00 | 1 << 20}, VA, ""),
        ({"efer": 0xD00 | 1 << 20}, UP ^ 1 << 62, "UAI"),
        # In 32-bit and PAE paging these bits mean nothing.
        ({"cr3": 1 << 62, "cr4": 1 << 28 | 0x20, "efer": 0x10_0800}, LOW_TAG | VA, ""),
    ],
)
def test_an_address_that_is_masked_is_lacking_for_data_alone(registers, va, expected):
    found = names([read(va), write(va, 3), execute(va, 3)], **registers)
    assert [expected, expected, ""] == found


@pytest.mark.parametrize(
    ("cr4", "access", "expected"),
    [
        (0x20, execute(VA), ""),
        (1 << 27 | 0x20, execute(VA), "LASS"),
        (1 << 27 | 0x20, execute(VA, ac=True), "LASS"),
        (1 << 27 | 0x20, read(VA), ""),  # Without SMAP data may be user's.
        (1 << 27 | 1 << 21 | 0x20, read(VA), "LASS"),
        (1 << 27 | 1 << 21 | 0x20, write(VA, ac=True), ""),
        (1 << 27 | 1 << 21 | 0x20, write(VA, 3), ""),
        (1 << 27 | 0x20, read(UP, 3), "LASS"),
        (1 << 27 | 0x20, execute(UP, 3), "LASS"),
        (1 << 27 | 0x20, read(UP, 3, ac=True), "LASS"),
        (1 << 27 | 0x20, read(UP), ""),
        (1 << 27 | 0x20, execute(UP), ""),
    ],
)
def test_an_access_across_the_halves_is_lacking_under_lass(cr4, access, expected):
    assert [expected] == names([access], cr4=cr4)


@pytest.mark.parametrize(
    ("registers", "access", "expected"),
    [
        ({"cr3": ROOT | 1 << 62}, read(LOW_TAG | VA), GeneralProtection()),
        ({"cr3": ROOT, "cr4": 1 << 28 | 0x20}, read(UP ^ 1 << 50), GeneralProtection()),
        (
            {"cr3": ROOT, "efer": 0x10_0D00, "vendor": Vendor.AMD},
            read(HIGH_TAG | VA),
            GeneralProtection(),
        ),
        ({"cr3": ROOT, "cr4": 1 << 27 | 0x20}, execute(VA), Translation(0x5000)),
        ({"cr3": ROOT, "cr4": 1 << 27 | 0x20}, read(UP, 3), Translation(0x6000)),
    ],
)
def test_the_emulated_cpu_has_none_of_these(registers, access, expected):
    memory = PageTables().map(VA, 0x5000).map(UP, 0x6000).memory
    prober = Prober(memory, PagingContext(**registers))
    with pytest.raises(BadInput, match="the emulated CPU has no"):
        prober.probe(Accesses.of([access]))
    # Asked all the same, it does as if the feature weren't there.
    found = prober._observe(Accesses.of([access]), bulk=True)[0]
    assert expected == replace(found, entries=())


def _long(entry, **options):
    builder = PageTables().map(VA, 0x5000, OPEN)
    builder.words[builder.entry_pa(VA, 1)] = entry
    return Prober(builder.memory, context(**options))


WIDE = 1 << 41


@pytest.mark.parametrize(
    ("entry", "width", "expected"),
    [
        (WIDE | 0x5067, 46, True),
        (WIDE | 0x5067, 42, True),
        (WIDE | 0x5067, 41, False),  # Reserved, in the emulated CPU too.
        (WIDE | 0x5067, 40, False),
        (1 << 50 | 0x5067, 46, False),
        (WIDE | 0x5066, 46, False),  # Not present.
        (0x5067, 52, False),
    ],
)
def test_an_entry_with_an_address_of_2_to_the_40_and_up_is_lacking(entry, width, expected):
    prober = _long(entry, maxphyaddr=width)
    asked = Accesses.of([read(VA), write(VA, 3), execute(VA), read(VA + 4096), read(1 << 50 | VA)])
    wide = 1 + FEATURES.index("wide")
    assert [wide if expected else 0] * 3 + [0, 0] == prober.lacking(asked).tolist()


def test_the_emulated_cpu_takes_such_an_address_for_reserved_bits():
    prober = _long(WIDE | 0x5067, maxphyaddr=46)
    found = prober._observe(Accesses.of([read(VA)]), bulk=True)
    assert PageFault(9, VA) == replace(found[0], entries=())


def test_an_upper_entry_with_a_wide_address_makes_all_below_lacking():
    memory = SparseWords(((0, 1 << 24), (WIDE, 1 << 24)), {ROOT: WIDE | 0x2067})
    prober = Prober(memory, context(maxphyaddr=46))
    asked = Accesses.of([read(VA), read(1 << 38), read(1 << 39)])
    assert [4, 4, 0] == prober.lacking(asked).tolist()


def test_ram_across_2_to_the_40_is_cut_there_and_what_lies_below_is_accessed():
    top = WIDE_AT - 4096
    tables = PageTables(ram=((0, 1 << 24), (top, 1 << 20))).map(VA, top)
    words = dict(tables.words) | {ROOT + 8: WIDE_AT | 0x2067, WIDE_AT + 0x2000: OPEN}
    memory, control = SparseWords(tables.ram, words), context(maxphyaddr=46)
    prober = Prober(memory, control)
    # The last of these isn't canonical: its walk reads nothing.
    asked = Accesses.of([read(VA), write(VA + 8), read(1 << 39), read(1 << 50)])
    assert [0, 0, 4, 0] == prober.lacking(asked).tolist()
    made = asked.take(np.array([0, 1, 3]))
    assert agreements(translate_many(memory, control, made), prober.probe(made)).all()
    below = SparseWords(((0, 1 << 24), (top, 4096)), tables.words)
    engines = prober._engines
    prober.enter(below, context())
    assert engines is prober._engines


def test_a_root_at_2_to_the_40_and_up_makes_everything_lacking():
    memory = SparseWords(((0, 1 << 24), (WIDE, 1 << 24)), {WIDE: 0x2067})
    prober = Prober(memory, PagingContext(cr3=WIDE, maxphyaddr=46))
    asked = Accesses.of([read(VA), read(UP), read(1 << 50)])
    assert [4, 4, 4] == prober.lacking(asked).tolist()
    assert 0 == len(prober.probe(Accesses.of([])))
    with pytest.raises(BadInput, match=re.escape("2^40 and up; it is predicted only")):
        prober.probe(asked)
    with pytest.raises(BadInput, match="points to no RAM"):
        Prober(memory, PagingContext(cr3=WIDE << 1, maxphyaddr=46))


def test_wide_entries_of_pae_paging_are_lacking_and_32_bit_ones_never():
    words = {0x1000: 0x2001, 0x2000: WIDE | 0x3067}
    pae = Prober(SparseWords(((0, 1 << 24),), words), context("PAE", maxphyaddr=52))
    asked = Accesses.of([read(0x1000), read(0x20_0000), read(1 << 30)])
    assert [4, 0, 0] == pae.lacking(asked).tolist()
    # PSE-36: the bits that are wide in a word of eight bytes are bits of the next entry's.
    words = {0x1000: 0xFF << 13 | 0xE7 | (0x2067 << 32)}
    old = Prober(SparseWords(((0, 1 << 24),), words), context("32-bit", maxphyaddr=52))
    assert [0, 0, 0] == old.lacking(asked).tolist()


SUPERVISOR, USER = P | RW | A, OPEN | A


@pytest.mark.parametrize(
    ("flags", "upper", "switches", "expected"),
    [
        (SUPERVISOR, USER, {"pkrs": 0b01 << 6}, "rwRW"),
        (USER, SUPERVISOR, {"pkrs": 0b01 << 6}, "rwRW"),
        (USER, USER, {"pkrs": 0b01 << 6}, ""),
        (SUPERVISOR, USER, {"pkrs": 0b10 << 6}, "wW"),
        (SUPERVISOR, USER, {"pkrs": 0b10 << 6, "wp": False}, ""),
        (SUPERVISOR, USER, {"pkrs": 0b11 << 6, "wp": False}, "rwRW"),
        (SUPERVISOR, USER, {"pkrs": 0xFFFF_FFFF & ~(3 << 6)}, ""),  # Of all other keys.
        (SUPERVISOR, USER, {"pkrs": 0b11 << 6, "pks": False}, ""),
        (SUPERVISOR & ~P, USER, {"pkrs": 0b11 << 6}, ""),
    ],
)
def test_data_accesses_that_a_supervisor_key_denies_are_lacking(flags, upper, switches, expected):
    builder = PageTables().map(VA, 0x5000, flags | 3 << 59, upper=upper)
    asked = [ask(VA, cpl) for cpl in (0, 3) for ask in (read, write, execute)]
    control = context(**{"pks": True, "smep": True} | switches)
    for prober in (Prober(builder.memory, control), CompositeProber(builder.memory, control)):
        if isinstance(prober, Prober):
            found = prober.lacking(Accesses.of([*asked, read(VA + 4096), read(1 << 50)]))
            names = [FEATURES[each - 1] if each else "" for each in found.tolist()]
            assert ["PKS" if each in expected else "" for each in "rwxRWX"] == names[:6]
            assert ["", ""] == names[6:]
        else:
            found = prober.lacking(composite("rmw:xadd", VA))
            assert [5 if "w" in expected else 0] == found.tolist()


def test_the_emulated_cpu_heeds_no_supervisor_key():
    memory = PageTables().map(VA, 0x5000, SUPERVISOR | 1 << 59).memory
    prober = Prober(memory, context(pks=True, pkrs=0b1100))
    with pytest.raises(BadInput, match=r"no PKS \(protection keys for supervisor pages\)"):
        prober.probe(Accesses.of([read(VA)]))
    found = prober._observe(Accesses.of([read(VA)]), bulk=True)
    assert [0x5000] == found.pa.tolist()


def test_accesses_that_are_lacking_are_refused_by_name():
    prober = _long(0x5067, root=ROOT | 1 << 62)
    with pytest.raises(BadInput, match=r"access to 0x4000000400000: the emulated CPU has no LAM"):
        prober.probe(Accesses.of([read(VA), read(LOW_TAG | VA)]))
    assert [0x5000] == prober.probe(Accesses.of([read(VA)])).pa.tolist()


def test_lacking_is_a_column_of_bytes_as_long_as_the_accesses():
    found = _long(0x5067).lacking(Accesses.of([]))
    assert (np.uint8, 0) == (found.dtype, len(found))


@pytest.mark.parametrize(
    ("registers", "asked", "expected"),
    [
        ({"cr3": ROOT | 1 << 62}, composite("rmw:xadd", VA), ""),
        ({"cr3": ROOT | 1 << 62}, composite("rmw:xadd", LOW_TAG | VA), "LAM"),
        ({"cr3": ROOT | 1 << 62}, composite("cross:execute", LOW_TAG | VA + 0xFFA), ""),
        ({"cr3": ROOT | 1 << 62}, composite("cross:read", (1 << 47) - 4), "LAM"),
        ({"cr3": ROOT | 1 << 62}, composite("twice:read+read", VA, then_va=LOW_TAG | VA), "LAM"),
        ({"cr3": ROOT | 1 << 62}, composite("twice:read+execute", VA, then_va=LOW_TAG | VA), ""),
        # A descriptor is read as by a supervisor, and AC means nothing then.
        ({"cr4": 0x0820_0020}, composite("implicit:read", VA + 8, 3, ac=True), "LASS"),
        ({"cr4": 0x0820_0020}, composite("rmw:xadd", VA, 3, ac=True), ""),
        ({"cr4": 0x0820_0020}, composite("twice:read+read", VA, 3, then=(0, False)), "LASS"),
        ({"cr4": 0x0820_0020}, composite("twice:read+read", VA, 3, then=(0, True)), ""),
    ],
)
def test_a_composite_lacks_what_any_of_its_accesses_does(registers, asked, expected):
    memory = PageTables().map(VA, 0x80_0000).map(VA + 0x1000, 0x80_1000).memory
    prober = CompositeProber(memory, PagingContext(**{"cr3": ROOT} | registers))
    found = prober.lacking(asked).tolist()
    assert [0 if not expected else 1 + FEATURES.index(expected)] == found
    if expected:
        assert [False] == prober.possible(asked).tolist()
        with pytest.raises(BadInput, match=f"the emulated CPU has no {expected}"):
            prober.probe(asked)
