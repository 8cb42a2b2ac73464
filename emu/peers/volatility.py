"""Volatility 3's Intel layers, as a walker under test."""

from importlib import import_module
from typing import Any

import numpy as np

from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext, PagingMode
from walker.memory import PhysicalMemory

__all__ = ["translated"]

_PHYSICAL_END = (1 << 52) - 1
_LAYERS = {
    PagingMode.BIT32: "Intel",
    PagingMode.PAE: "IntelPAE",
    PagingMode.LEVEL4: "Intel32e",
    PagingMode.LEVEL5: "Intel32e",
}


def translated(memory: PhysicalMemory, context: PagingContext, accesses: Accesses) -> Outcomes:
    """Return for each access whether its address is mapped there, and where to.

    Its layer for 4-level paging is asked also where there are five: it has none for that.
    """
    layer = _layer(memory, context)
    exceptions = import_module("volatility3.framework.exceptions")
    out = Outcomes.empty(len(accesses))
    pages, which = np.unique(accesses.va >> np.uint64(12), return_inverse=True)
    base = np.zeros(len(pages), np.uint64)
    mapped = np.zeros(len(pages), np.bool_)
    for row, page in enumerate(pages.tolist()):
        try:
            base[row], mapped[row] = layer._translate(page << 12)[0], True  # noqa: SLF001  # All else splits ranges first.
        except exceptions.InvalidAddressException:
            mapped[row] = False
    found = mapped[which]
    out.kind[:] = np.where(found, Kind.OK, Kind.PAGE_FAULT)
    out.pa[found] = base[which][found] + (accesses.va & np.uint64(4095))[found]
    return out


def _layer(memory: PhysicalMemory, context: PagingContext) -> Any:
    framework = "volatility3.framework"
    contexts = import_module(f"{framework}.contexts")
    intel = import_module(f"{framework}.layers.intel")
    interfaces = import_module(f"{framework}.interfaces.layers")

    def read(_self: object, offset: int, length: int, *_pad: object, **_named: object) -> bytes:
        frame = np.array([offset & -4096], np.uint64)
        inside = offset & 4095
        return memory.tables(frame).tobytes()[inside : inside + length].ljust(length, b"\0")

    def is_valid(_self: object, _offset: int, _length: int = 1) -> bool:
        return True

    lent = type(
        "Lent",
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
    session.add_layer(lent(session, "memory", "memory"))
    session.config["intel.memory_layer"] = "memory"
    session.config["intel.page_map_offset"] = context.root
    return getattr(intel, _LAYERS[context.mode])(session, "intel", "intel")
