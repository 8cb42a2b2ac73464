"""The adapters that `walker new` writes: run where their walkers can be had."""

import json
import os
import subprocess
import sys

import pytest

from tests.emu.cli.running import crosswalk
from tests.emu.targets.walkers import HEADER, ROOT

pytestmark = pytest.mark.slow

FOLDER = HEADER / "starters" / "adapters"
DEBIAN = "/usr/bin/python3"
BOCHSCPU = os.environ.get("CROSSWALK_BOCHSCPU_PYTHON", sys.executable)
ADAPTERS = {
    "kdumpfile": ([DEBIAN, "-c", "import addrxlat"], "python3-libkdumpfile (Debian)"),
    "drgn": ([DEBIAN, "-c", "import drgn"], "python3-drgn (Debian)"),
    "bochscpu": ([BOCHSCPU, "-c", "import bochscpu"], "bochscpu-python (PyPI)"),
    "qemu": (["qemu-system-x86_64", "--version"], "qemu-system-x86 (Debian)"),
}
MODES = {
    "kdumpfile": ["32bit", "4level", "5level", "pae"],
    "drgn": ["4level", "5level"],
    "bochscpu": ["4level"],
    "qemu": ["32bit", "4level", "5level", "pae"],
}
RESERVED = {"0x1123", "0x2123", "0x200123", "0x40000123", "0x8000000123"}
CANONICAL = {"0x800000000123", "0x1000000000123", "0xffff000000000123"}
WRONG = {"bochscpu": RESERVED | CANONICAL}
"""What each gets wrong of the sample with reserved bits and holes."""


def test_every_adapter_has_a_row_here():
    assert {path.name for path in FOLDER.glob("*_walker.py")} == {
        f"{n}_walker.py" for n in ADAPTERS
    }


@pytest.fixture(params=ADAPTERS)
def adapter(request, monkeypatch):
    """The name of an adapter, and the options that put it under test."""
    command, package = ADAPTERS[request.param]
    try:
        there = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        there = False
    if not there:
        pytest.skip(f"{package} isn't there")
    monkeypatch.chdir(ROOT)
    python = BOCHSCPU if request.param == "bochscpu" else DEBIAN
    walker = f"exec:{python} {FOLDER.relative_to(ROOT)}/{request.param}_walker.py"
    return request.param, walker, ("--walker-memory", "1200000")


def test_an_adapter_is_right_about_all_that_its_walker_is_right_about(adapter, capfd):
    name, walker, limits = adapter
    found = json.loads(crosswalk(capfd, "walker", "try", walker, *limits, "--json").out)
    assert (["translation"], MODES[name], []) == (found["claims"], found["modes"], found["hints"])
    assert found["asked"] == found["answered"]
    for space in found["spaces"]:
        wrong = {each["va"] for each in space["questions"] if each["wrong"]}
        if "reserved" in space["note"]:
            assert WRONG.get(name, RESERVED) == wrong
        else:
            assert wrong <= {"0x5000"}  # PAE's page with a reserved bit.


def test_without_what_no_tree_has_a_campaign_agrees(adapter, capfd, tmp_path):
    _, walker, limits = adapter
    options = ("--cases", "8", "--accesses", "2048", "--corpus", str(tmp_path), "--json")
    assume = ("--assume", "wellformed,canonical")
    ran = crosswalk(capfd, "fuzz", "--walker", walker, *limits, *options, *assume)
    found = json.loads(ran.out)
    assert [] == found["findings"]
    assert 0 == ran.status
    assert sum(found["answered"].values()) > 1000


def test_a_campaign_finds_that_reserved_bits_are_not_looked_at(adapter, capfd, tmp_path):
    _, walker, limits = adapter
    options = ("--cases", "8", "--accesses", "2048", "--corpus", str(tmp_path), "--json")
    ran = crosswalk(capfd, "fuzz", "--walker", walker, *limits, *options)
    assert 1 == ran.status
    assert any(each["cause"].startswith("reserved") for each in json.loads(ran.out)["findings"])
