import numpy as np
import pytest

from crosswalk.emu.protect.kernel.nested import IdentityTables, tables_needed
from crosswalk.walker.nested.tables import NestedTables

RAM = 8 << 20
FRAMES = RAM >> 12
START = 1 << 33


@pytest.fixture
def words():
    return np.zeros(tables_needed(RAM) * 512, np.uint64)


def test_all_of_ram_is_granted_at_first(words):
    writable, executable = IdentityTables(words, START, RAM).found()
    assert writable.all()
    assert executable.all()


def test_what_was_set_is_read_back_after_single_changes_too(words):
    random = np.random.default_rng(7)
    tables = IdentityTables(words, START, RAM)
    for _ in range(3):
        writable, executable = random.random((2, FRAMES)) < 0.9
        tables.set(writable, executable)
        for frame in random.integers(0, FRAMES, 20).tolist():
            writable[frame] = not writable[frame]
            tables.set_writable(frame, writable=bool(writable[frame]))
            executable[frame] = True
            tables.allow_execution(frame)
        found = tables.found()
        assert (writable == found[0]).all()
        assert (executable == found[1]).all()


def test_a_stretch_that_is_alike_takes_large_pages(words):
    tables = IdentityTables(words, START, RAM)
    few = tables.tables
    tables.set_writable(5, writable=False)
    assert few + 1 == tables.tables
    tables.set_writable(5, writable=True)
    assert few == tables.tables


def test_devices_can_be_read_and_written(words):
    IdentityTables(words, START, RAM)
    # Each GiB has a table; the root and the one below are the other two.
    entries = words.reshape(-1, 512)
    device = [int(each) for each in entries.reshape(-1) if int(each) & (1 << 63)]
    assert (1 << 32) - RAM >> 21 == len(device)
    assert all(each & 7 == 7 for each in device)


def test_an_entry_lost_shows(monkeypatch, words):
    tables = IdentityTables(words, START, RAM)
    monkeypatch.setattr(NestedTables, "set", lambda *_: None)
    tables.set_writable(3, writable=False)
    assert tables.found()[0][3] != tables.writable[3]
