import errno
import gc
import io
import os
import re
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file, read_file, shrunk_file, write_file, write_parts
from crosswalk.walker.formats.holes import allocates_when_read


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


def test_a_file_that_waits_for_data_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "kmsg").touch()

    def waiting(descriptor, _):
        os.close(descriptor)
        file = io.BytesIO()
        file.read = lambda _: None
        return file

    with monkeypatch.context() as planted:
        planted.setattr(os, "fdopen", waiting)
        with pytest.raises(BadInput) as caught:
            read_file(tmp_path / "kmsg")
    assert f"{tmp_path}/kmsg: not a regular file" == str(caught.value)


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

    (tmp_path / "other").write_bytes(b"abc")
    monkeypatch.setattr("mmap.mmap", refuse)
    expected = (
        f"{tmp_path}/other: 3 bytes are more than can be mapped (--kind kcore reads an ELF core by "
        "the piece)"
    )
    assert expected == reason(tmp_path / "other")


def test_a_file_that_became_shorter_is_known_as_long_as_it_is_in_use(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(8192))
    file = map_file(path)
    assert None is shrunk_file()
    os.truncate(path, 4096)
    assert str(path) == shrunk_file()
    os.truncate(path, 8192)
    assert None is shrunk_file()
    os.truncate(path, 0)
    del file
    gc.collect()
    assert None is shrunk_file()


def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_parts(path, iter([b"new ", b"content"]))
    assert [("file", b"new content")] == [
        (each.name, each.read_bytes()) for each in tmp_path.iterdir()
    ]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def parts():
        yield b"new"
        raise error

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(BadInput if isinstance(error, OSError) else KeyboardInterrupt):
        write_parts(path, parts())
    assert [("file", b"old")] == [(each.name, each.read_bytes()) for each in tmp_path.iterdir()]


def test_a_link_leads_to_the_file_that_is_written(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert b"new" == (tmp_path / "file").read_bytes()


def test_a_device_is_written_to_and_stays_one(tmp_path):
    write_file(Path("/dev/null"), b"lost")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(BadInput, match="/dev/full: No space left on device"):
        write_file(Path("/dev/full"), b"lost")


def test_a_pipe_without_a_reader_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="pipe: No such device or address"):
        write_file(tmp_path / "pipe", b"lost")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "pipe", b"read")
    assert b"read" == os.read(reading, 10)
    os.close(reading)


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(BadInput, match="Is a directory"):
        write_file(tmp_path, b"lost")


def test_a_sparse_file_in_memory_does_not_grow_when_it_is_read():
    shared = Path("/dev/shm")  # noqa: S108  # A tmpfs, where there is one at all.
    if not shared.is_dir() or not os.access(shared, os.W_OK):
        pytest.skip(f"no {shared} to write to")
    with NamedTemporaryFile(dir=shared) as file:
        if not allocates_when_read(file.fileno()):
            pytest.skip(f"{shared} is no tmpfs")
        for place in (0x3000, 0x20000):
            os.pwrite(file.fileno(), b"here", place)
        os.truncate(file.name, 0x80000)
        content = bytes(0x3000) + b"here" + bytes(0x1CFFC) + b"here" + bytes(0x5FFFC)
        before = os.fstat(file.fileno()).st_blocks
        data = map_file(file.name).data
        assert (content, before) == (data[:], os.fstat(file.fileno()).st_blocks)
        assert shrunk_file() != file.name
        os.truncate(file.name, 0x10000)
        assert file.name == shrunk_file()
