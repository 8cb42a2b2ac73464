"""Layouts in 32-bit and PAE paging, and with wide physical addresses: all witnesses, and bugs."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.findings.findings import INTENDED, SECOND_WALK, WALKER
from crosswalk.emu.findings.layout import IntendedKind
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.generate.shares import Share, share_of
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.answers import Answers
from crosswalk.walker import bulk
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import CR0, CR4, PagingContext, PagingMode, Vendor
from crosswalk.walker.entry import Entry
from crosswalk.walker.outcome import ErrorCode
from tests.emu.fuzz.generate.intentions import WRONG, differing

BIT32, PAE = Share(PagingMode.BIT32), Share(PagingMode.PAE)
LEGACY = [BIT32, PAE]
WIDE = [Share(wide=True), Share(PagingMode.PAE, wide=True), Share(PagingMode.LEVEL5, wide=True)]
FEW = 12
"""Within so many layouts each planted bug has to be found."""


def name_of(share):
    return f"{'' if share.mode is None else share.mode.slug}{'wide' if share.wide else ''}"


def layouts(share, count=FEW, seed=0):
    return [generate(seed, index, accesses=1024, share=share) for index in range(count)]


def findings(share, executor=None, count=FEW):
    executor = executor or Executor()
    return [
        each.signature
        for layout in layouts(share, count)
        for each in executor.run(lambda layout=layout: layout).findings
    ]


@pytest.mark.parametrize("share", [*LEGACY, *WIDE], ids=name_of)
def test_all_witnesses_agree(share):
    executor = Executor()
    for layout in layouts(share):
        assert share.mode in {None, layout.context.mode}
        tried = executor.run(lambda layout=layout: layout)
        assert () == tried.findings
        assert tried.probes + tried.predicted_only.total() == len(layout.accesses) > 50


@pytest.mark.parametrize("share", LEGACY, ids=name_of)
def test_every_kind_of_outcome_is_intended_and_most_outcomes_are(share):
    kinds = Counter()
    for layout in layouts(share, 40):
        kinds.update(layout.intended.kind.tolist())
        assert not differing(layout).any()
    possible = {kind for kind in IntendedKind if kind not in {
        IntendedKind.KEY, IntendedKind.NOT_CANONICAL, IntendedKind.OTHER_HALF,
        *({IntendedKind.NOT_LOADED} if share is BIT32 else {}),
    }}  # fmt: skip
    assert possible == set(kinds)
    assert kinds[IntendedKind.UNKNOWN] < 0.5 * kinds.total()


@pytest.mark.parametrize("share", LEGACY, ids=name_of)
@pytest.mark.parametrize("name", [name for name in WRONG if "keys" not in name
                                  and "canonical" not in name])  # fmt: skip
def test_a_wrong_intention_is_found_out(share, name):
    made = layouts(share)
    wrong = [replace(layout, intended=WRONG[name](layout.intended)) for layout in made]
    shown = [differing(layout).any() for layout in wrong]
    found = Executor().findings(wrong[shown.index(True)]).signatures
    assert {INTENDED} == {signature.witness for signature in found}


@pytest.mark.parametrize("share", LEGACY, ids=name_of)
def test_control_bits_vendors_and_features_have_their_values(share):
    contexts = [layout.context for layout in layouts(share, 40)]
    for name in ("wp", "smep", "smap", "pge", "pse"):
        assert {False, True} == {getattr(context, name) for context in contexts}, name
    assert {*Vendor} == {context.vendor for context in contexts}
    assert {40} < {context.maxphyaddr for context in contexts}
    # Without effect here.
    assert any(context.cr4 & CR4.PKE and context.pkru for context in contexts)


def sizes(share):
    return {
        size
        for layout in layouts(share)
        for size in translate_many(layout.memory(), layout.context, layout.accesses).page_size
    }


def test_pages_are_of_all_sizes_and_some_lie_above_4_gib():
    assert {0, 1 << 12, 1 << 22} == sizes(BIT32)
    assert {0, 1 << 12, 1 << 21} == sizes(PAE)
    for share in LEGACY:
        reached = [
            int(translate_many(layout.memory(), layout.context, layout.accesses).pa.max())
            for layout in layouts(share)
        ]
        assert max(reached) > 1 << 32


def test_tables_are_shared_and_lead_to_themselves():
    for share in LEGACY:
        shared = recursive = 0
        for layout in layouts(share, 24):
            words = layout.words
            entries = words.view(np.uint32) if share is BIT32 else words
            used = entries[(entries & entries.dtype.type(1)) != 0].astype(np.uint64)
            to = used & np.uint64(layout.context.address_mask)
            _, counts = np.unique(to[np.isin(to, layout.frames)], return_counts=True)
            shared += bool((counts > 1).any())
            own = (entries & entries.dtype.type(0xFFFF_F000)) == layout.frames[:, None]
            recursive += bool((own & ((entries & entries.dtype.type(1)) != 0)).any())
        assert min(shared, recursive) > 3


def without(register, bit):
    """A walker that takes a bit of a control register to be clear."""

    def predict(memory, context, accesses):
        plain = replace(context, **{register: getattr(context, register) & ~bit})
        return translate_many(memory, plain, accesses)

    return predict


@pytest.mark.parametrize("share", LEGACY, ids=name_of)
@pytest.mark.parametrize(
    ("register", "bit"), [("cr0", CR0.WP), ("cr4", CR4.SMEP), ("cr4", CR4.SMAP)],
    ids=["wp", "smep", "smap"],
)  # fmt: skip
def test_a_walker_without_a_control_bit_is_found(share, register, bit):
    found = findings(share, Executor(without(register, bit)))
    assert WALKER in {each.witness for each in found}


def rights_of_pdptes(monkeypatch):
    real = bulk.level_of
    monkeypatch.setattr(bulk, "level_of", lambda *at: replace(real(*at), restricts=True))


def bits_not_reserved(bits):
    real = bulk.reserved_bits

    def plant(monkeypatch):
        monkeypatch.setattr(bulk, "reserved_bits", lambda *at, leaf: real(*at, leaf=leaf) & ~bits)

    return plant


def large_without_pse(monkeypatch):
    real = bulk.maps_large
    monkeypatch.setattr(bulk, "maps_large", lambda context, level: (
        level == 2 or real(context, level)
    ))  # fmt: skip


def keys_outside_long_mode(monkeypatch):
    monkeypatch.setattr(PagingContext, "pke", property(lambda self: bool(self.cr4 & CR4.PKE)))


def patched(name, value):
    return lambda monkeypatch: monkeypatch.setattr(bulk, name, value)


BUGS = {
    "address bits 39:32 of a 4-MiB page": (
        BIT32, patched("addresses_4mib", lambda entries: entries & np.uint64(0xFFC0_0000)),
    ),
    "bit 21 of a 4-MiB page": (BIT32, bits_not_reserved(1 << 21)),
    "4-MiB pages without PSE": (BIT32, large_without_pse),
    "bits 62:52": (PAE, bits_not_reserved(0x7FF << 52)),
    "low bits of a 2-MiB page": (PAE, bits_not_reserved(0x1F_E000)),
    "XD with NXE clear": (PAE, bits_not_reserved(1 << 63)),
    "rights of PDPTEs": (PAE, rights_of_pdptes),
    "PDPTEs that aren't loaded": (PAE, patched("invalid_pdpte", lambda *_: None)),
    "protection keys": (PAE, keys_outside_long_mode),
    "protection keys in 32-bit paging": (BIT32, keys_outside_long_mode),
}  # fmt: skip


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_in_a_few_layouts(name, monkeypatch):
    share, plant = BUGS[name]
    count = 40 if "loaded" in name else FEW  # A tenth of the layouts may have such PDPTEs.
    plant(monkeypatch)
    # The emulated CPU loads no PDPTEs: there the intention alone contradicts.
    witness = INTENDED if "loaded" in name else WALKER
    assert witness in {each.witness for each in findings(share, count=count)}


def test_a_fetch_in_32_bit_paging_is_not_told_by_nxe():
    def predict(memory, context, accesses):
        outcomes = translate_many(memory, context, accesses)
        told = (outcomes.kind == Kind.PAGE_FAULT) & (accesses.type == 2) & bool(context.efer)
        outcomes.error_code[told] |= np.uint16(ErrorCode.ID)
        return outcomes

    assert WALKER in {each.witness for each in findings(BIT32, Executor(predict))}


class Masking:
    """A walker under test that cuts physical addresses to so many bits, of pages or of tables."""

    name, claims, modes = "masking", frozenset({Capability.RIGHTS}), None

    def __init__(self, bits, *, tables):
        self._bits, self._tables = bits, tables

    def answer(self, memory, context, accesses):
        below = (1 << self._bits) - 1
        if self._tables:
            width = min(self._bits, context.maxphyaddr)
            narrow = replace(context, maxphyaddr=width, cr3=context.cr3 & below)
            field = bulk.reserved_bits
            bulk.reserved_bits = lambda *at, leaf: field(*at, leaf=leaf) & ~(1 << 52) - (1 << 36)
            try:
                outcomes = translate_many(memory, narrow, accesses)
            finally:
                bulk.reserved_bits = field
        else:
            outcomes = translate_many(memory, context, accesses)
            outcomes = replace(outcomes, pa=outcomes.pa & np.uint64(below))
        return Answers(outcomes, np.zeros(len(accesses), np.bool_))


@pytest.mark.parametrize("share", WIDE, ids=name_of)
@pytest.mark.parametrize("tables", [False, True], ids=["pages", "tables"])
@pytest.mark.parametrize("bits", [40, 46, 48], ids=str)
def test_a_walker_that_cuts_addresses_is_found_in_a_few_layouts(share, bits, tables):
    target = Masking(bits, tables=tables)
    found = findings(share, Executor(target=target))
    assert {"peer:masking"} == {each.witness for each in found}
    plain = findings(share, Executor(target=Masking(52, tables=False)))
    assert [] == plain


def test_wide_layouts_are_predicted_only_and_counted():
    executor, predicted, made = Executor(), 0, 0
    for layout in layouts(Share(wide=True)):
        tried = executor.run(lambda layout=layout: layout)
        predicted += tried.predicted_only["wide"]
        made += tried.probes
    assert predicted > 1000
    assert made > 1000


def test_the_builtin_walker_that_cuts_addresses_is_contradicted_twice():
    def predict(*given):
        outcomes = translate_many(*given)
        return replace(outcomes, pa=outcomes.pa & np.uint64((1 << 46) - 1))

    found = findings(Share(wide=True), Executor(predict))
    assert {INTENDED, SECOND_WALK} == {each.witness for each in found}


def test_the_shares_of_the_modes_and_their_numbers():
    made = [share_of(index) for index in range(160)]
    counts = Counter(share for share, _ in made)
    assert {Share(): 110, BIT32: 20, PAE: 20, Share(wide=True): 10} == counts
    for share in counts:
        assert [number for each, number in made if each == share] == [*range(counts[share])]


def test_chosen_modes_have_equal_shares_and_no_others():
    modes = (PagingMode.BIT32, PagingMode.LEVEL5)
    made = [share_of(index, modes) for index in range(64)]
    counts = Counter(share.mode for share, _ in made)
    assert {PagingMode.BIT32: 32, PagingMode.LEVEL5: 32} == counts
    assert {PagingMode.LEVEL5} == {share.mode for share, _ in made if share.wide}
    for share in {share for share, _ in made}:
        numbers = [number for each, number in made if each == share]
        assert [*range(len(numbers))] == numbers
    layout = generate(0, 0, accesses=64, share=Share(PagingMode.LEVEL4))
    assert PagingMode.LEVEL4 is layout.context.mode


def test_reserved_bits_of_both_kinds_are_set():
    kinds = {"bits 62:52": 0x7FF << 52, "above MAXPHYADDR": 0xFFF << 40}
    seen = Counter()
    for layout in layouts(PAE, 40):
        entries = layout.words[(layout.words & np.uint64(Entry.P)) != 0]
        for name, bits in kinds.items():
            seen[name] += int(((entries & np.uint64(bits)) != 0).sum())
    assert set(kinds) == {name for name, count in seen.items() if count > 5}
