"""A file's bytes, mapped and not copied."""

import errno
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import errors_named

__all__ = ["MappedFile", "map_file"]


@dataclass(frozen=True, slots=True)
class MappedFile:
    """The name a file was given by, and its bytes as a read-only mapping."""

    name: str
    data: mmap.mmap


def map_file(path: str | os.PathLike[str]) -> MappedFile:
    """Map the file at `path` read-only, whatever its size.

    The mapping lives as long as something views it; nothing has to be closed. Raises
    `BadInput` for what is missing, unreadable, empty or not a regular file.
    """
    name = os.fspath(path)
    with errors_named(name):
        return MappedFile(name, _map(name))


def _map(name: str) -> mmap.mmap:
    size = 0
    try:
        # Asked before opening: to open a pipe would wait for its writer.
        status = Path(name).stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadInput("is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise BadInput("not a regular file")
        with Path(name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                raise BadInput("the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise BadInput(
                f"{size:,} bytes are more than can be mapped; instead of /proc/kcore take "
                "/proc/vmcore, or a dump by QEMU"
            ) from None
        raise BadInput((error.strerror or str(error)).lower()) from None
    except ValueError as error:
        # A NUL in the path, or a file emptied since it was measured.
        raise BadInput(str(error)) from None
