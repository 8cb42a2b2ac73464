"""The code that is shipped: what the sources give, and enough to do without the assembler."""

import subprocess
import sys

import pytest

from scripts.mutation.mutants import ROOT

WITHOUT_KEYSTONE = """
import sys
sys.modules["keystone"] = None  # An import of it fails, as where it isn't installed.
"""


def without_keystone(code, *arguments):
    command = [sys.executable, "-c", WITHOUT_KEYSTONE + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check_file(path):
    command = [sys.executable, "-m", "scripts.upkeep.assembled", "--check", "--file", path]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_shipped_code_is_what_the_sources_give(tmp_path):
    shipped = ROOT / "guest" / "assembled.json"
    done = check_file(shipped)
    assert (0, "") == (done.returncode, done.stderr)
    other = tmp_path / "assembled.json"
    text = shipped.read_text()
    assert text.count('"code":"f4"')
    other.write_text(text.replace('"code":"f4"', '"code":"90"', 1))
    done = check_file(other)
    assert (1, f"{other} isn't what the sources give: scripts/assemble\n") == (
        done.returncode,
        done.stderr,
    )


def test_guests_are_built_and_checked_without_the_assembler():
    run = "from crosswalk.emu.cli.main import main; sys.exit(main(sys.argv[1:]))"
    for arguments in (
        ("check", "tests/cases/shared/four-level.json"),
        ("check", "tests/cases/shared/pae.json"),
        ("sequence", "tests/cases/known-sequences/fault-keeps-tlb.json"),
        ("info", "guest:5level"),
    ):
        done = without_keystone(run, *arguments)
        assert 0 == done.returncode, (arguments, done.stderr)


def test_the_first_process_of_a_linux_guest_is_built_without_the_assembler():
    code = "from crosswalk.guest.init import init_archive as a; "
    code += "[a(bits=bits, patching=patching) for bits in (64, 32) for patching in (False, True)]"
    done = without_keystone(code)
    assert 0 == done.returncode, done.stderr


def test_the_sample_kernel_is_built_without_the_assembler():
    code = "from crosswalk.guest.sample import Bug, sample_kernel as s; s(); [s(b) for b in Bug]"
    done = without_keystone(code)
    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize(
    "change", ["source='nop; hlt'", "bits=16", "address=1", "symbols={'A': 1}"]
)
def test_code_that_is_made_of_anything_else_takes_the_assembler(change):
    code = f"""
from crosswalk.guest.assembler import assemble
from crosswalk.walker.errors import CrosswalkError
inputs = dict(source="hlt", bits=64, address=0x100, symbols={{}})
assert b"\\xf4" == assemble("probe", **inputs)
try:
    assemble("probe", **inputs | dict({change}))
except CrosswalkError as error:
    print(error)
"""
    done = without_keystone(code)
    wanted = "probe: to assemble it takes keystone-engine, which can't be imported: "
    assert done.stdout.startswith(wanted), done.stderr
    assert 1 == done.stdout.count("\n")
