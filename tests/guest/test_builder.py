import pytest

from crosswalk.guest import builder, memory_map
from crosswalk.guest.builder import build_image
from crosswalk.guest.errors import AssemblyError, LayoutError


@pytest.mark.parametrize("levels", [4, 5])
def test_two_builds_are_the_same(levels):
    assert build_image(levels) == build_image(levels)


def test_the_variants_differ():
    assert build_image(4).segments != build_image(5).segments


@pytest.mark.parametrize("levels", [4, 5])
def test_no_paging_structure_is_in_the_image(levels):
    image = build_image(levels)
    assert {
        *(0x8000, 0x8200, 0x8800, 0x9000),
        *(0x100000, 0x101000, 0x102000, 0x105000, 0x106000, 0x120000, 0x142000),
    } == {pa for pa, _ in image.segments}


def test_a_source_that_outgrows_its_place_is_refused(monkeypatch):
    sources = [(*source[:4], 10) for source in builder.SOURCES]
    monkeypatch.setattr(builder, "SOURCES", sources)
    with pytest.raises(LayoutError, match=r"real\.s: 70 bytes don't fit into 10"):
        build_image(4)


def test_sources_that_lie_on_each_other_are_refused(monkeypatch):
    sources = [(*source[:3], 0x8000, source[4]) for source in builder.SOURCES]
    monkeypatch.setattr(builder, "SOURCES", sources)
    with pytest.raises(LayoutError, match="segments overlap at 0x8000"):
        build_image(4)


def test_a_source_that_lacks_a_symbol_is_named(monkeypatch):
    monkeypatch.setattr(memory_map, "symbols_of", lambda levels: {"LEVELS": levels})
    with pytest.raises(AssemblyError, match=r"^real\.s:16: 'ljmp CODE32:PROTECTED': Cannot find"):
        build_image(4)
