import faulthandler
import json
import os
from dataclasses import replace

import pytest

from crosswalk.emu.cli import replay as replaying
from crosswalk.emu.probe.many import ManyProber
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.formats import Probe, load_case, parse_case
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.case_files import CASES, COMPOSITE_CASES, KNOWN_CASES
from tests.emu.cli.conftest import case_of
from tests.emu.cli.running import written


def test_replay_fills_in_both_outcomes_of_every_probe(run, small_case):
    ran = run("replay", small_case, "--json")
    before, after = load_case(small_case), parse_case(ran.out.encode(), "answer")
    assert 0 == ran.status
    assert (before.cpu, before.ram, before.entries) == (after.cpu, after.ram, after.entries)
    assert [Translation, PageFault, PageFault, GeneralProtection] == [
        type(probe.predicted) for probe in after.probes
    ]
    assert [probe.predicted for probe in after.probes] == [probe.observed for probe in after.probes]
    write, read_only, hole, _ = (probe.observed for probe in after.probes)
    assert (0x8123, 4) == (write.pa, len(write.entries))
    assert (0x3, 0x40_1000) == (read_only.error_code, read_only.cr2)
    assert (0x4, 0x40_2000) == (hole.error_code, hole.cr2)


def test_what_replay_says_is_a_case_that_replays_to_the_same_bytes(run, small_case, tmp_path):
    first = run("replay", small_case, "--json").out
    again = tmp_path / "again.json"
    again.write_text(first)
    assert first == run("replay", again, "--json").out


def test_outcomes_that_a_case_brings_along_are_not_believed(run, small_case, tmp_path):
    first = run("replay", small_case, "--json").out
    lying = tmp_path / "lying.json"
    lying.write_text(first.replace('"0x8123"', '"0x9999"'))
    assert "0x9999" in lying.read_text()
    assert first == run("replay", lying, "--json").out


@pytest.mark.parametrize("path", sorted(KNOWN_CASES.iterdir()), ids=lambda path: path.stem)
def test_known_divergences_are_shown_and_are_no_failure(run, path):
    ran = run("replay", path)
    assert 0 == ran.status
    assert f"  known emulator divergence: {path.stem}" in ran.out
    assert run("replay", path, "--json").out == path.read_text()


def test_several_cases_are_replayed_in_their_order(run, small_case):
    paths = sorted(KNOWN_CASES.iterdir())
    ran = run("replay", *paths, small_case, "--json")
    parts = [run("replay", path, "--json").out for path in (*paths, small_case)]
    assert "".join(parts) == ran.out


def test_a_divergence_is_exit_status_1(run, small_case, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.cli.replay.translate_many", _wrong)
    ran = run("replay", small_case)
    assert 1 == ran.status
    assert "probes 4, divergences 1" in ran.out
    lines = ran.out.splitlines()
    at = lines.index("divergence: write of 0x400123 at CPL 0")
    assert [
        "  rule:      address of a 4-KiB page: walker says another, it is this",
        "  predicted: ok, pa 0x812b",
        "  observed:  ok, pa 0x8123",
    ] == [lines[at + 1], *lines[at + 3 : at + 5]]
    assert 1 == sum(line.endswith("  <-- maps 0x8000") for line in lines)
    assert 1 == run("replay", small_case, "--json").status


def _wrong(memory, context, accesses):
    outcomes = translate_many(memory, context, accesses)
    outcomes.pa[0] += 8
    return outcomes


def test_every_register_of_the_case_counts(run, tmp_path):
    probe = Probe(va=0x80_0000, access="read", cpl=0, ac=False)
    for cpu, outcome in (
        ({}, "ok"),
        ({"smap": True}, "page_fault"),
        ({"pke": True, "pkru": 1}, "page_fault"),
        ({"mode": 5}, "page_fault"),
    ):
        ran = run("replay", written(tmp_path / "one.json", case_of(probe, **cpu)), "--json")
        (replayed,) = json.loads(ran.out)["probes"]
        assert outcome == replayed["observed"]["outcome"] == replayed["predicted"]["outcome"]


def test_the_ac_of_a_probe_counts(run, tmp_path):
    probes = [Probe(va=0x80_0000, access="read", cpl=0, ac=ac) for ac in (False, True)]
    case = case_of(*probes, smap=True)
    ran = run("replay", written(tmp_path / "one.json", case), "--json")
    assert ["page_fault", "ok"] == [
        each["observed"]["outcome"] for each in json.loads(ran.out)["probes"]
    ]


def test_a_case_without_probes_is_remarked_upon(run, tmp_path):
    ran = run("replay", written(tmp_path / "none.json", case_of()))
    assert 2 == ran.status
    assert "nothing asked: no probes to replay" in ran.err


LAM_U48 = 1 << 62


def masked_case(*vas):
    """Probes of a user page under LAM, at addresses that may carry metadata."""
    case = case_of(*(Probe(va=va, access="read", cpl=3, ac=False) for va in vas))
    return replace(case, cpu=replace(case.cpu, cr3=case.cpu.cr3 | LAM_U48))


def test_a_probe_that_the_emulated_cpu_lacks_a_feature_for_is_predicted_only(run, tmp_path):
    path = written(tmp_path / "lam.json", masked_case(0x80_0010, 0x12 << 48 | 0x80_0010))
    ran = run("replay", path)
    assert 0 == ran.status
    assert "probes 2, divergences 0, predicted only 1 (LAM)\n" in ran.out
    assert "\npredicted only: LAM: read of 0x12000000800010 at CPL 3: " in ran.out
    made, lacking = json.loads(run("replay", path, "--json").out)["probes"]
    assert "ok" == made["observed"]["outcome"] == made["predicted"]["outcome"]
    assert "outcome" in lacking["predicted"]
    assert "observed" not in lacking


def test_replay_of_probes_that_are_all_predicted_only_is_exit_status_2(run, tmp_path, small_case):
    path = written(tmp_path / "lam.json", masked_case(0x12 << 48 | 0x80_0010))
    ran = run("replay", path)
    assert 2 == ran.status
    assert "agree" not in ran.out
    assert "nothing asked: the emulated CPU lacks what the probes need\n" in ran.err
    assert 2 == run("replay", path, "--json").status
    assert 0 == run("replay", path, small_case).status


def test_replay_names_the_key_of_an_encryption_mask_that_a_case_may_lack(run, tmp_path):
    case = load_case(CASES / "rules" / "cbit47_m48.json")
    path = written(tmp_path / "c.json", replace(case, cpu=replace(case.cpu, encryption_mask=0)))
    ran = run("replay", path)
    hint = (
        f"{path}: the root's entries share bits that may be no address: "
        '"encryption_mask": "0x800000000000" in the "cpu" of the case file?\n'
    )
    assert (2, True) == (ran.status, hint in ran.err)
    ran = run("replay", written(path, case))
    assert (0, False) == (ran.status, "encryption_mask" in ran.err)
    assert 0x800000000000 == case.cpu.encryption_mask


def test_a_walker_is_held_to_what_is_predicted_only(run, tmp_path):
    path = written(tmp_path / "lam.json", masked_case(0x12 << 48 | 0x80_0010, 0x80_0010))
    walker = ("--walker", "translate")
    ran = run("replay", path, *walker, "--json")
    lacking, made = json.loads(ran.out)["probes"]
    assert {"predicted"} == {"predicted", "observed"} & set(lacking)
    assert {"predicted", "observed"} < set(made)
    out = run("replay", path, *walker).out
    assert "\nright: predicted only: LAM: read of 0x12000000800010 at CPL 3" in out
    assert "\nright: read of 0x800010 at CPL 3" in out


def test_a_walker_that_is_wrong_about_what_is_predicted_only_is_told_so(run, tmp_path):
    path = written(tmp_path / "lam.json", masked_case(0x12 << 48 | 0x80_0010))
    walker = tmp_path / "never.py"
    walker.write_text("def translate(memory, context, access):\n    return 0x7000\n")
    ran = run("replay", path, "--walker", f"python:{walker}:translate")
    assert 1 == ran.status
    assert "\nwrong: read of 0x12000000800010 at CPL 3" in ran.out
    assert "  observed:  nothing, for want of LAM\n" in ran.out


@pytest.mark.parametrize("path", sorted(COMPOSITE_CASES.iterdir()), ids=lambda path: path.stem)
def test_composites_are_replayed_beside_other_cases(run, small_case, path):
    ran = run("replay", small_case, path)
    assert 0 == ran.status
    assert "probes 4, divergences 0" in ran.out
    assert f"  known emulator divergence: {path.stem}" in ran.out
    assert run("replay", path, "--json").out == path.read_text()


def test_a_composite_that_diverges_is_exit_status_1(run, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", ())
    path = COMPOSITE_CASES / "locked-rmw-reads-first.json"
    ran = run("replay", path)
    assert 1 == ran.status
    assert f"{path}: diverges: rmw:" in ran.out
    assert "known emulator divergence" not in ran.out


def test_a_composite_is_of_ia_32e_mode_and_no_walkers_business(run, tmp_path):
    path = COMPOSITE_CASES / "locked-rmw-reads-first.json"
    older = tmp_path / "older.json"
    document = json.loads(path.read_text())
    document["case"]["cpu"]["efer"] = "0x0"
    older.write_text(json.dumps(document))
    for arguments, message in (
        ((older,), f"{older}: $.case: composites are of 4- and 5-level paging, not PAE paging"),
        ((path, "--walker", "walk"), f"{path}: a walker can't be asked for a composite"),
    ):
        ran = run("replay", *arguments)
        assert (2, "") == (ran.status, ran.out)
        assert ran.err == f"crosswalk: error: {message}\n"


def test_many_cases_are_made_together_and_shown_in_order(run, small_case, tmp_path, monkeypatch):
    case = load_case(small_case)
    paths = []
    for at in range(9):
        probes = tuple(replace(probe, va=probe.va + at) for probe in case.probes[: at % 4 + 1])
        paths.append(written(tmp_path / f"{at}.json", replace(case, probes=probes)))
    alone = "".join(run("replay", path).out for path in paths) + "9 cases: 9 agree\n"
    monkeypatch.setattr(replaying, "_TOGETHER", 4)
    processes = []

    def counted(*given, **named):
        processes.append(1)
        return contained(*given, **named)

    monkeypatch.setattr(replaying, "contained", counted)
    ran = run("replay", *paths)
    assert (0, alone) == (ran.status, ran.out)
    assert 3 == len(processes)


def test_a_case_that_kills_the_emulator_takes_no_other_with_it(run, small_case, monkeypatch):
    case = load_case(small_case)
    deadly = small_case.with_name("deadly.json")
    written(deadly, replace(case, probes=(Probe(va=0xDEAD_0000, access="read"),)))
    probe = ManyProber.probe

    def dies(self, cases):
        faulthandler.disable()  # The abort is meant: pytest need not show where.
        if any(0xDEAD_0000 in accesses.va for _, _, accesses in cases):
            os.abort()
        return probe(self, cases)

    monkeypatch.setattr(ManyProber, "probe", dies)
    ran = run("replay", small_case, deadly, small_case)
    assert 2 == ran.status
    assert 2 == ran.out.count(f"{small_case}: probes 4, divergences 0")
    assert ran.err.splitlines()[-1].startswith(f"{deadly}: the emulator died of SIGABRT")
    assert ran.out.endswith("\n3 cases: 2 agree, 1 not replayed\n")


def test_a_file_among_others_that_is_no_case_is_named_and_they_are_replayed(
    run, small_case, tmp_path
):
    other = tmp_path / "other.json"
    other.write_text("{}")
    ran = run("replay", small_case, other, tmp_path, small_case)
    assert 2 == ran.status
    assert 2 == ran.out.count(f"{small_case}: probes 4, divergences 0")
    assert [f"{other}: ", f"{tmp_path}: is a directory"] == [
        line[: len(str(other)) + 2] if line.startswith(str(other)) else line
        for line in ran.err.splitlines()
    ]
    assert "4 cases: 2 agree, 2 not replayed" == ran.out.splitlines()[-1]
