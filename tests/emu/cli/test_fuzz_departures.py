"""`fuzz` fails if what the emulated CPU is stated to do isn't what it does."""

import shlex
from dataclasses import replace

import pytest

from crosswalk.emu.check import DEPARTURES
from crosswalk.emu.check.departures import Departure, Scope
from crosswalk.emu.findings.findings import SECOND_WALK
from crosswalk.emu.fuzz import executor

PLANTED = Departure(
    "WP isn't looked at",
    Scope.ACCESS,
    differs="",
    manual="",
    reason="",
    change=lambda rules: replace(rules, wp=False),
)


pytestmark = pytest.mark.usefixtures("fresh_executors")


def table(monkeypatch, *entries):
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", entries)


def test_the_command_fails_for_a_departure_that_there_is_not(run, tmp_path, monkeypatch):
    table(monkeypatch, *DEPARTURES, PLANTED)
    options = ("--accesses", 512, "--jobs", 1, "--corpus", tmp_path / "corpus", "--json")
    ran = run("fuzz", "--cases", 8, *options)
    assert 1 == ran.status
    document = ran.document
    assert document["divergences"] > 0
    (found, *_) = [each for each in document["findings"] if SECOND_WALK in each["signature"]]
    again = run(*shlex.split(found["reproduce"])[1:])
    assert f"{SECOND_WALK} says" in again.err + again.out
    monkeypatch.undo()
    executor._executor.cache_clear()
    assert 0 == run("fuzz", "--cases", 8, *options[:-3], "--corpus", tmp_path / "clean").status


def test_the_command_fails_without_a_departure_that_there_is(run, tmp_path, monkeypatch):
    table(monkeypatch, *DEPARTURES[1:])
    ran = run("fuzz", "--cases", 8, "--accesses", 512, "--jobs", 1, "--corpus", tmp_path / "c")
    assert 1 == ran.status
