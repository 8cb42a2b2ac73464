"""What decides that two machines, or two days, make the same of the same seed."""

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from crosswalk import emu, guest, walker

__all__ = ["fingerprint", "release"]

_LEAN_ON = ("unicorn", "numpy")


def release() -> str:
    """Return the version of the project, as its distribution says."""
    return metadata.version("crosswalk-x86")


@functools.cache
def fingerprint() -> str:
    """Return in words what is installed: the project with a digest of its sources, and others."""
    digest = hashlib.sha256()
    for package in (emu, guest, walker):
        folder = Path(package.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    others = (f"{name} {metadata.version(name)}" for name in _LEAN_ON)
    return ", ".join([f"crosswalk {release()} ({digest.hexdigest()[:8]})", *others])
