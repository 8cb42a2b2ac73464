"""A check of all address spaces together, and planted bugs that it has to find."""

import json
from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check import survey
from crosswalk.emu.cli import check_spaces as module
from crosswalk.emu.cli.check_pieces import check_in_pieces
from crosswalk.emu.cli.check_spaces import SHARED, check_spaces
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.leaves import TOP
from tests.tables import KIB4, RW, US, XD, A, P, PageTables, context, linear

KERNEL = linear(511, 0, 0, 0)
OWN = 0x40_0000
COUNT = 20
ROOTS = (0x1000, 0x4_1000, 0x4_2000)


@pytest.fixture
def memory():
    """Three roots with a kernel's tables in common; the last two have a page of their own each."""
    tables = PageTables(ram=((0, 0x10_0000),))
    for at in range(COUNT):
        tables.map(KERNEL + 2 * at * KIB4, 0x8_0000 + at * KIB4, P | RW | XD | A)
    shared = tables.entries[ROOTS[0] + 511 * 8]
    tables._free = 0x5_0000
    for number, root in enumerate(ROOTS[1:], 1):
        tables.root = root
        tables.entries[root + 511 * 8] = shared
        tables.map(OWN + number * KIB4, 0x9_0000 + number * KIB4, P | US | RW)
    return tables.memory


@pytest.fixture
def contexts():
    return [context(root=root) for root in ROOTS]


def same(verdict):
    return replace(verdict, seconds=0.0)


def test_what_roots_have_in_common_is_asked_once(memory, contexts):
    verdict, parts = check_spaces(memory, contexts)
    alone = check_in_pieces(memory, contexts[0])
    assert (0, []) == (verdict.divergent, parts)
    assert (3 * COUNT + 2, COUNT + 2) == (verdict.mappings, verdict.checked)
    assert {SHARED: 2 * COUNT} == verdict.not_asked
    # Of slot 0 its page and the holes around it are asked under either of the other roots.
    assert alone.probes + 2 * (14 + 6 * 6) == verdict.probes == verdict.agreements


def test_one_root_and_roots_with_nothing_in_common_are_as_alone(memory, contexts):
    verdict, _ = check_spaces(memory, contexts[1:2])
    assert same(check_in_pieces(memory, contexts[1])) == same(verdict)
    # Under SMEP an access may end otherwise, whatever the tables have in common.
    apart = [contexts[1], context(root=ROOTS[1], smep=True)]
    verdict, _ = check_spaces(memory, apart)
    assert {} == verdict.not_asked
    assert sum(check_in_pieces(memory, each).probes for each in apart) == verdict.probes


@pytest.mark.parametrize("jobs", [2, 3])
def test_the_verdict_is_the_same_whatever_the_number_of_processes(
    memory, contexts, jobs, monkeypatch
):
    monkeypatch.setattr(survey, "PIECE", 9)
    done = []
    alone = check_spaces(memory, contexts, jobs=1, progress=lambda *state: done.append(state))
    verdict, parts = check_spaces(memory, contexts, jobs=jobs)
    assert (same(alone[0]), alone[1]) == (same(verdict), parts)
    assert alone[0].probes == done[-1][0]
    assert sorted(done) == done


def wrong_at(va):
    """A walker that is wrong about one page, wherever it is mapped."""

    def predict(memory, paging, accesses):
        outcomes = translate_many(memory, paging, accesses)
        code = outcomes.error_code.copy()
        code[accesses.va & ~np.uint64(KIB4 - 1) == np.uint64(va)] ^= 1
        pa = outcomes.pa.copy()
        pa[accesses.va & ~np.uint64(KIB4 - 1) == np.uint64(va)] ^= np.uint64(KIB4)
        return replace(outcomes, error_code=code, pa=pa)

    return predict


def test_a_bug_about_a_page_of_one_root_is_found_under_that_root(memory, contexts, monkeypatch):
    monkeypatch.setattr(module, "translate_many", wrong_at(OWN + 2 * KIB4))
    verdict, parts = check_spaces(memory, contexts)
    # The page itself under the third root, and the hole in its place under the second.
    assert [contexts[1], contexts[2]] == [paging for paging, _ in parts]
    assert verdict.divergent == sum(part.divergent for _, part in parts)
    assert all(
        each.access.va >> 12 == (OWN >> 12) + 2 for _, it in parts for each in it.divergences
    )


def test_a_bug_about_a_shared_page_is_found_once(memory, contexts, monkeypatch):
    monkeypatch.setattr(module, "translate_many", wrong_at(KERNEL))
    verdict, parts = check_spaces(memory, contexts)
    assert [contexts[0]] == [paging for paging, _ in parts]
    assert 14 == verdict.divergent == len(parts[0][1].divergences)


def test_what_is_taken_for_shared_is_never_called_agreement(memory, contexts, monkeypatch):
    def everything(memory, group):
        found = original(memory, group)
        found[1:] = 0
        return found

    original = module.shared_slots
    monkeypatch.setattr(module, "shared_slots", everything)
    verdict, _ = check_spaces(memory, contexts)
    assert (3 * COUNT + 2, COUNT) == (verdict.mappings, verdict.checked)
    assert {SHARED: 2 * COUNT + 2} == verdict.not_asked


def test_a_part_of_the_addresses_has_its_own_counts(memory, contexts):
    verdict, _ = check_spaces(memory, contexts, between=(KERNEL, KERNEL + 8 * KIB4))
    assert (3 * 4, 4, {SHARED: 2 * 4}) == (verdict.mappings, verdict.checked, verdict.not_asked)
    verdict, _ = check_spaces(memory, contexts, between=(0, 1 << 47))
    assert (2, 2, {}) == (verdict.mappings, verdict.checked, verdict.not_asked)
    assert 0 < check_spaces(memory, contexts, between=(1 << 47, TOP - (1 << 47)))[0].probes


def test_a_limit_is_each_root_s(memory, contexts, monkeypatch):
    verdict, _ = check_spaces(memory, contexts, limit=5)
    assert (3 * COUNT + 2, 5 + 2) == (verdict.mappings, verdict.checked)
    monkeypatch.setattr("crosswalk.emu.cli.check_pieces.DEFAULT_LIMIT", 10)
    with pytest.raises(LimitExceeded, match="root 0x1000: 20 mappings"):
        check_spaces(memory, contexts)


@pytest.fixture
def image(tmp_path, memory):
    path = tmp_path / "image"
    path.write_bytes(memory.read(0, 0x10_0000))
    return path, "--roots", ",".join(map(hex, ROOTS))


def test_the_verdict_says_over_how_many_roots_it_is(run, image):
    ran = run("check", *image)
    assert 0 == ran.status
    shared = f"40 ({SHARED})"
    expected = f"verdict: agreement on 22 of 62 mappings; not asked: {shared}; under 3 roots"
    assert expected == ran.out.splitlines()[-2]
    (record,) = run("check", *image, "--json").records
    assert (62, {SHARED: 40}) == (record["mappings"], record["not_asked"])
    assert [20, 21, 21] == [each["mappings"] for each in record["roots"]]

    ran = run("check", image[0], "--roots", "0x1000")
    assert "verdict: agreement; under root 0x1000" == ran.out.splitlines()[-2]


def test_cases_of_divergences_are_named_by_their_root_and_replayed(
    run, image, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "translate_many", wrong_at(OWN + 2 * KIB4))
    ran = run("check", *image, "--cases", tmp_path / "cases", "--jobs", "1")
    assert 1 == ran.status
    assert [f"root {root:#x}, 4-level:" for root in ROOTS[1:]] == [
        line for line in ran.out.splitlines() if line.startswith("root 0x")
    ]
    names = sorted(path.name for path in (tmp_path / "cases").iterdir())
    assert "divergence-0000-root-0x41000.json" == names[0]
    assert names[-1].endswith("-root-0x42000.json")
    for name in (names[0], names[-1]):
        case = json.loads((tmp_path / "cases" / name).read_text())
        assert name.endswith(f"-root-{case['cpu']['cr3']}.json")
        # The walker that is shipped is right about it.
        assert 0 == run("replay", tmp_path / "cases" / name).status


def test_a_walker_under_test_takes_one_root(run, image):
    ran = run("check", *image, "--walker", "bulk")
    assert (2, "") == (ran.status, ran.out)
    assert "--walker takes one address space at a time" in ran.err
    assert 0 == run("check", image[0], "--roots", "0x1000", "--walker", "bulk").status
