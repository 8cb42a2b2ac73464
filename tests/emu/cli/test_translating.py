import pytest


def test_translate_shows_each_step(run, small_case):
    ran = run("translate", small_case, "0x400123", "--json")
    document = ran.document
    assert ["va", "access", "cpl", "ac", "steps", "predicted"] == list(document)
    assert [4, 3, 2, 1] == [step["level"] for step in document["steps"]]
    assert ["table"] * 3 + ["leaf"] == [step["kind"] for step in document["steps"]]
    assert ("ok", "0x8123") == (document["predicted"]["outcome"], document["predicted"]["pa"])
    assert 4 == len(document["predicted"]["entries"])


@pytest.mark.parametrize("cpl", ["0", "3"])
@pytest.mark.parametrize("access", ["read", "write", "execute"])
@pytest.mark.parametrize("va", ["0x400123", "0x401000", "0x800000", "0x402000", "0x8000000000000"])
def test_what_is_observed_is_what_is_predicted(run, small_case, va, access, cpl):
    ran = run("translate", small_case, va, "--access", access, "--cpl", cpl, "--observe", "--json")
    assert ran.document["predicted"] == ran.document["observed"]


def test_translate_for_people_names_entries_and_outcomes(run, small_case):
    ran = run("translate", small_case, "0x401000", "--access", "write", "--observe")
    assert "write of 0x401000 at CPL 0" == ran.out.splitlines()[0]
    assert "PTE[1]" in ran.out
    assert "predicted: #PF, error code 0x3 (P W/R), CR2 0x401000" in ran.out
    assert "observed:  #PF, error code 0x3 (P W/R), CR2 0x401000" in ran.out


def test_an_address_that_is_not_canonical_has_no_steps(run, small_case):
    ran = run("translate", small_case, "0x8000000000000000")
    assert "not canonical: linear addresses have 48 bits" in ran.out
    assert "predicted: #GP(0)" in ran.out
    assert [] == run("translate", small_case, "0x8000000000000000", "--json").document["steps"]
