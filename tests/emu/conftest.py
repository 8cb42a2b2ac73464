"""Guests and machines for tests: machines that are on PATH, or as fetched by scripts/judges."""

import os
import shutil

import pytest

from crosswalk.emu.fuzz import executor
from crosswalk.emu.load.guest import boot
from crosswalk.emu.machines.iso import judges_folder, require_iso_tools
from crosswalk.guest.builder import build_image
from crosswalk.walker.errors import BadInput


@pytest.fixture(scope="session")
def guest4():
    """The built-in guest with 4-level paging, booted."""
    return boot(build_image(4))


@pytest.fixture(scope="session")
def guest5():
    """The built-in guest with 5-level paging, booted."""
    return boot(build_image(5))


@pytest.fixture
def fresh_executors():
    """No executor of this process from before the test is used, or kept after it."""
    executor._executor.cache_clear()
    yield
    executor._executor.cache_clear()


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


@pytest.fixture(scope="session")
def bochs3(iso_tools):
    """The path of a Bochs that has VMX with EPT, the oldest that was fetched."""
    for suite in ("trixie", "sid"):
        path = judges_folder() / f"bochs-{suite}" / "bochs"
        if path.exists():
            return str(path)
    return missing("no Bochs 3 fetched by scripts/judges")
