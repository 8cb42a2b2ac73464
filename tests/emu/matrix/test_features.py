"""Sections of what the emulated CPU lacks: predicted only, and held against something else."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.matrix.feature_sections import FEATURE_SECTIONS
from crosswalk.emu.matrix.summary import Summary
from crosswalk.emu.matrix.text import summary_lines, verdict
from crosswalk.emu.matrix.unit import without_features
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import CR0, CR4, Vendor
from tests.emu.matrix.running import all_of


@pytest.mark.parametrize(
    ("section", "features"),
    [
        ("lam-4level", {"LAM"}),
        ("lam-5level", {"LAM"}),
        ("uai-4level", {"UAI"}),
        ("uai-5level", {"UAI"}),
        ("lass-4level", {"LAM", "LASS"}),
        ("lass-5level", {"LAM", "LASS"}),
        ("encryption", {"wide"}),
        ("pks-2m", {"PKS"}),
        ("pks-1g", {"PKS"}),
        ("pks-5level", {"PKS"}),
    ],
)
def test_what_the_cpu_lacks_is_no_agreement_and_nothing_else_differs(section, features):
    summary = all_of(f"section={section}")
    assert {} == summary.groups
    assert (0, {}) == (summary.divergent, summary.known)
    assert features == set(summary.predicted_only)
    combinations = sum(summary.combinations.values())
    lacking = sum(summary.predicted_only.values())
    assert lacking > 0.1 * combinations
    assert summary.agreements == summary.probes == combinations - lacking
    assert sum(summary.outcomes[section]) == summary.probes
    status, words = verdict(summary)
    assert 0 == status
    assert words.startswith(
        f"agreement on {summary.probes:,} of {combinations:,} probes; predicted"
    )
    assert any(
        f"predicted only, {name}: " in line for line in summary_lines(summary) for name in features
    )


def test_all_that_is_asked_with_a_mask_is_said_to_be():
    summary = all_of("section=encryption")
    assert summary.probes == summary.masked > 1000
    assert f"{summary.masked:,} with the encryption mask taken off" in verdict(summary)[1]


def test_where_nothing_can_be_asked_the_word_agreement_is_not_said():
    summary = all_of("section=lass-4level,cr4.lass=1,cpl=0,access=execute,cr3.lam_u48=0")
    only_low = Summary("", combinations={"x": 8}, predicted_only={"LASS": 8})
    assert summary.predicted_only
    status, words = verdict(only_low)
    assert (2, "nothing asked; predicted only: 8 (LASS)") == (status, words)


def test_the_emulators_departures_from_amd_are_all_that_differs_there():
    summary = all_of("vendor=amd,section=vendor-fetch,section=pae-pdpte-amd")
    assert 0 == summary.divergent
    parts = {part for name in summary.known for part in name.split("+")}
    assert {"amd-fetch-bit-without-nxe", "pae-pdpte-read-when-used"} == parts


def without(change):
    """The walker under a context that is changed."""
    return lambda memory, context, accesses: translate_many(memory, change(context), accesses)


def fetches_masked_too(memory, context, accesses):
    data = replace(accesses, type=np.zeros_like(accesses.type))
    kinds = translate_many(memory, context, data).kind
    found = translate_many(memory, context, accesses)
    lost = (accesses.type == AccessType.EXECUTE) & (kinds != Kind.GENERAL_PROTECTION)
    found.kind[lost & (found.kind == Kind.GENERAL_PROTECTION)] = Kind.OK
    return found


def cr2_with_the_tag(memory, context, accesses):
    found = translate_many(memory, context, accesses)
    faults = found.kind == Kind.PAGE_FAULT
    return replace(found, cr2=np.where(faults, accesses.va, found.cr2))


def whatever_ac(memory, context, accesses):
    clear = Accesses(accesses.va, accesses.type, accesses.cpl, np.zeros_like(accesses.ac))
    return translate_many(memory, context, clear)


def as_48_bits(memory, context, accesses):
    wrong = replace(context, cr3=context.cr3 & ~(1 << 61) | context.cr3 >> 61 << 62 & 1 << 62)
    return translate_many(memory, wrong, accesses)


def bits_56_48_ignored(memory, context, accesses):
    data = accesses.type != AccessType.EXECUTE
    shift = np.int64(16 if context.uai else 0)
    short = (accesses.va.astype(np.int64) << shift >> shift).astype(np.uint64)
    return translate_many(memory, context, replace(accesses, va=np.where(data, short, accesses.va)))


def loaded_as_intels(memory, context, accesses):
    return translate_many(memory, replace(context, vendor=Vendor.INTEL), accesses)


LAM, UAI, LASS = (
    f"section={name}-4level,cr0.wp=1,pte.rw=1,pte.us=1" for name in ("lam", "uai", "lass")
)
BUGS = {
    "LAM left out": (f"{LAM},pte.p=1,pte.nx=0", without(without_features)),
    "fetches masked": (f"{LAM},pte.p=1,pte.nx=0", fetches_masked_too),
    "CR2 with the metadata": (f"{LAM},pte.p=0,pte.nx=0", cr2_with_the_tag),
    "LAM_U57 taken for LAM_U48": (f"{LAM},pte.p=1,pte.nx=0", as_48_bits),
    "UAI left out": (f"{UAI},pte.p=1,pte.nx=0", without(without_features)),
    "UAI of bits 63 to 48": (f"{UAI},pte.p=1,pte.nx=0", bits_56_48_ignored),
    "LASS left out": (
        f"{LASS},pte.p=1",
        without(lambda context: replace(context, cr4=context.cr4 & ~CR4.LASS)),
    ),
    "LASS whatever AC is": (f"{LASS},pte.p=1", whatever_ac),
    "the mask taken for an address": (
        "section=encryption,cr0.wp=1,efer.nx=1",
        without(lambda context: replace(context, encryption_mask=0)),
    ),
    "PKS left out": (
        "section=pks-2m",
        without(lambda context: replace(context, cr4=context.cr4 & ~CR4.PKS)),
    ),
    "WD of supervisor pages whatever WP is": (
        "section=pks-5level,pkrs.wd=1,cr0.wp=0,pml5e.us=0,access=write",
        without(lambda context: replace(context, cr0=context.cr0 | CR0.WP)),
    ),
    "PKRU for all pages": (
        "section=pks-4k,cr4.pke=1,pkru.ad=1,cr4.pks=1,pte.rw=1,pte.nx=0",
        without(lambda context: replace(context, pkrs=context.pkru)),
    ),
    "I/D told with SMEP by AMD": ("section=vendor-fetch", loaded_as_intels),
    "PDPTEs loaded by AMD": ("section=pae-pdpte-amd,cr4.smep=0,efer.nx=1", loaded_as_intels),
    "a wide address cut": (
        "section=maxphyaddr,maxphyaddr=52,efer.nx=1,pdpte.ps=0,access=read,cpl=3",
        without(lambda context: replace(context, maxphyaddr=min(context.maxphyaddr, 40))),
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_walker_with_a_rule_broken_is_caught(name):
    summary = all_of(*BUGS[name])
    assert summary.divergent > 0
    assert (1, "FAILED") == verdict(summary)


def test_the_upper_half_is_mapped_where_a_section_has_both():
    (section,) = (each for each in FEATURE_SECTIONS if each.name == "lam-4level")
    va = section.paths(section.variants()).tolist()
    assert {0, 1} == {at >> 63 for at in va}
    assert len(set(va)) == len(va)
