from crosswalk.walker.nested import (
    EptMisconfiguration,
    EptViolation,
    NestedError,
    NestedPageFault,
    Qualification,
    nested_error_names,
    qualification_names,
)


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


def test_bits_are_those_of_the_exit_qualification():
    assert [1 << bit for bit in range(17)] == [int(bit) for bit in Qualification]


def test_qualifications_are_named_bit_by_bit():
    assert "read readable gla-valid page" == qualification_names(0x189)
    assert "write user-executable guest-no-execute" == qualification_names(
        1 << 1 | 1 << 6 | 1 << 11
    )
    assert ("none", "fetch 0x20000") == (qualification_names(0), qualification_names(4 | 1 << 17))


def test_violations_are_equal_by_what_they_say():
    assert EptViolation(0x181, 0x1000, 0x2000) == EptViolation(0x181, 0x1000, 0x2000, (), 0)
    assert EptViolation(0x181, 0x1000, 0x2000) != EptViolation(0x181, 0x1000, 0x2000, (), 1)
    assert EptMisconfiguration(0x1000) != EptMisconfiguration(0x1000, ((0, 1),))
