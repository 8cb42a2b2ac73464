"""The code of a boot image with a line of its sources changed, and who boots it."""

from importlib import resources

from crosswalk.emu.judges.booted import BootedJudge
from crosswalk.guest.assembler import assemble
from crosswalk.guest.boot import image, places

_AS_IT_IS = image._code
_FACTS = {}


def judge_of(machine):
    """A judge of the QEMU under test, which is asked for its CPU once in all tests."""
    judge = BootedJudge(machine)
    judge._facts = _FACTS
    return judge


def planted(source, line, instead):
    """The code with this line of a source changed; the parts made of others are as they are."""
    folder = resources.files("crosswalk.guest").joinpath("asm")
    parts = {
        "entry": ((image._ENTRY_SOURCE,), places.ENTRY, 32),
        "accesses": ((image._ACCESS_SOURCE,), places.ACCESS, 64),
        "rest": (image.SOURCES, places.CODE, 64),
    }
    (name,) = [name for name, (sources, _, _) in parts.items() if source in sources]
    sources, offset, bits = parts[name]
    texts = {each: folder.joinpath(each).read_text() for each in sources}
    assert line in texts[source]
    texts[source] = texts[source].replace(line, instead)
    text = "\n".join(texts.values())
    made = assemble(sources[0], text, bits=bits, address=offset, symbols=image.symbols())
    return _AS_IT_IS()._replace(**{name: made})
