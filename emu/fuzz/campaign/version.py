"""The version of the program: the same one gives the same results for the same seed."""

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from crosswalk import emu, guest, walker

__all__ = ["fingerprint", "release", "source_digest"]

_LEAN_ON = ("unicorn", "numpy")
_SOURCES = (".py", ".s", ".json")


def release() -> str:
    """Return the version of the project, as its distribution says."""
    return metadata.version("crosswalk-x86")


@functools.cache
def source_digest() -> str:
    """Return a digest of all sources of the project: no two programs that may differ share it."""
    digest = hashlib.sha256()
    for package in (emu, guest, walker):
        folder = Path(package.__path__[0])
        for path in sorted(each for each in folder.rglob("*") if each.suffix in _SOURCES):
            name = f"{package.__name__}/{path.relative_to(folder).as_posix()}"
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def fingerprint() -> str:
    """Return in words what is installed: the project with a digest of its sources, and others."""
    others = (f"{name} {metadata.version(name)}" for name in _LEAN_ON)
    return ", ".join([f"crosswalk {release()} ({source_digest()[:8]})", *others])
