"""Volatility 3's Intel layers, as a walker under test."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.questions import Course, Questions
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, PhysicalMemory
from crosswalk.walker.outcome import PageFault, Translation

__all__ = ["Volatility"]

_PHYSICAL_END = (1 << 52) - 1
_LAYERS = {
    PagingMode.BIT32: "Intel",
    PagingMode.PAE: "IntelPAE",
    PagingMode.LEVEL4: "Intel32e",
}


class Volatility:
    """The layers of all modes but 5-level paging; raises `BadInput` if it isn't installed."""

    claims = frozenset({Capability.TRANSLATION})
    modes = frozenset(_LAYERS)

    def __init__(self) -> None:
        if find_spec("volatility3") is None:
            raise BadInput("isn't installed: pip install volatility3")
        self._exceptions = import_module("volatility3.framework.exceptions")

    def answer(
        self, memory: PhysicalMemory, context: PagingContext, questions: Questions, course: Course
    ) -> Answers:
        """Return for each access whether its address is mapped, and to which physical address.

        There is no answer in 5-level paging, for which it has no layer, and with an encryption
        mask, which it takes for address bits.
        """
        answers = Answers.none(len(questions.accesses))
        if context.mode not in _LAYERS or context.encryption_mask:
            return answers
        layer = _layer(memory, context)
        for row, va in enumerate(questions.accesses.va.tolist()):
            course.place[0] = row
            try:
                # Its public methods split ranges first, and check for RAM.
                answers.fill(row, Translation(layer._translate(va)[0]))  # noqa: SLF001
            except self._exceptions.InvalidAddressException:
                answers.fill(row, PageFault(0, 0))
        return answers


def _layer(memory: PhysicalMemory, context: PagingContext) -> Any:
    framework = "volatility3.framework"
    contexts = import_module(f"{framework}.contexts")
    intel = import_module(f"{framework}.layers.intel")
    interfaces = import_module(f"{framework}.interfaces.layers")

    def read(_self: object, offset: int, length: int, *_pad: object, **_named: object) -> bytes:
        frame = np.array([offset & -FRAME], np.uint64)
        inside = offset & (FRAME - 1)
        return memory.tables(frame).tobytes()[inside : inside + length].ljust(length, b"\0")

    def is_valid(_self: object, _offset: int, _length: int = 1) -> bool:
        return True

    adapter = type(
        "Adapter",
        (interfaces.DataLayerInterface,),
        {
            "maximum_address": _PHYSICAL_END,
            "minimum_address": 0,
            "read": read,
            "write": None,
            "is_valid": is_valid,
            "get_requirements": classmethod(lambda _: []),
        },
    )
    session = contexts.Context()
    session.add_layer(adapter(session, "memory", "memory"))
    session.config["intel.memory_layer"] = "memory"
    session.config["intel.page_map_offset"] = context.root
    return getattr(intel, _LAYERS[context.mode])(session, "intel", "intel")
