from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.protect.kernel.rules import Cause, FaultFacts, decide, grant, grant_each

PATCH = FaultFacts(
    write=True,
    fetch=False,
    cpl=0,
    write_protect=True,
    interrupts=False,
    in_text=True,
    window=True,
    writable=False,
    loaded=False,
    user_code=False,
)
USER_CODE = replace(PATCH, write=False, fetch=True, cpl=3, user_code=True, interrupts=True)
WITHOUT = (
    {"cpl": 3},
    {"write_protect": False},
    {"interrupts": True},
    {"in_text": False},
    {"window": False},
)


def bools(text):
    return np.array([each == "1" for each in text])


def test_text_is_opened_for_a_patch():
    assert Cause.PATCHED is decide(PATCH, sealed=True, text=True, kept=True)


@pytest.mark.parametrize("change", WITHOUT, ids=str)
def test_a_store_to_text_that_lacks_one_thing_is_no_patch(change):
    assert Cause.REFUSED is decide(replace(PATCH, **change), sealed=True, text=True, kept=True)


def test_read_only_data_is_never_opened():
    assert Cause.REFUSED is decide(PATCH, sealed=True, text=False, kept=True)
    assert Cause.REFUSED is decide(
        replace(PATCH, writable=True), sealed=True, text=False, kept=True
    )


def test_what_is_not_sealed_follows_the_kernels_tables():
    assert Cause.FOLLOWED is decide(
        replace(PATCH, writable=True), sealed=False, text=False, kept=True
    )
    assert Cause.REFUSED is decide(PATCH, sealed=False, text=False, kept=True)


@pytest.mark.parametrize("writable", [False, True])
def test_code_outside_the_image_is_opened_as_text_is_and_never_followed(writable):
    loaded = replace(PATCH, loaded=True, writable=writable)
    assert Cause.LOADED is decide(loaded, sealed=False, text=False, kept=True)
    for change in WITHOUT:
        assert Cause.REFUSED is decide(
            replace(loaded, **change), sealed=False, text=False, kept=True
        )
    assert Cause.REFUSED is decide(loaded, sealed=True, text=False, kept=True)


def test_user_code_in_a_sealed_frame_is_let_run_and_nothing_else():
    assert Cause.USER_CODE is decide(USER_CODE, sealed=True, text=False, kept=True)
    for change in ({"cpl": 0}, {"user_code": False}, {"writable": True}):
        assert Cause.REFUSED is decide(
            replace(USER_CODE, **change), sealed=True, text=False, kept=True
        )
    assert Cause.REFUSED is decide(USER_CODE, sealed=False, text=False, kept=True)


def test_what_is_withheld_and_sealed_follows_from_what_the_mappings_want():
    # text, rodata, data, a table in data, freed image, outside: writable, not, executable.
    collective = np.array([5, 1, 3, 3, 3, 3, 1, 5], np.uint8)
    grants = grant(collective, bools("11111000"), bools("00110000"), bools("00010000"))
    assert [5, 1, 3, 7, 7, 7, 5, 5] == grants.permissions.tolist()
    assert (bools("11000000") == grants.sealed).all()
    assert (bools("10000000") == grants.text).all()


def test_a_process_runs_code_where_nothing_of_the_kernels_is_kept():
    assert Cause.PROCESS_CODE is decide(USER_CODE, sealed=False, text=False, kept=False)
    for change in ({"cpl": 0}, {"user_code": False}):
        fault = replace(USER_CODE, **change)
        assert Cause.REFUSED is decide(fault, sealed=False, text=False, kept=False)
    # Text mapped for users, as by forged tables.
    assert Cause.REFUSED is decide(USER_CODE, sealed=True, text=True, kept=False)


def test_where_tables_need_no_execution_it_is_withheld_from_all_that_no_mapping_lets_execute():
    # text, rodata, data, a table, outside: writable, code, unmapped; user code under MBEC.
    collective = np.array([5, 1, 3, 3, 3, 5, 0, 11], np.uint8)
    image, kept, tables = bools("11110000"), bools("00100000"), bools("00010000")
    grants = grant_each(collective, image, kept, tables, executes=12)
    assert [5, 1, 3, 3, 3, 5, 1, 11] == grants.permissions.tolist()
    assert (bools("11000000") == grants.sealed).all()
    assert (bools("10000000") == grants.text).all()
    assert (kept == grants.kept).all()
