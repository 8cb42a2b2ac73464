import pytest

from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.registry import open_target
from crosswalk.walker.errors import BadInput


@pytest.mark.parametrize("name", ["", "else", "volatility", "walk:er", "C:its.so"])
def test_a_name_that_is_none_is_bad_input_that_lists_them(name):
    with pytest.raises(BadInput) as caught:
        open_target(name)
    text = str(caught.value)
    assert text.startswith(f"--walker {name}: none of python:MODULE:FUNCTION")
    for each in ("exec:COMMAND", "c:LIBRARY.so", "volatility3", "bulk", "translate", "walk"):
        assert each in text


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("python", "names no function; give python:MODULE:FUNCTION or python:FILE.py:FUNCTION"),
        ("c", "names no library; give c:LIBRARY.so"),
        ("exec", "names no command; give exec:COMMAND"),
    ],
)
@pytest.mark.parametrize("rest", ["", ":", ": "], ids=["nothing", "a colon", "a space"])
def test_a_kind_alone_says_what_it_lacks(kind, message, rest):
    with pytest.raises(BadInput) as caught:
        open_target(kind + rest)
    assert f"--walker {kind}{rest} {message}" == str(caught.value)


def test_the_built_in_walkers_answer_what_is_chosen_of_what_they_can():
    every = {Capability.LEAVES, Capability.FLAGS, Capability.EFFECTIVE}
    assert every == open_target("walk").claims
    assert {Capability.LEAVES} == open_target("walk", claims="leaves").claims
    assert {Capability.RIGHTS} == open_target("bulk", claims="rights").claims
    with pytest.raises(BadInput, match="walk answers effective, flags, leaves only"):
        open_target("walk", claims="rights")


def test_volatility3_that_is_not_installed_is_bad_input(monkeypatch):
    monkeypatch.setattr("crosswalk.emu.targets.volatility.find_spec", lambda name: None)
    with pytest.raises(BadInput) as caught:
        open_target("volatility3")
    assert "volatility3: isn't installed: pip install volatility3" == str(caught.value)
