"""Machines for tests: those on PATH, or as fetched by scripts/judges."""

import os
import shutil

import pytest

from crosswalk.emu.judges.iso import judges_folder, require_iso_tools
from crosswalk.walker.errors import BadInput


def missing(reason):
    """Skip, or fail where CROSSWALK_NEEDS_JUDGES says that judges have to be there."""
    (pytest.fail if os.environ.get("CROSSWALK_NEEDS_JUDGES") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def qemu():
    """What opens QEMU: by the name it has on PATH, or the oldest that was fetched."""
    if shutil.which("qemu-system-x86_64"):
        return "qemu"
    for suite in ("bookworm", "trixie", "sid"):
        path = judges_folder() / f"qemu-{suite}" / "qemu-system-x86_64"
        if path.exists():
            return f"qemu:{path}"
    return missing("no qemu-system-x86_64 on PATH, nor fetched by scripts/judges")


@pytest.fixture(scope="session")
def iso_tools():
    """The tools that make ISO files are there."""
    try:
        require_iso_tools()
    except BadInput as error:
        missing(str(error))


@pytest.fixture(scope="session")
def bochs(iso_tools):
    """What opens each Bochs that was fetched."""
    found = sorted(judges_folder().glob("bochs-*/bochs"))
    return [f"bochs:{path}" for path in found] or missing("no Bochs fetched by scripts/judges")
