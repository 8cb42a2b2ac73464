"""Boot images with the suite's cases, for machines that are booted by hand."""

from collections.abc import Iterable, Iterator

from crosswalk.emu.judges.asked import Asked, Registers
from crosswalk.emu.judges.compiling import CompiledAccesses
from crosswalk.emu.judges.composites import CompiledComposites
from crosswalk.emu.judges.exported import images_of
from crosswalk.emu.judges.judge import Question
from crosswalk.emu.judges.ways import Ram
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.guest.boot.image import Output
from crosswalk.walker.columns import Accesses
from crosswalk.walker.formats.case import Case

__all__ = ["case_images", "question_of"]


_EVERYWHERE = frozenset({"nx", "smep", "smap"})
"""What x86-64 CPUs have."""

_LAST = (1 << 64) - 1


def case_images(contents: Iterable[Case | CompositeCase]) -> dict[str, bytes]:
    """Return images that put these cases to the machine that boots them, by name.

    As `crosswalk export` makes them: they answer over COM1, or on the screen. Each is named by the
    features that its cases need: where a CPU lacks one, it refuses them, or ends. So do some at a
    fetch of the last byte of all, which is in images of its own.
    """
    parts: dict[str, list[Asked]] = {}
    for content in contents:
        parts.setdefault(_needed(content), []).extend(_asked(content))
    images = dict[str, bytes]()
    for name, asked in sorted(parts.items()):
        made, _homeless = images_of(asked, Output.SERIAL | Output.SCREEN)
        for number, image in enumerate(made, 1):
            images[f"{name}-{number}.img" if len(made) > 1 else f"{name}.img"] = image.data
    return images


def question_of(case: Case) -> Question:
    """Return a case's accesses as a question."""
    accesses = Accesses.of([probe.asked for probe in case.probes])
    return Question(case.memory(), case.context(), accesses)


def _needed(content: Case | CompositeCase) -> str:
    """Return the name of the image that a case belongs to."""
    case = content if isinstance(content, Case) else content.case
    names = {name for name, _ in Registers.of(case.context()).features} - _EVERYWHERE
    if any(probe.va == _LAST and probe.access == "execute" for probe in case.probes):
        names.add("last-byte")
    return "-".join(sorted(names)) or "plain"


def _asked(content: Case | CompositeCase) -> Iterator[Asked]:
    if isinstance(content, Case):
        yield from (
            part.asked for part in CompiledAccesses(question_of(content), Ram(None), None).parts
        )
        return
    whole = content.case.memory(), content.case.context(), content.composite
    yield from (part.asked for part in CompiledComposites(whole, Ram(None), None).parts)
