import pytest

from crosswalk.walker import Access, AccessType, BadInput


@pytest.mark.parametrize("va", [-1, 1 << 64])
def test_an_address_over_64_bits_is_refused(va):
    with pytest.raises(BadInput, match="64 bits"):
        Access(va, AccessType.READ)


@pytest.mark.parametrize("cpl", [-1, 1, 2, 4])
def test_a_privilege_level_that_paging_does_not_know_is_refused(cpl):
    with pytest.raises(BadInput, match=f"cpl = {cpl}"):
        Access(0, AccessType.READ, cpl)


def test_both_ends_of_the_address_space_and_both_privileges_are_taken():
    assert 0 == Access(0, AccessType.READ, 0).va
    assert 3 == Access((1 << 64) - 1, AccessType.READ, 3).cpl
