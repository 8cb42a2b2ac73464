"""The guest of a hypervisor that is a guest itself, its pages checked in two dimensions."""

from dataclasses import replace

import pytest

from crosswalk.emu.check import nested_guest
from crosswalk.emu.check.nested_guest import check_guest_pages, guest_pages
from crosswalk.emu.load.nested import nested_paging
from crosswalk.walker.access import AccessType
from crosswalk.walker.memory import Segments
from crosswalk.walker.nested.outcome import NestedPageFault
from crosswalk.walker.nested.translate import nested_outcomes
from tests.emu.cpu.svm.own_host import DATA, GUEST_TABLES, NESTED, VMMCALL, OwnHost

MISSING, FORBIDDEN = DATA + 0x1000, DATA + 0x2000
KEPT = range(DATA, DATA + 0x8000, 0x1000)
MARKED = 0x67  # With A and D, which the emulated CPU never sets in nested entries.


@pytest.fixture
def host():
    """One whose guest maps few pages, of 4 KiB each, when it has made its exit."""
    host = OwnHost(VMMCALL)
    host.run()
    for page in range(0, 8 << 20, 0x1000):
        host.nested(page, page | MARKED)
        host.mapped(page, page | MARKED if page in KEPT else 0)
    for level in range(3):
        host.ram.words[(NESTED + 0x1000 * level) // 8] |= MARKED
    host.nested(DATA, DATA | MARKED & ~2)
    host.nested(MISSING, 0)
    host.nested(FORBIDDEN, FORBIDDEN | MARKED | 1 << 63)
    return host


def paging_of(host):
    return nested_paging(host.machine.hypervisor.nested_root).context


def memory_of(host):
    return Segments([(host.ram.start, host.ram.bytes)])


def test_all_pages_of_the_guest_are_found(host):
    pages, unreached = guest_pages(memory_of(host), paging_of(host))
    assert [(page, 0x1000) for page in KEPT] == pages
    assert 0 == unreached


def test_what_the_guest_may_do_agrees_with_the_emulated_cpu(host):
    check = check_guest_pages(memory_of(host), paging_of(host))
    verdict = check.verdict
    # Eight pages, and the address behind the last one.
    assert (8, 9, 54, 54) == (check.pages, check.tried, verdict.probes, verdict.agreements)
    assert ((), ()) == (verdict.divergences, verdict.fatal)
    # Read-only: 2 writes; without execution: 2 fetches; missing: all 6.
    assert 4 == verdict.counts["nested, page, rights"]
    assert 6 == verdict.counts["nested, page, not present"]


def test_of_many_pages_some_are_tried(host):
    check = check_guest_pages(memory_of(host), paging_of(host), most=2)
    assert (8, 2, 12) == (check.pages, check.tried, check.verdict.agreements)


def test_a_prediction_that_forgets_the_nested_write_bit_is_found(host):
    def wrong(memory, context, access):
        outcomes = nested_outcomes(memory, context, access)
        if access.type is not AccessType.WRITE or not isinstance(outcomes[0], NestedPageFault):
            return outcomes
        return nested_outcomes(memory, context, replace(access, type=AccessType.READ))

    check = check_guest_pages(memory_of(host), paging_of(host), most=2, predict=wrong)
    assert {(DATA, AccessType.WRITE)} == {
        (each.access.va & ~0xFFF, each.access.type) for each in check.verdict.divergences
    }


def test_tables_that_lead_back_to_themselves_come_to_an_end(host, monkeypatch):
    monkeypatch.setattr(nested_guest, "_MOST_TABLES", 100)
    context = paging_of(host)
    empty = context.guest.root + 0x5000
    for page, below in ((0, 1), (1, 2), (2, 5)):
        begin = (context.guest.root + 0x1000 * page) // 8
        host.ram.words[begin : begin + 512] = context.guest.root + 0x1000 * below | MARKED
    host.ram.words[empty // 8 : empty // 8 + 512] = 0
    for page in range(context.guest.root, empty + 0x1000, 0x1000):
        host.nested(page, page | MARKED)
    pages, unreached = guest_pages(memory_of(host), context)
    assert ([], 0) == (pages, unreached)


def test_a_guests_table_that_is_not_mapped_is_counted():
    host = OwnHost(VMMCALL)
    table = GUEST_TABLES + 0x3000 + 3 * 0x1000
    host.nested(table, 0)
    host.run()
    pages, unreached = guest_pages(memory_of(host), paging_of(host))
    assert (1536, 1) == (len(pages), unreached)
