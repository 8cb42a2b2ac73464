"""Commands run to their end: what they print, how they end, and that nothing of them stays."""

import os
import signal
from pathlib import Path

import pytest

from crosswalk.emu.workers.command import run_command
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.errors import BadInput

LIMITS = Limits(seconds=20.0, output=1 << 16)


def ran(script, limits=LIMITS, **options):
    return run_command(["sh", "-c", script], limits, **options)


def test_output_and_noise_of_a_command_that_succeeds():
    found = ran("echo answer; echo one >&2; printf 'tw\\033o' >&2")

    assert b"answer\n" == found.output
    assert (None, False, "tw\\x1bo") == (found.ended, found.by_others, found.said)


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("exit 7", "ended with status 7"),
        ("kill -ABRT $$", "died of SIGABRT"),
        ("kill -SEGV $$", "died of SIGSEGV"),
    ],
)
def test_how_a_command_ends_and_what_it_printed_before(script, ended):
    found = ran(f"echo answer; {script}")

    assert (b"answer\n", ended, False) == (found.output, found.ended, found.by_others)


def test_a_command_that_uses_up_its_time_hangs():
    found = ran("echo answer; while :; do :; done", Limits(seconds=0.2, output=1 << 16))

    assert (b"answer\n", "hangs", False) == (found.output, found.ended, found.by_others)


def test_a_command_that_waits_for_ever_hangs():
    found = ran("echo answer; read line", Limits(seconds=1.5, patience=1.0, output=1 << 16))

    assert (b"answer\n", "hangs", False) == (found.output, found.ended, found.by_others)


def test_a_command_that_prints_without_end_floods():
    found = ran("yes")

    assert "floods" == found.ended
    assert LIMITS.output < len(found.output) <= LIMITS.output + (1 << 16)


def test_noise_that_is_fatal_ends_a_command():
    found = ran("echo answer; echo internal error >&2; read line", fatal=b"internal error")

    assert ("hangs", "internal error") == (found.ended, found.said)


def test_a_command_whose_output_is_complete_is_ended():
    parts = bytearray()

    def complete(part):
        parts.extend(part)
        return parts.endswith(b"end\n")

    found = ran("echo end; read line", complete=complete)

    assert (b"end\n", None) == (found.output, found.ended)


def test_a_command_killed_by_another_program_has_no_result():
    def kill(part):
        os.kill(int(part), signal.SIGKILL)
        return False

    found = ran("echo $$; read line", complete=kill)

    assert found.by_others


def test_nothing_that_a_command_started_stays():
    found = ran("sleep 1000 & echo $!; kill -ABRT $$")

    assert "died of SIGABRT" == found.ended
    assert not Path(f"/proc/{int(found.output)}").exists()


def test_a_command_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="no-such-command: no such command"):
        run_command(["no-such-command"], LIMITS)
