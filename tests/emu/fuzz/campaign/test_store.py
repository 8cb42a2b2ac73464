import base64
import json
import os
import resource
import stat
import zlib
from pathlib import Path

import pytest

from crosswalk.emu.fuzz.campaign.plan import Plan
from crosswalk.emu.fuzz.campaign.state import State, identity
from crosswalk.emu.fuzz.campaign.store import Store, slug_of
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.walker.errors import BadInput
from tests.emu.fuzz.campaign.campaigns import PLAN, searched
from tests.emu.fuzz.campaign.running import command, corpus, finished

ELSEWHERE = "choose another folder with --corpus, or remove this one"
ANEW = "--fresh begins anew there, --corpus names another folder"


def loaded(folder, plan=PLAN):
    store = Store(folder, plan)
    try:
        return store.load()
    finally:
        store.close()


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    assert 0 == loaded(tmp_path / "a" / "b").layouts
    assert ["findings", "lock"] == sorted(path.name for path in (tmp_path / "a" / "b").iterdir())


def test_what_is_saved_is_what_is_loaded(tmp_path):
    state = searched(tmp_path, 70).state
    again = loaded(tmp_path)
    assert (state.layouts, state.probes, state.findings, state.rounds, state.seen) == (
        again.layouts, again.probes, again.findings, again.rounds, again.seen,
    )  # fmt: skip


def test_every_write_is_synchronised_the_file_before_it_has_its_name_and_the_folder_after(
    tmp_path, monkeypatch
):
    store = Store(tmp_path, PLAN)
    store.load()
    steps = []
    synchronise, rename = os.fsync, os.replace

    def fsync(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("folder" if folder else "file")
        synchronise(descriptor)

    def replace(source, target):
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("pathlib.Path.replace", replace)
    store.keep("a-rule", b"case")
    store.close()
    assert ["file", "rename", "folder"] == steps
    assert b"case" == (tmp_path / "findings" / "a-rule.json").read_bytes()


def test_a_failed_write_leaves_what_was_there_and_nothing_beside(tmp_path, monkeypatch):
    store = Store(tmp_path, PLAN)
    store.load()
    store.keep("a-rule", b"before")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"a-rule\.json: No space left on device; the same command"):
        store.keep("a-rule", b"after")
    store.close()
    assert [b"before"] == [path.read_bytes() for path in (tmp_path / "findings").iterdir()]


def test_what_a_killed_campaign_left_half_written_is_cleared_away(tmp_path):
    searched(tmp_path, 40)
    before = corpus(tmp_path)
    (tmp_path / "state.json.partial").write_bytes(b"{")
    (tmp_path / "findings" / "a-rule.json.partial").write_bytes(b"{")
    loaded(tmp_path)
    assert before == corpus(tmp_path)


@pytest.mark.parametrize(
    ("plan", "differ"),
    [
        (Plan(seed=1, accesses=16, guided=False), "seed 0 there, 1 here"),
        (Plan(accesses=17, guided=False), "accesses 16 there, 17 here"),
        (Plan(accesses=16), "guided no there, yes here"),
        (Plan(accesses=16, guided=False, walker="walk"), "walker none there, walk here"),
        (
            Plan(accesses=16, guided=False, choice=LayoutChoice(portable=True)),
            "portable no there, yes here",
        ),
    ],
)
def test_another_campaigns_folder_is_refused_with_what_differs(tmp_path, plan, differ):
    searched(tmp_path, 5)
    with pytest.raises(BadInput) as caught:
        loaded(tmp_path, plan)
    assert f"{tmp_path}/state.json: of another campaign ({differ}); {ANEW}" == str(caught.value)


def test_another_versions_folder_is_refused(tmp_path, monkeypatch):
    searched(tmp_path, 5)
    monkeypatch.setattr("crosswalk.emu.fuzz.campaign.state.release", lambda: "99.0")
    with pytest.raises(BadInput, match=r"version [0-9.]+ there, 99\.0 here"):
        loaded(tmp_path)


BOMB = base64.b64encode(zlib.compress(bytes(1 << 28))).decode()
"""What unpacks to 256 MiB."""


def changed(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "crosswalk-fuzz/9"}, "Invalid enum value 'crosswalk-fuzz/9' - at `$.format`"),
        ({"layouts": "many"}, "Expected `int`, got `str`"),
        ({"layouts": -1}, "Expected `int` >= 0 - at `$.layouts`"),
        ({"known": {"fault-keeps-tlb": -1}}, "Expected `int` >= 0 - at `$.known[...]`"),
        ({"known": {"bogus": 5}}, "it counts 'bogus'"),
        ({"predicted_only": {"bogus": 5}}, "it counts 'bogus'"),
        ({"growth": [[-1, 1]]}, "Expected `int` >= 0 - at `$.growth[0][0]`"),
        ({"growth": [[33, 1]]}, "its numbers don't fit one another"),
        ({"seen": BOMB}, "coverage: not the "),
        ({"layouts": 31}, "its numbers don't fit one another"),
        ({"rounds": []}, "its numbers don't fit one another"),
        ({"seen": "?"}, "coverage: "),
        ({"seen": "AAAA"}, "coverage: "),
        ({"more": 1}, "unknown field `more`"),
        (
            {"findings": {"../x": {"signature": "", "witness": "", "count": 1, "layout": 0}}},
            "finding '../x'",
        ),
        (
            {"findings": {"x": {"signature": "", "witness": "", "count": 1, "layout": 33}}},
            "finding 'x'",
        ),
    ],
)
def test_a_state_that_no_campaign_has_written_is_refused(tmp_path, fields, message):
    searched(tmp_path, 33)
    changed(tmp_path / "state.json", **fields)
    with pytest.raises(BadInput) as caught:
        loaded(tmp_path)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{tmp_path}/state.json: ")
    assert text.endswith(ANEW)
    assert "\n" not in text


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b'{"plan": {}, "layouts": 1e400}'])
def test_a_state_that_is_no_json_of_ours_is_refused(tmp_path, data):
    (tmp_path / "state.json").write_bytes(data)
    with pytest.raises(BadInput, match=f"not the state of a campaign: .*; {ELSEWHERE}$"):
        loaded(tmp_path)


def test_a_truncated_state_is_refused(tmp_path):
    searched(tmp_path, 33)
    path = tmp_path / "state.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="not the state of a campaign"):
        loaded(tmp_path)


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    path = tmp_path / "file"
    path.touch()
    for folder in (path, path / "below"):
        with pytest.raises(BadInput, match=r"/file/.*: Not a directory"):
            loaded(folder)


def test_a_folder_that_nobody_may_write_is_refused():
    with pytest.raises(BadInput, match="/proc/1/nowhere: "):
        loaded(Path("/proc/1/nowhere"))


def test_a_finding_that_somebody_has_removed_is_named(tmp_path):
    searched(tmp_path, 5)
    (path,) = tmp_path.glob("findings/*")
    path.unlink()
    with pytest.raises(BadInput, match=f"{path.name}: no such file or directory"):
        Store(tmp_path, PLAN).case(path.stem)


def test_without_a_folder_cases_are_kept_by_the_object():
    store = Store(None, PLAN)
    assert 0 == store.load().layouts
    store.keep("a", b"case")
    store.save(store.load())
    assert b"case" == store.case("a")
    assert None is store.case_path("a")


def test_a_full_disk_is_one_clear_line_and_the_same_command_goes_on(tmp_path):
    search = ("fuzz", "--cases", 4, "--accesses", 64, "--jobs", 1, "--corpus")
    whole, folder = tmp_path / "whole", tmp_path / "full"
    assert 1 == finished(command("none", *search, whole))[0]
    no_more = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # noqa: E731
    status, out, err = finished(command("none", *search, folder, preexec_fn=no_more))
    assert (2, "") == (status, out)
    assert err == (
        f"crosswalk: error: {folder}/state.json: File too large; "
        "the same command goes on when it can be written\n"
    )
    assert 1 == finished(command("none", *search, folder))[0]
    assert corpus(whole) == corpus(folder)


@pytest.mark.parametrize(
    ("walker", "name"),
    [
        ("python:mine.py:translate", "python-mine-py-translate"),
        ("c:./libMine.so", "c-libmine-so"),
        ("exec:/usr/bin/it --fast", "exec-usr-bin-it-fast"),
        ("volatility3", "volatility3"),
        ("exec:\N{SNOWMAN}", "exec"),
        ("\N{SNOWMAN}", "walker"),
    ],
)
def test_a_walkers_own_folder_is_named_after_it(walker, name):
    assert name == slug_of(walker)


def test_long_names_that_begin_alike_are_different_folders_of_short_names():
    one, other = (slug_of(f"exec:/home/{'somebody/' * 12}{name}") for name in ("one", "other"))
    assert one != other
    assert max(len(one), len(other)) < 72
    assert one.rpartition("-")[0] == other.rpartition("-")[0]


def test_the_state_of_another_release_is_refused_and_removed_by_fresh(tmp_path):
    searched(tmp_path, 10)
    # As version 0.2.0 wrote it.
    changed(tmp_path / "state.json", answered=0, declined=0)
    with pytest.raises(BadInput, match=f"unknown field `.*`.*; {ANEW}$"):
        loaded(tmp_path)
    store = Store(tmp_path, PLAN, fresh=True)
    assert State(identity(PLAN)) == store.load()
    store.close()
    assert ["lock"] == [path.name for path in tmp_path.rglob("*") if path.is_file()]
