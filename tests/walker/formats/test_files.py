import errno
import os
import re
from pathlib import Path

import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file


def reason(path):
    with pytest.raises(BadInput) as caught:
        map_file(path)
    return str(caught.value)


def test_the_bytes_are_mapped_under_the_name_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("image").write_bytes(b"abc")
    file = map_file("image")
    assert ("image", b"abc") == (file.name, file.data[:])


def test_the_mapping_is_read_only(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"abc")
    with pytest.raises(TypeError):
        map_file(path).data[0] = 0


def test_a_missing_file_is_an_error(tmp_path):
    assert f"{tmp_path}/no: no such file or directory" == reason(tmp_path / "no")


def test_a_directory_is_an_error(tmp_path):
    assert f"{tmp_path}: is a directory" == reason(tmp_path)


def test_a_pipe_is_an_error_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert f"{tmp_path}/pipe: not a regular file" == reason(tmp_path / "pipe")


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "empty").touch()
    assert f"{tmp_path}/empty: the file is empty" == reason(tmp_path / "empty")


def test_an_unreadable_file_is_an_error(tmp_path, monkeypatch):
    # A mode of 0 wouldn't keep root out, so the refusal is staged.
    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secret").write_bytes(b"abc")
    monkeypatch.setattr(os, "open", refuse)
    assert f"{tmp_path}/secret: permission denied" == reason(tmp_path / "secret")


def test_a_path_with_a_nul_is_an_error_in_one_line():
    assert re.match(r"a\\x00b: (open: )?embedded null", reason("a\0b"))


def test_a_file_of_more_bytes_than_can_be_mapped_says_so(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    (tmp_path / "kcore").write_bytes(b"abc")
    monkeypatch.setattr("mmap.mmap", refuse)
    expected = (
        f"{tmp_path}/kcore: 3 bytes are more than can be mapped; instead of /proc/kcore take "
        "/proc/vmcore, or a dump by QEMU"
    )
    assert expected == reason(tmp_path / "kcore")
