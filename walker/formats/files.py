"""Files that a user names: opened, mapped or read, and written, with errors of one line.

Only regular files are read, and opening one never waits: a pipe without a writer, a device or a
directory is refused by name. What is written is there as a whole or not at all.
"""

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary, finalize

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.holes import allocates_when_read, mapped_with_holes, runs_of
from crosswalk.walker.formats.located_errors import errors_named, one_line

__all__ = [
    "PARTIAL",
    "FileWindow",
    "MappedFile",
    "make_folder",
    "map_file",
    "open_window",
    "read_file",
    "read_head",
    "shrunk_file",
    "synchronise",
    "write_file",
    "write_parts",
]

PARTIAL = ".partial"
"""The ending of a file that is being written; a process that is killed may leave one."""

_LARGEST = 1 << 30
_BLOCK = 512  # Of st_blocks: stat(3type).


@dataclass(frozen=True, slots=True)
class MappedFile:
    """The name a file was given by, and its bytes as a read-only mapping.

    Of a compressed file the bytes may be those that it unpacks to.
    """

    name: str
    data: mmap.mmap


class FileWindow:
    """A file that is read by the piece, since it can't be mapped; it is closed with its last user.

    Its bytes may change meanwhile. Parts are read as those of a mapping: `window[start:end]`.
    """

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        finalize(self, os.close, descriptor)

    def __len__(self) -> int:
        """Return the size of the file in bytes, as it was when the file was opened."""
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        """Return a part of the file; what of it lies beyond the end is left out, as of bytes.

        Raises `BadInput` where the file can't be read there.
        """
        start, end, step = part.indices(self._size)
        if step != 1:
            raise ValueError(f"a part of step {step}")
        content = bytearray(max(end - start, 0))
        self.read_into(memoryview(content), start)
        return bytes(content)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`, of bytes, from `offset` on; `BadInput` where the file can't be read."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise BadInput(f"{_reason(error)}, at byte {offset + done:#x}") from None
            if not count:
                raise BadInput(f"the file ends at byte {offset + done:#x}")
            done += count


_names: WeakKeyDictionary[mmap.mmap, tuple[str, int | None]] = WeakKeyDictionary()
"""The name of the file behind each mapping that is in use, and its descriptor, if that has none."""


def map_file(path: str | os.PathLike[str]) -> MappedFile:
    """Map the file at `path` read-only, whatever its size.

    The mapping lives as long as something views it; nothing has to be closed. Holes of a file in
    memory are zeros whatever is written there later, since to read them would make it grow. Raises
    `BadInput` for what is missing, unreadable, empty or not a regular file.
    """
    name = os.fspath(path)
    size = 0
    with errors_named(name):
        try:
            with os.fdopen(_open_regular(name), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size == 0:
                    raise BadInput("the file is empty")
                return MappedFile(name, _mapped(name, file.fileno()))
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise BadInput(
                    f"{size:,} bytes are more than can be mapped (--kind kcore reads an ELF core "
                    "by the piece)"
                ) from None
            raise BadInput(_reason(error)) from None
        except ValueError as error:
            # A file emptied since it was measured.
            raise BadInput(str(error)) from None


def _mapped(name: str, descriptor: int) -> mmap.mmap:
    held = os.fstat(descriptor)
    if held.st_size <= _BLOCK * held.st_blocks or not allocates_when_read(descriptor):
        data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        _names[data] = name, None
        return data
    data = mapped_with_holes(descriptor, held.st_size, runs_of(descriptor, held.st_size))
    kept = os.dup(descriptor)
    # Not at the program's end, where a crash is still to be explained.
    finalize(data, os.close, kept).atexit = False
    _names[data] = name, kept
    return data


def open_window(
    path: str | os.PathLike[str], reason: Callable[[OSError], str] | None = None
) -> FileWindow:
    """Open the file at `path` to be read by the piece.

    Raises `BadInput` for what is missing, unreadable, empty or not a regular file; `reason` says
    why it can't be opened.
    """
    name = os.fspath(path)
    with errors_named(name):
        try:
            window = FileWindow(name, _open_regular(name))
        except OSError as error:
            raise BadInput((reason or _reason)(error)) from None
        if not len(window):
            raise BadInput("the file is empty")
        return window


def shrunk_file() -> str | None:
    """Return the name of a mapped file that has become shorter since, if there is one.

    To read what it lacks is SIGBUS.
    """
    for data, (name, descriptor) in _names.items():
        size = data.size() if descriptor is None else os.fstat(descriptor).st_size
        if size < len(data):
            return name
    return None


def read_file(path: str | os.PathLike[str], largest: int = _LARGEST) -> bytes:
    """Return the content of the file at `path`, which has at most `largest` bytes (1 GiB).

    Raises `BadInput` as `map_file` does, and for a larger file; an empty one is none.
    """
    name = os.fspath(path)
    with errors_named(name):
        content = _first_bytes(name, largest + 1)
        if len(content) > largest:
            raise BadInput(f"more than {largest:,} bytes")
        return content


def read_head(path: str | os.PathLike[str], size: int) -> bytes:
    """Return the first `size` bytes of the file at `path`, or all there are.

    Raises `BadInput` as `map_file` does; an empty file is none.
    """
    name = os.fspath(path)
    with errors_named(name):
        return _first_bytes(name, size)


def _first_bytes(name: str, size: int) -> bytes:
    try:
        with os.fdopen(_open_regular(name), "rb") as file:
            content = file.read(size)
    except OSError as error:
        raise BadInput(_reason(error)) from None
    if content is None:  # A file of /proc that waits for data, as kmsg does.
        raise BadInput("not a regular file")
    return content


def _open_regular(name: str) -> int:
    try:
        # Without waiting for a pipe's writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise BadInput(str(error)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise BadInput("is a directory" if stat.S_ISDIR(mode) else "not a regular file")
    return descriptor


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def write_file(path: Path, content: bytes) -> None:
    """Write a file as `write_parts` does."""
    write_parts(path, [content])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of these parts as a whole or not at all, so that it survives a loss of power.

    A new file is synchronised, takes the place of an old one, and its folder is synchronised;
    a link leads to the file that is written. A device or a pipe is written to as it is. Raises
    `BadInput` where that can't be done, and then leaves nothing behind.
    """
    try:
        if path.exists() and not path.is_file():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as file:
                os.set_blocking(file.fileno(), True)
                file.writelines(parts)
            return
        path = path.resolve()
        partial = path.with_name(path.name + PARTIAL)
        try:
            with partial.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        synchronise(path.parent)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{one_line(str(path))}: {reason}") from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they aren't there; `BadInput` where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{one_line(str(folder))}: {reason}") from error


def synchronise(folder: Path) -> None:
    """Have a folder's entries survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
