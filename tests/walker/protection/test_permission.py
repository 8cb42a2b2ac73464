from crosswalk.walker.protection import Permission


def test_numbers_are_those_of_the_heki_patches():
    assert [("READ", 1), ("WRITE", 2), ("EXECUTE", 4)] == [
        (each.name, each.value) for each in Permission
    ]
