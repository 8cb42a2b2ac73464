import numpy as np
import pytest

from crosswalk.emu.check import check, make_plan
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.probe.access_engine import SingleAccess
from crosswalk.emu.probe.bulk import BulkEngine
from crosswalk.emu.probe.loops import ACCESS, FIX, HEAD, LOOP_LANDED, LOOPS, LOOPS_DONE
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import SparseWords
from tests.emu.seeded_tables import seeded_tables


def differences(prober, accesses):
    """Return the rows in which bulk runs and single calls do not say the same."""
    bulk, single = prober.probe(accesses), prober.probe(accesses, bulk=False)
    return [row for row in range(len(accesses)) if bulk[row] != single[row]]


def counted(monkeypatch):
    """Count the accesses that are made in an engine call of their own."""
    made = []
    real = SingleAccess.make

    def counting(*given, **options):
        made.append(given)
        return real(*given, **options)

    monkeypatch.setattr(SingleAccess, "make", counting)
    return made


@pytest.fixture(params=["guest4", "guest5"])
def guest(request):
    return request.getfixturevalue(request.param)


def test_bulk_and_single_probes_of_the_guest_say_the_same(guest):
    plan = make_plan(guest.memory, guest.context)
    some = plan.accesses.take(np.arange(0, len(plan), 5))

    assert [] == differences(Prober(guest.memory, guest.context), some)


@pytest.mark.parametrize("seed", range(8))
def test_bulk_and_single_probes_of_a_seeded_tables_say_the_same(seed):
    memory, context, accesses = seeded_tables(seed, 250)

    assert [] == differences(Prober(memory, context), accesses)


def test_bulk_runs_decide_nearly_everything_of_the_guest(guest, monkeypatch):
    plan = make_plan(guest.memory, guest.context)
    alone = counted(monkeypatch)

    Prober(guest.memory, guest.context).probe(plan.accesses)

    # What leads to tables or out of RAM can't be marked, and fetches of the last byte neither.
    assert len(alone) < len(plan) / 6


def test_without_bulk_every_access_has_an_engine_call_of_its_own(guest4, monkeypatch):
    plan = make_plan(guest4.memory, guest4.context, start=0x400000, end=0x500000)
    alone = counted(monkeypatch)

    Prober(guest4.memory, guest4.context).probe(plan.accesses, bulk=False)

    assert len(plan) == len(alone)


def test_user_accesses_under_a_pkru_that_denies_every_key_are_made_alone(monkeypatch):
    words = {0x1000: 0x2067, 0x2000: 0x3067, 0x3000: 0x4067}
    # Enough pages that a run for the supervisor's accesses is worth its preparation.
    words |= {0x4000 + 8 * page: 0x5067 for page in range(8)}
    memory = SparseWords([(0, 0x10000)], words)
    context = PagingContext(cr3=0x1000, cr4=0x400020, pkru=0x5555_5555)
    alone = counted(monkeypatch)
    va = np.arange(8, dtype=np.uint64) * np.uint64(0x1000)
    accesses = Accesses.product(va, ac=False)

    Prober(memory, context).probe(accesses)

    assert {3} == {given[1].cpl for given in alone}


def test_aliases_of_one_frame_written_in_one_run_are_each_seen():
    words = {0x1000: 0x2067, 0x2000: 0x3067, 0x3000: 0x4067}
    words |= {0x4000 + 8 * page: 0x5063 for page in range(64)}
    memory = SparseWords([(0, 0x10000)], words)
    va = np.arange(64, dtype=np.uint64) * np.uint64(0x1000)
    count = len(va)
    writes = Accesses(
        va, np.full(count, 1, np.uint8), np.zeros(count, np.uint8), np.zeros(count, np.bool_)
    )
    outcomes = Prober(memory, PagingContext(cr3=0x1000)).probe(writes)

    assert [0x5000] * count == outcomes.pa.tolist()


@pytest.mark.parametrize("levels", [4, 5])
def test_the_loops_are_where_the_host_looks_for_their_parts(levels):
    loops = LOOPS[levels]
    assert 0xF4 == loops[LOOPS_DONE]  # hlt
    for kind, access in {
        AccessType.READ: "8a03",  # mov al, [rbx]
        AccessType.WRITE: "8803",  # mov [rbx], al
        AccessType.EXECUTE: "4c89d5ffe3",  # mov rbp, r10; jmp rbx
    }.items():
        assert loops[ACCESS[kind] :].startswith(bytes.fromhex(access))
        assert loops[HEAD[kind] :].startswith(bytes.fromhex("498b1f"))  # mov rbx, [r15]
        assert loops[FIX[kind] :].startswith(bytes.fromhex("31ff"))  # xor edi, edi
    assert loops[LOOP_LANDED:].startswith(bytes.fromhex("493b"))  # cmp rax, [r15 + …]


def test_a_bulk_run_that_reports_another_address_is_found_out(guest4, monkeypatch):
    real = BulkEngine.make

    def shifted(self, *given):
        found = real(self, *given)
        found.pa[found.pa != 0] ^= np.uint64(0x1000)
        return found

    monkeypatch.setattr(BulkEngine, "make", shifted)

    with pytest.raises(ProbeError, match="bulk and single probes differ"):
        check(guest4.memory, guest4.context)


def test_a_bulk_run_that_loses_its_faults_decides_nothing(guest4, monkeypatch):
    plan = make_plan(guest4.memory, guest4.context, start=0x400000, end=0x500000)
    expected = Prober(guest4.memory, guest4.context).probe(plan.accesses)
    hook = BulkEngine._hook

    def forgetful(self):
        real = hook(self)

        def fault(*given):
            real(*given)
            del self._notes[:]

        return fault

    monkeypatch.setattr(BulkEngine, "_hook", forgetful)
    observed = Prober(guest4.memory, guest4.context).probe(plan.accesses)

    assert [expected[row] for row in range(len(plan))] == [
        observed[row] for row in range(len(plan))
    ]


def test_a_fault_outside_of_all_records_leaves_the_run_undecided(guest4, monkeypatch):
    plan = make_plan(guest4.memory, guest4.context, start=0x400000, end=0x500000)
    expected = Prober(guest4.memory, guest4.context).probe(plan.accesses)
    real, alone = BulkEngine._go, counted(monkeypatch)

    def stray(self, *given):
        sane = real(self, *given)
        self._notes.extend((1 << 20, 0, 14, 0, 0))
        return sane

    monkeypatch.setattr(BulkEngine, "_go", stray)
    observed = Prober(guest4.memory, guest4.context).probe(plan.accesses)

    assert len(plan) == len(alone)
    assert [expected[row] for row in range(len(plan))] == [
        observed[row] for row in range(len(plan))
    ]
