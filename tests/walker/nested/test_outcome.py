from crosswalk.walker.nested import NestedError, NestedPageFault, nested_error_names


def test_bits_are_those_of_exitinfo1():
    assert [1, 2, 4, 8, 16, 1 << 32, 1 << 33] == [int(bit) for bit in NestedError]


def test_names_tell_the_stage_last():
    assert "P W/R U/S table" == nested_error_names(7 | 1 << 33)
    assert "U/S I/D final" == nested_error_names(0x14 | 1 << 32)
    assert "none" == nested_error_names(0)
    assert "U/S 0x80 final" == nested_error_names(0x84 | 1 << 32)


def test_faults_are_equal_by_what_they_say():
    assert NestedPageFault(5, 0x1000) == NestedPageFault(5, 0x1000, ())
    assert NestedPageFault(5, 0x1000) != NestedPageFault(5, 0x1000, ((0, 1),))
