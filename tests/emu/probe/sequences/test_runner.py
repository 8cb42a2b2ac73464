"""What a run of guest code reports, and that the TLB is kept between a sequence's steps."""

import pytest

from crosswalk.emu.check.sequences import judge
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.page_marker import marker
from crosswalk.emu.probe.sequences import Runner, routines
from crosswalk.emu.probe.sequences.routines import Event
from crosswalk.emu.probe.sequences.runner import Fault, outcomes_of
from crosswalk.emu.probe.sequences.workspace import View, plan_of
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4, PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from crosswalk.walker.tlb import (
    Halted,
    Invlpg,
    Invpcid,
    MovCr0,
    MovCr3,
    MovCr4,
    Rule,
    Sequence,
    Store,
    Wrpkru,
)

READ, WRITE, FETCH = AccessType
RAM = ((0, 0x40_0000),)
OPEN = 0x67
OLD, NEW = 0x10_0000, 0x11_0000
SMALL = {0x1000: 0x2000 | OPEN, 0x2000: 0x3000 | OPEN, 0x3000: 0x4000 | OPEN, 0x4000: OLD | OPEN}
CR4_ON = int(CR4.PAE | CR4.PGE)
KINDS = [(kind, cpl) for kind in AccessType for cpl in (0, 3)]
# The page's index is none of those that the runner's own pages have, so that a TLB keeps both.
AT = 60 << 12
WORDS = {pa: word for pa, word in SMALL.items() if pa < 0x4000} | {0x4000 + 8 * 60: OLD | OPEN}
PTE = 0x4000 + 8 * 60


def sequence(*steps, entries=WORDS, ram=RAM, **registers):
    context = PagingContext(**({"cr3": 0x1000, "cr4": CR4_ON} | registers))
    return Sequence(context=context, ram=ram, entries=entries, steps=steps)


def access(kind=READ, cpl=3, va=AT, ac=False):
    return Access(va, kind, cpl, ac)


@pytest.fixture(scope="module")
def runner():
    return Runner()


@pytest.mark.parametrize(("kind", "cpl"), KINDS)
def test_each_access_tells_where_it_came_and_what_it_changed(runner, kind, cpl):
    bare = {pa: word & ~0x60 for pa, word in WORDS.items()}
    marked = {pa: word | 0x20 for pa, word in bare.items()}
    if kind is WRITE:
        marked[PTE] |= 0x40
    seen = runner.run(sequence(access(kind, cpl), access(kind, cpl), entries=bare))
    assert (Translation(OLD, entries=tuple(sorted(marked.items()))), Translation(OLD)) == seen


@pytest.mark.parametrize(("kind", "cpl"), KINDS)
def test_faults_come_one_after_the_other_each_with_its_code_and_address(runner, kind, cpl):
    steps = [access(kind, cpl, va=1 << 40), access(kind, cpl, va=1 << 47), access(kind, cpl)] * 4
    code = {READ: 0, WRITE: 2, FETCH: 0x10}[kind] | (4 if cpl == 3 else 0)
    seen = runner.run(sequence(*steps))
    assert (PageFault(code, 1 << 40), GeneralProtection(), Translation(OLD)) * 4 == seen


@pytest.mark.parametrize("kind", AccessType)
def test_a_stale_translation_is_seen_until_it_is_invalidated(runner, kind):
    made = access(kind)
    seen = runner.run(sequence(made, Store(PTE, NEW | OPEN), made, Invlpg(AT), made))
    assert [OLD, OLD, NEW] == [outcome.pa for outcome in seen]


def test_each_sequence_begins_with_an_empty_tlb_and_pages_as_new(runner):
    assert (Translation(OLD),) == runner.run(sequence(access(WRITE)))
    assert (Translation(NEW),) == runner.run(sequence(access(), entries=WORDS | {PTE: NEW | OPEN}))
    assert (PageFault(4, AT),) == runner.run(sequence(access(), entries={0x1000: 0x2067}))
    assert (Translation(OLD),) == runner.run(sequence(access()))


def test_pages_of_one_sequence_may_be_tables_of_the_next(runner):
    assert (Translation(0x6000),) == runner.run(
        sequence(access(), entries=WORDS | {PTE: 0x6000 | OPEN})
    )
    swapped = WORDS | {0x3000: 0x6000 | OPEN, 0x6000 + 8 * 60: 0x4000 | OPEN}
    del swapped[PTE]
    assert (Translation(0x4000),) == runner.run(sequence(access(), entries=swapped))


def test_control_registers_are_loaded_by_the_guest(runner):
    read_only = WORDS | {PTE: OLD | OPEN & ~2}
    wp = int(CR0.PG | CR0.PE | CR0.WP) | 0x32
    seen = runner.run(
        sequence(
            access(WRITE, 0),
            MovCr0(wp & ~int(CR0.WP)),
            access(WRITE, 0),
            MovCr4(CR4_ON | CR4.SMAP),
            access(READ, 0),
            access(READ, 0, ac=True),
            MovCr4(CR4_ON | CR4.SMAP | CR4.PKE),
            Wrpkru(1),
            access(READ, 3),
            entries=read_only,
        )
    )
    expected = [PageFault(3, AT), Translation(OLD), PageFault(1, AT), Translation(OLD)]
    assert [*expected, PageFault(0x25, AT)] == list(seen)


@pytest.mark.parametrize("la57", [0, int(CR4.LA57)])
def test_another_root_is_loaded_and_the_runner_is_there_too(runner, la57):
    five = {0xA000: 0x1000 | OPEN} if la57 else {}
    root = 0xA000 if la57 else 0x1000
    seen = runner.run(
        sequence(
            access(),
            MovCr3(0xB000),
            access(),
            MovCr3(root),
            access(),
            entries=WORDS | five,
            cr3=root,
            cr4=CR4_ON | la57,
        )
    )
    assert (Translation(OLD), PageFault(4, AT), Translation(OLD)) == seen


def test_a_step_that_the_processor_has_not_ends_the_sequence(runner):
    seen = runner.run(sequence(access(), Invpcid(2), access()))
    assert (Translation(OLD), Halted(1, "#UD")) == seen


# Guest code that leaves an instruction out, while the model believes that it was executed.
LEFT_OUT = [
    ("invlpg", (Invlpg(AT),), Rule.INVLPG),
    ("cr3", (MovCr3(0x1000),), Rule.CR3),
    ("cr4", (MovCr4(CR4_ON & ~int(CR4.PGE)), MovCr4(CR4_ON)), Rule.PGE),
    ("cr4", (MovCr4(CR4_ON | CR4.SMEP),), Rule.SMEP),
]


@pytest.mark.parametrize(("name", "steps", "rule"), LEFT_OUT, ids=str)
def test_an_invalidation_that_is_left_out_is_found(runner, monkeypatch, name, steps, rule):
    made = sequence(access(), Store(PTE, NEW | OPEN), *steps, access())
    assert None is judge(made, runner.run(made)).violation
    monkeypatch.setitem(routines.ROUTINE, name, routines._NEXT)
    violation = judge(made, runner.run(made)).violation
    assert violation
    assert (str(rule),) == violation.causes


def test_a_store_that_is_left_out_is_found(runner, monkeypatch):
    made = sequence(access(), Store(PTE, NEW | OPEN), Invlpg(AT), access())
    monkeypatch.setitem(routines.ROUTINE, "store", routines._NEXT)
    assert judge(made, runner.run(made)).violation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": WORDS | {PTE: 0x5000_0000 | OPEN}}, "there is no RAM"),
        ({"cr3": 0x50_0000}, "points to no RAM"),
        ({"ram": ((0, 0x40_0000), (960 << 30, 0x1000))}, "own pages"),
        ({"ram": ((0, 0x40_0000), (1 << 40, 0x1000))}, "above 2\\^40"),
        ({"maxphyaddr": 46}, "MAXPHYADDR of at most 40"),
        ({"vendor": Vendor.AMD}, "Intel"),
    ],
    ids=[
        "no RAM at the page",
        "CR3",
        "RAM where the runner is",
        "RAM too high",
        "width",
        "AMD",
    ],
)
def test_what_can_not_be_run_is_said_in_one_line(changes, message):
    with pytest.raises((BadInput, ProbeError), match=message) as raised:
        Runner().run(sequence(access(), **changes))
    assert "\n" not in str(raised.value)


def test_addresses_have_to_fit_a_marker(runner):
    with pytest.raises(BadInput, match="multiples of 16"):
        runner.run(sequence(access(va=AT + 8)))


def test_too_many_steps_and_words_are_refused(runner):
    with pytest.raises(BadInput, match="more steps"):
        runner.run(sequence(*[access()] * 512))
    many = {0x20_0000 + 8 * at: 0x1 for at in range(1100)}
    with pytest.raises(BadInput, match="more steps, words"):
        runner.run(sequence(access(), entries=WORDS | many))


VIEW = View(510, *(0x7F00_0000_0000 + at * 0x1000 for at in range(8)))


def account(*events, faults=(), made=None):
    made = sequence(access()) if made is None else made
    plan = plan_of(made, [0x1000])
    words = []
    for event, at, value in events:
        base = VIEW.records if event in (Event.DONE, Event.LOOKED) else VIEW.list
        words += [event << 32 | (base & 0xFFFF_FFFF) + at, value]
    return outcomes_of(made, plan, VIEW, words, list(faults), None)


MARKED = marker(OLD)[0]
DONE, LOOKED = (Event.DONE, 0, MARKED), (Event.LOOKED, 0, 0)
FAULT = Fault(VIEW.records, 14, 4, AT)


def test_an_account_that_is_whole_gives_an_outcome():
    assert (Translation(OLD),) == account(DONE, LOOKED)
    assert (PageFault(4, AT),) == account(LOOKED, faults=[FAULT])


@pytest.mark.parametrize(
    ("events", "faults", "message"),
    [
        ((), (), "no account"),
        ((LOOKED,), (), "no proof"),
        ((DONE, DONE, LOOKED), (), "no proof"),
        ((DONE, LOOKED), (FAULT,), "faulted, and was made"),
        ((LOOKED,), (FAULT, FAULT), "twice"),
        ((LOOKED,), (FAULT._replace(vector=8),), "vector 8"),
        (((Event.DONE, 0, MARKED + (1 << 8)), LOOKED), (), "no page is marked"),
        ((DONE, (Event.SLOT, 16 * 5, 0), LOOKED), (), "no page is marked"),
        ((DONE, LOOKED, (Event.LOOKED, 32, 0)), (), "accounts of what it has not"),
        (((7, 0, 0),), (), "logged"),
    ],
    ids=range(10),
)
def test_an_account_that_proves_nothing_is_an_error(events, faults, message):
    with pytest.raises(ProbeError, match=message):
        account(*events, faults=faults)


def test_a_write_has_to_have_left_its_byte_in_one_page():
    made = sequence(access(WRITE))
    stored = (Event.SLOT, 16 * 5, MARKED & ~0xFF | 0xA5)
    assert (Translation(OLD),) == account(DONE, stored, LOOKED, made=made)
    for events in ((DONE, LOOKED), (DONE, stored, stored, LOOKED)):
        with pytest.raises(ProbeError, match="left no byte"):
            account(*events, made=made)
