"""What ends a run of a guest early is reported, and raised on."""

import argparse
import json

import pytest

from crosswalk.emu.cli.failing import protect_failures, reported_failures
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.workers.contained import EmulatorCrash
from crosswalk.walker.errors import BadInput
from tests.emu.cli.running import fits


def options(*, as_json):
    return argparse.Namespace(json=as_json, given=["protect", "--json"])


def ended(capfd, error, *, as_json=True):
    """What is printed where this ends the runs of `protect`."""
    with pytest.raises(type(error)), protect_failures(options(as_json=as_json)):
        raise error
    return capfd.readouterr()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted"),
        (EmulatorCrash("died of SIGSEGV"), "crashed", "died of SIGSEGV"),
        (BadInput("no such command"), "unusable", "no such command"),
        (GuestFailure("it ended", ("console: nothing",)), "ended", "it ended"),
    ],
    ids=["an interrupt", "a crash", "no machine", "another machine's guest"],
)
def test_what_ends_a_run_is_one_document_by_the_schema(capfd, error, kind, message):
    out, err = ended(capfd, error)
    (record,) = map(json.loads, out.splitlines())
    lines = ["console: nothing"] if kind == "ended" else []
    assert {"kind": kind, "message": message, "lines": lines} == record["failure"]
    assert "crosswalk protect --json" == record["reproduce"]
    assert lines == err.splitlines()
    assert fits("crosswalk-protect-1", record)
    assert not fits(
        "crosswalk-protect-1", {**record, "failure": {**record["failure"], "rip": "0x0"}}
    )


def test_without_json_the_last_state_alone_is_printed(capfd):
    out, err = ended(capfd, GuestFailure("it ended", ("console: nothing",)), as_json=False)
    assert ("", "console: nothing\n") == (out, err)


def test_a_mistake_of_the_projects_own_is_no_failure_of_the_guest(capfd):
    assert "" == ended(capfd, KeyError("a"))[0]


def test_a_run_that_comes_to_its_end_leaves_no_document(capfd):
    with reported_failures(options(as_json=True), lambda failure: {"failure": str(failure)}):
        pass
    assert ("", "") == capfd.readouterr()
