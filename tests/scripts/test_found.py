"""The bugs found: the page fits its data, and a bug that is gone, or another, isn't shown."""

import shutil
from dataclasses import replace

import pytest

from crosswalk.walker.formats.case import load_case
from scripts.upkeep.found import (
    PAGE,
    Shown,
    judged,
    main,
    moved,
    page,
    replayed,
    report,
    show,
    way_of,
)
from scripts.upkeep.found_bugs import BUGS, REGISTERED, ROOT, SUBJECTS, bugs
from scripts.upkeep.found_pairs import pair_shown

PS = BUGS["volatility3-pml4e-ps"]
KEYS = BUGS["bochs-keys-by-privilege"]
CR4 = BUGS["qemu-reserved-bit-of-cr4"]
BIT_12 = BUGS["bochs-ept-large-page-bit-12"]


def document(outcome, version="Bochs 3.0, GenuineIntel, 40 bits"):
    """What `judge --json` prints of one probe, as far as it is looked at."""
    return {"judges": {"bochs": {"version": version}}, "probes": [{"judged": {"bochs": outcome}}]}


SEEN = {"outcome": "ok", "pa": "0x40000000", "verdict": "known"}
RIGHT = {"outcome": "page_fault", "error_code": "0x21", "cr2": "0x0", "verdict": "agreed"}


def test_the_page_is_as_its_data_make_it():
    assert page(BUGS.values()) == PAGE.read_text("utf-8")


def test_each_bug_has_a_case_with_one_probe_for_each_answer_and_each_subject_has_a_bug():
    assert {bug.subject for bug in (BUGS | REGISTERED).values()} == SUBJECTS.keys()
    for bug in (bug for bug in BUGS.values() if not bug.cr4 and not bug.departure):
        case = load_case(ROOT / bug.case)
        assert case.probes
        assert not bug.judged or len(bug.judged) == len(case.probes)


def test_a_bug_that_is_there_is_shown():
    assert (Shown.SHOWN, PS.says.strip()) == show(PS, "volatility3")


def test_a_bug_of_a_walker_that_is_right_is_gone():
    assert (Shown.GONE, "the walker is right") == replayed(PS, 0, "")


def test_another_wrong_answer_is_not_taken_for_the_bug():
    assert (Shown.SHOWN, PS.says.strip()) == replayed(PS, 1, f"{PS.says}\n")
    other = "rule:      something else"
    assert (Shown.UNLIKE, other) == replayed(PS, 1, f"  {other}\n")


def test_a_walker_that_cannot_be_asked_is_a_failure():
    shown, _ = show(PS, "python:no/such/file.py:translate")
    assert Shown.FAILED is shown


@pytest.mark.parametrize(
    ("outcome", "version", "shown"),
    [
        (SEEN, "Bochs 3.0, GenuineIntel, 40 bits", Shown.SHOWN),
        (RIGHT, "Bochs 3.0, GenuineIntel, 40 bits", Shown.GONE),
        (RIGHT, "Bochs 3.1, GenuineIntel, 40 bits", Shown.AS_LISTED),
        (SEEN, "Bochs 3.1, GenuineIntel, 40 bits", Shown.BACK),
        (SEEN | {"pa": "0x0"}, "Bochs 3.0, GenuineIntel, 40 bits", Shown.UNLIKE),
        ({"outcome": "not_shown", "why": "no RAM"}, "Bochs 3.0, an, 40 bits", Shown.SKIPPED),
    ],
)
def test_a_judges_answer_says_whether_the_bug_is_there(outcome, version, shown):
    found, _ = judged(KEYS, "bochs", document(outcome, version))
    assert shown is found


def test_registered_departures_of_the_emulated_cpu_are_shown():
    bug = REGISTERED["unicorn-fault-keeps-tlb"]
    assert (Shown.SHOWN, "Unicorn 2.1.4") == show(bug, "unicorn")


def test_a_registered_departure_is_looked_for_among_several_and_in_the_versions_that_show_it():
    bug = REGISTERED["qemu-pdpte-leaf-accessed-on-fault"]
    several = "pdpte-leaf-accessed-on-fault+reserved-fault-without-p"
    found = {"outcome": "page_fault", "verdict": "known", "known": several}
    answer = {"judges": {"qemu": {"version": "QEMU 7.2.22, TCG"}}, "judged": {"qemu": found}}
    assert (Shown.SHOWN, "QEMU 7.2.22, TCG") == judged(bug, "qemu", answer)
    found["known"] = "reserved-fault-without-p"
    assert Shown.UNLIKE is judged(bug, "qemu", answer)[0]
    late = replace(bug, registered=replace(bug.registered, since="8.0"))
    found["verdict"] = "agreed"
    assert Shown.AS_LISTED is judged(late, "qemu", answer)[0]


def test_a_machine_that_answers_no_sequence_is_skipped_with_the_reason():
    bug = REGISTERED["qemu-fault-keeps-tlb"]
    found = {"verdict": "not_shown", "why": "no PCIDs"}
    answer = {"judges": {"qemu": {"version": "QEMU 7.2.22, TCG"}}, "judged": {"qemu": found}}
    assert (Shown.SKIPPED, "QEMU 7.2.22, TCG: no PCIDs") == judged(bug, "qemu", answer)


@pytest.mark.slow  # What hangs is waited for.
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU on PATH")
def test_a_machine_that_refuses_a_value_of_cr4_has_no_bug_and_one_that_hangs_has():
    assert Shown.SHOWN is moved(CR4, "qemu")[0]
    assert Shown.UNLIKE is moved(replace(CR4, cr4="0xa0"), "qemu")[0]


def paired(known, version="Bochs 3.0, VMX, 40 bits", **more):
    """What `nested --json` prints, as far as it is looked at."""
    counts = {"probes": 1, "divergences": 0, "not_asked": {}, "known": dict.fromkeys(known, 1)}
    return counts | {"judge": {"name": "bochs", "version": version}} | more


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        (paired(["ept-large-page-bit-12"]), Shown.SHOWN),
        (paired([]), Shown.GONE),
        (paired([], divergences=1), Shown.UNLIKE),
        (paired([], probes=0, not_asked={"no VMX": 1}), Shown.SKIPPED),
        (paired([], version="Bochs 3.2, VMX, 40 bits"), Shown.AS_LISTED),
        (paired(["ept-large-page-bit-12"], version="Bochs 3.2, VMX, 40 bits"), Shown.BACK),
    ],
)
def test_a_pair_of_tables_says_whether_the_bug_is_there(document, shown):
    bug = replace(BIT_12, registered=replace(BIT_12.registered, until="3.1"))
    assert shown == pair_shown(bug, "bochs", document)[0]


def test_a_pair_of_tables_is_shown_with_both_answers():
    text = report(BIT_12)
    assert BIT_12.manual in text
    assert "  a processor:  VM exit: EPT misconfiguration, gpa 0x40000f49" in text
    assert "  Bochs:  VM exit: EPT violation" in text
    assert "crosswalk nested --with bochs --tables ept --accesses 1 --pair 481" in text


def test_what_is_not_at_hand_is_skipped_with_the_reason():
    way = way_of("libvmi", {}, ())
    assert None is way.given
    assert "--checkout libvmi=DIR" in way.why
    assert None is way_of("bochs", {}, ["qemu"]).given
    assert "bochs:x/bochs" == way_of("bochs", {}, ["qemu", "bochs:x/bochs"]).given


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="there is no"):
        way_of("gdb-pt-dump", {"gdb-pt-dump": str(tmp_path)}, ())


def test_a_name_that_is_none_is_refused():
    with pytest.raises(SystemExit, match="no such bug"):
        main(["none"])


def test_nothing_shown_is_no_success(capsys):
    assert 2 == main(["libvmi-pae-pdpte"])
    assert "skipped  libvmi-pae-pdpte: needs a checkout" in capsys.readouterr().out


def test_a_report_has_the_manual_the_tables_and_both_answers():
    text = report(BUGS["libvmi-pae-2-mib"])
    assert BUGS["libvmi-pae-2-mib"].manual in text
    assert "PDE[0]       at 0x00000002000 = 0x0000000100200087  leaf" in text
    assert "a processor:  ok, pa 0x100200000" in text
    assert '{"va": "0x0"}' in text


def test_a_report_about_a_machine_has_a_boot_image_for_the_cpu_of_the_case():
    text = report(BUGS["qemu-pse36-above-maxphyaddr"])
    assert "crosswalk export tests/cases/judges/pse36-above-maxphyaddr.json -o bug.img" in text
    assert "-cpu max,vendor=GenuineIntel,phys-bits=39 " in text


def test_a_bug_has_what_shows_it():
    with pytest.raises(TypeError, match="a walker's bug has `says`"):
        bugs('[a]\nin = "drgn"\ntitle = ""\nwhat = ""\ncase = ""\nmanual = ""\n')
