"""The command as a process of its own: pipes, bytes and exit statuses."""

import subprocess
import sys

from tests.emu.case_files import KNOWN_CASES, LINUX_CASE

COMMAND = [sys.executable, "-m", "crosswalk"]


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    with subprocess.Popen(
        [*COMMAND, "walk", LINUX_CASE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().startswith(b"0000000000400000 ")
        process.stdout.close()
        said = process.stderr.read().decode()
        assert 141 == process.wait(30)
    assert ["case file"] == [line.split(": ")[1].split(",")[0] for line in said.splitlines()]


def test_answers_and_remarks_go_to_their_own_streams():
    path = KNOWN_CASES / "pdpte-leaf-accessed-on-fault.json"
    done = subprocess.run(
        [*COMMAND, "replay", "--json", path], capture_output=True, check=True, timeout=60
    )
    assert (path.read_bytes(), b"") == (done.stdout, done.stderr)


def test_the_exit_status_is_the_processs():
    done = subprocess.run([*COMMAND, "walk", "/none"], capture_output=True, check=False, timeout=60)
    assert (2, b"") == (done.returncode, done.stdout)
    assert b"crosswalk: error: /none: no such file or directory\n" == done.stderr
