import pytest

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.located_errors import errors_named, one_line


def test_control_characters_are_escaped_and_text_is_kept():
    assert r"é\n\x1b[31m\t\u2028" == one_line("é\n\x1b[31m\t\u2028")


def test_long_text_is_cut():
    assert "a" * 200 == one_line("a" * 200)
    assert "a" * 199 + "…" == one_line("a" * 201)


@pytest.mark.parametrize("kind", [BadInput, LimitExceeded])
def test_an_error_is_named_and_keeps_its_type(kind):
    with pytest.raises(kind, match=r"^a\\nb: it broke$"), errors_named("a\nb"):
        raise kind("it broke")


def test_an_error_that_has_the_name_already_is_not_named_twice():
    with pytest.raises(BadInput, match=r"^a: it broke$"), errors_named("a"), errors_named("a"):
        raise BadInput("it broke")
    with pytest.raises(BadInput, match=r"^b: a: it broke$"), errors_named("b"), errors_named("a"):
        raise BadInput("it broke")
