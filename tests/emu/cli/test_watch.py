"""`--watch`: what changes from one look to the next, of a stub's guest and of a file."""

import itertools
import time

import pytest

from tests.emu.cli.conftest import small
from tests.emu.cli.running import refused
from tests.tables import OPEN, RW, XD, A, D, P
from tests.walker.formats.stubs import Stub

ALWAYS = ("--watch", "0.001", "--watch-count")


class Sleeper:
    """Changes something at each pause of a watch, in the order given, and doesn't sleep."""

    def __init__(self, monkeypatch):
        self.changes = []
        monkeypatch.setattr(time, "sleep", self)

    def __call__(self, seconds):
        assert 0.001 == seconds
        if self.changes:
            self.changes.pop(0)()


@pytest.fixture
def sleeper(monkeypatch):
    return Sleeper(monkeypatch)


@pytest.fixture
def guest():
    """A guest behind a stub, and its tables, which may be changed when it runs."""
    tables = small()
    with Stub(tables.memory).listening() as stub:
        stub.tables = tables
        yield stub


def changing(stub, **pages):
    """Write other entries of level 1: of a page by its address, as a word."""

    def change():
        assert stub.running, "the guest is paused"
        for va, word in pages.items():
            stub.tables.entries[stub.tables.entry_pa(int(va[1:], 16))] = word
        stub.memory = stub.tables.memory

    return change


def test_pages_that_come_go_and_change_are_a_line_each(run, guest, sleeper):
    sleeper.changes = [
        changing(guest, _402000=0xB000 | P | RW | XD, _401000=0, _400000=0x8000 | P | XD),
        changing(guest, _402000=0xC000 | P | RW | XD),
    ]
    ran = run("walk", guest.name, *ALWAYS, 4)
    assert 0 == ran.status
    was = "0000000000400000 0000000008000   4 KiB rw- ---  RW XD"
    moved = "0000000000402000 000000000c000   4 KiB rw- ---  RW XD"
    assert [
        f"~ 0000000000400000 0000000008000   4 KiB r-- ---  XD, was {was}",
        "- 0000000000401000 0000000009000   4 KiB r-x ---",
        "+ 0000000000402000 000000000b000   4 KiB rw- ---  RW XD",
        f"~ {moved}, was 0000000000402000 000000000b000   4 KiB rw- ---  RW XD",
    ] == [line.rstrip() for line in ran.out.splitlines()]
    assert 4 == guest.connections
    assert (True, False) == guest.found


def test_records_have_the_look_and_what_was_before(run, guest, sleeper):
    sleeper.changes = [changing(guest, _401000=0x9000 | P | XD, _800000=0)]
    changed, removed = run("walk", guest.name, *ALWAYS, 2, "--json").records
    assert (2, "changed", "0x401000") == (changed["look"], changed["change"], changed["va"])
    assert {"supervisor": "r--", "user": "---"} == changed["rights"]
    assert {"supervisor": "r-x", "user": "---"} == changed["was"]["rights"]
    assert (2, "removed", "0x800000") == (removed["look"], removed["change"], removed["va"])


def test_what_each_access_may_set_is_no_change(run, guest, sleeper):
    sleeper.changes = [changing(guest, _800000=0xA000 | OPEN | A | D)]
    ran = run("walk", guest.name, *ALWAYS, 2)
    assert (0, "") == (ran.status, ran.out)


def test_pages_that_the_filters_leave_out_come_and_go(run, guest, sleeper):
    sleeper.changes = [changing(guest, _400000=0x8000 | P | XD, _402000=0xB000 | P | XD)]
    ran = run("walk", guest.name, *ALWAYS, 2, "--writable", "--json")
    assert [("removed", "0x400000")] == [(each["change"], each["va"]) for each in ran.records]


def test_frames_whose_collective_rights_change_are_listed(run, guest, sleeper):
    sleeper.changes = [
        changing(guest, _402000=0x8000 | P, _401000=0, _403000=0xC000 | P, _404000=0xD000 | P)
    ]
    ran = run("frames", guest.name, *ALWAYS, 2, "--json")
    assert [
        ("changed", "0x8000", 0x1000, "rwx"),
        ("removed", "0x9000", 0x1000, "r-x"),
        ("added", "0xc000", 0x2000, "r-x"),
    ] == [(each["change"], each["pa"], each["size"], each["supervisor"]) for each in ran.records]
    assert "rw-" == ran.records[0]["was"]["supervisor"]


def test_frames_are_lines_for_people(run, guest, sleeper):
    sleeper.changes = [changing(guest, _401000=0)]
    ran = run("frames", guest.name, *ALWAYS, 2)
    assert ["- 0000000009000-0000000009fff        4 KiB r-x ---"] == ran.out.splitlines()


def test_changes_of_each_root_are_named_by_it(run, guest, sleeper):
    sleeper.changes = [changing(guest, _401000=0)]
    ran = run("walk", guest.name, "--roots", "0x1000", *ALWAYS, 2, "--json")
    assert [("0x1000", "removed")] == [(each["root"], each["change"]) for each in ran.records]
    sleeper.changes = [changing(guest, _401000=0x9000 | P)]
    ran = run("walk", guest.name, "--roots", "0x1000", *ALWAYS, 2)
    assert ran.out.endswith("; root 0x1000\n")


def test_another_root_is_reported_and_compared(run, guest, sleeper):
    def switch():
        guest.cpus[0]["cr3"] = 0x2000

    sleeper.changes = [switch]
    ran = run("walk", guest.name, *ALWAYS, 2, "--allow-empty", "--json")
    assert "look 2: the root is now 0x2000\n" in ran.err
    assert {"removed"} == {each["change"] for each in ran.records if int(each["va"], 16) < 1 << 30}


def test_a_limit_ends_the_watch(run, guest, sleeper):
    sleeper.changes = [changing(guest, _400000=0, _401000=0)]
    ran = run("walk", guest.name, *ALWAYS, 9, "--limit", 1)
    assert 0 == ran.status
    assert 1 == len(ran.out.splitlines())
    assert 2 == guest.connections


def test_an_interrupt_ends_it_and_the_guest_runs(run, guest, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    ran = run("walk", guest.name, "--watch", "1")
    assert 130 == ran.status
    assert ran.err.endswith("crosswalk: interrupted\n")
    assert (True, False) == guest.found


def test_a_file_is_read_anew_at_each_look(run, small_raw, sleeper):
    def unmap():
        data = bytearray(small_raw.read_bytes())
        at = small().entry_pa(0x40_1000)
        data[at : at + 8] = bytes(8)
        small_raw.write_bytes(data)

    sleeper.changes = [unmap]
    ran = run("walk", small_raw, "--cr3", "0x1000", *ALWAYS, 2, "--json")
    assert [("removed", "0x401000")] == [(each["change"], each["va"]) for each in ran.records]


def test_what_a_stub_does_not_tell_is_reported_once(run, guest, sleeper):
    guest.version = guest.printed["info version"] = "10.0.2"
    ran = run("walk", guest.name, *ALWAYS, 3)
    assert 1 == ran.err.count("doesn't tell whether the guest ran")
    assert 3 == guest.connections


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("walk", ("--coalesce",)),
        ("walk", ("--save-case", "{folder}/case.json")),
        ("walk", ("--summary", "{folder}/summary.json")),
        ("frames", ("--policy", "any")),
        ("frames", ("--of", "0x8000")),
    ],
)
def test_what_says_something_of_one_look_is_refused(run, small_raw, tmp_path, command, more):
    more = [each.format(folder=tmp_path) for each in more]
    line = refused(run(command, small_raw, "--cr3", "0x1000", "--watch", "1", *more))
    assert f"--watch and {more[0]}: choose one of them" in line


def test_a_guest_that_is_booted_is_not_watched(run):
    assert "stays as it is" in refused(run("walk", "guest:4level", "--watch", "1"))


def test_looks_are_counted_from_the_first_one(run, guest, sleeper):
    for number in itertools.islice(itertools.count(1), 3):
        before = guest.connections
        assert 0 == run("walk", guest.name, *ALWAYS, number).status
        assert number == guest.connections - before
