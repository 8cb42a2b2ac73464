import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.reduce import passes, size_of
from crosswalk.emu.fuzz.reduce.interesting import reduced_to, signature_to_keep, signatures_of
from crosswalk.emu.fuzz.reduce.reducer import MAX_TRIES, one_by_one, too_many
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu, Probe, dump_case
from tests.emu.check.planted_bugs import ADDRESSES, FAULTS, KEYS, MARKS, RESERVED, RIGHTS


def reduce_case(case, shows, enough=too_many):
    """Reduce a case, with one candidate tried after the other."""
    return passes.reduce_case(case, one_by_one(shows), enough)


BUGS = [*RIGHTS, *KEYS, *ADDRESSES, *RESERVED, *FAULTS, *MARKS]
WORDS = st.dictionaries(
    st.integers(0, 0x3FF).map(lambda at: 0x1000 + 8 * at),
    st.integers(1, (1 << 64) - 1),
    max_size=12,
)
CASES = st.builds(
    Case,
    cpu=st.builds(
        Cpu,
        cr3=st.sampled_from([0x1000, 0x2018]),
        cr4=st.sampled_from([0x20, 0x1020, 0x700020, 0x3000A0]),
        cr0=st.sampled_from([0x80010033, 0x80000033]),
        pkru=st.integers(0, (1 << 32) - 1),
    ),
    ram=st.just(((0, 0x20000),)),
    entries=WORDS,
    probes=st.lists(
        st.builds(
            Probe,
            va=st.integers(0, (1 << 64) - 1),
            access=st.sampled_from(["read", "write", "execute"]),
            cpl=st.sampled_from([0, 3]),
            ac=st.booleans(),
        ),
        min_size=1,
        max_size=9,
    ).map(tuple),
)


@given(CASES, st.integers(0, 63), st.integers(1, 3))
@settings(max_examples=40)
def test_what_is_left_shows_it_is_smaller_and_is_its_own_reduction(case, bit, most):
    def shows(each):
        bits = sum(word >> bit & 1 for word in each.entries.values())
        return bits >= min(most, wanted) and any(probe.cpl for probe in each.probes) == user

    wanted = sum(word >> bit & 1 for word in case.entries.values())
    user = any(probe.cpl for probe in case.probes)
    reduced = reduce_case(case, shows)
    assert shows(reduced.case)
    assert size_of(reduced.case) <= size_of(case)
    assert (1, min(most, wanted)) == (len(reduced.case.probes), len(reduced.case.entries))
    again = reduce_case(reduced.case, shows)
    assert dump_case(reduced.case) == dump_case(again.case)
    assert dump_case(reduced.case) == dump_case(reduce_case(case, shows).case)


@given(st.sampled_from(BUGS), st.integers(0, 1 << 32))
@settings(max_examples=8)
def test_a_reduced_finding_is_its_own_reduction_whatever_bug_and_layout(bug, seed):
    executor = Executor(predict=bug.predict)
    for found in executor.findings(generate(seed, 0, accesses=64)).all()[:2]:
        first = reduced_to(executor, found.whole, found.signature)
        assert first.done
        assert (1, True) == (len(first.case.probes), len(first.case.entries) <= 5)
        assert found.signature in signatures_of(executor, first.case)
        again = reduced_to(executor, first.case, found.signature)
        assert dump_case(first.case) == dump_case(again.case)


def many(count):
    return Case(
        cpu=Cpu(cr3=0x1000),
        ram=((0, 0x10000),),
        entries={0x1000 + 8 * at: 7 for at in range(count)},
        probes=tuple(Probe(va=4096 * at, access="read") for at in range(count)),
    )


def test_one_probe_of_thousands_is_found_by_halves():
    reduced = reduce_case(many(448), lambda case: any(each.va == 0x101000 for each in case.probes))
    assert (0x101000,) == tuple(each.va for each in reduced.case.probes)
    assert {} == reduced.case.entries or len(reduced.case.entries) == 1
    assert reduced.tries < 90


def test_two_probes_that_need_each_other_are_kept():
    def shows(case):
        return {0x3000, 0x40000} <= {each.va for each in case.probes}

    assert [0x3000, 0x40000] == [each.va for each in reduce_case(many(100), shows).case.probes]


def test_a_case_that_cannot_be_tried_does_not_show_it():
    def shows(case):
        if len(case.entries) < 5:
            raise BadInput("can't be tried")
        return True

    assert 5 == len(reduce_case(many(9), shows).case.entries)


def test_a_mistake_in_what_is_asked_is_not_taken_for_an_answer():
    with pytest.raises(ZeroDivisionError):
        reduce_case(many(9), lambda case: 1 // 0)


def test_there_is_an_end_and_it_is_said():
    calls = []

    def shows(case):
        calls.append(case)
        return len(calls) % 2 == 0

    reduced = reduce_case(many(64), shows, lambda tries: tries >= 10)
    assert (10, False, 10) == (reduced.tries, reduced.done, len(calls))
    assert MAX_TRIES > 100


def test_entries_above_the_low_mebibyte_stay_in_ram():
    case = Case(
        cpu=Cpu(cr3=0x40_0000),
        ram=((0x40_0000, 0x10000),),
        entries={0x40_0000: 0x40_0007},
        probes=(Probe(va=0, access="read"), Probe(va=1 << 39, access="read")),
    )
    reduced = reduce_case(case, lambda each: len(each.probes) == 2 and 0x40_0000 in each.entries)
    assert (((0, 0x40_1000),), True) == (reduced.case.ram, reduced.done)


def test_tables_outside_low_ram_come_into_a_mebibyte_that_is_made_for_them():
    case = Case(
        cpu=Cpu(cr3=0x40_0000),
        ram=((0x40_0000, 0x10000),),
        entries={0x40_0000: 0x40_1007, 0x40_1000: 0x40_2007},
        probes=(Probe(va=0, access="read"),),
    )
    reduced = reduce_case(case, lambda each: len(each.entries) == 2)
    assert (((0, 0x3000),), True) == (reduced.case.ram, reduced.done)
    assert {0x1000: 0x2007, 0x2000: 0x3007} == reduced.case.entries


def test_the_signature_that_the_note_names_is_kept():
    (bug,) = [bug for bug in RIGHTS if bug.name == "U/S not inherited"]
    executor = Executor(predict=bug.predict)
    whole = next(
        found.whole
        for index in range(9)
        for found in executor.findings(generate(0, index, accesses=512)).all()
    )
    several = Case(
        cpu=whole.cpu,
        ram=whole.ram,
        entries=whole.entries,
        probes=tuple(
            found.case.probes[0]
            for index in range(9)
            for found in executor.findings(generate(0, index, accesses=512)).all()
            if found.whole.entries == whole.entries
        ),
    )
    found = signatures_of(executor, several)
    assert len(found) > 1
    assert found[0] == signature_to_keep(executor, several)
    for each in found:
        noted = Case(
            cpu=several.cpu,
            ram=several.ram,
            entries=several.entries,
            probes=several.probes,
            note=f"{each} (layout 3)",
        )
        assert each == signature_to_keep(executor, noted)
    assert None is signature_to_keep(Executor(), several)
