"""The code of a boot image with a line of its sources changed."""

from importlib import resources

from crosswalk.guest.assembler import assemble
from crosswalk.guest.boot import image, places


def planted(source, line, instead):
    folder = resources.files("crosswalk.guest").joinpath("asm")

    def assembled(names, offset, bits=64):
        texts = {each: folder.joinpath(each).read_text() for each in names}
        if source in names:
            assert line in texts[source]
            texts[source] = texts[source].replace(line, instead)
        text = "\n".join(texts.values())
        return assemble(names[0], text, bits=bits, address=offset, symbols=image.symbols())

    return image._Code(
        entry=assembled((image._ENTRY_SOURCE,), places.ENTRY, bits=32),
        accesses=assembled((image._ACCESS_SOURCE,), places.ACCESS),
        rest=assembled(image.SOURCES, places.CODE),
    )
