"""Temporary files of processes that are killed are removed all the same."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from crosswalk.emu.workers.process import fork
from crosswalk.emu.workers.temporary import temporary_files_together


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_and_killed():
    Path(tempfile.mkdtemp(), "file").write_bytes(b"left")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_child_leaves_is_removed(folder):
    with temporary_files_together():
        os.waitpid(fork(left_and_killed), 0)
        assert 1 == len(list(folder.glob("*/*/file")))
    assert [] == list(folder.iterdir())
    assert str(folder) == tempfile.gettempdir()


def interrupted():
    with temporary_files_together():
        tempfile.mkdtemp()
        raise KeyboardInterrupt


def test_so_is_it_after_an_interrupt(folder):
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [] == list(folder.iterdir())
    assert str(folder) == tempfile.gettempdir()
