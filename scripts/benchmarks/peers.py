"""Other people's walkers, where they are installed: `pip install crosswalk-x86[volatility3]`."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from scripts.benchmarks.contenders import Contender, Sums
from scripts.benchmarks.images import Image

__all__ = ["PEER", "peers"]

PEER = "volatility3 mapping()"


def peers() -> list[Contender]:
    """Return the peers that are installed."""
    if find_spec("volatility3") is None:
        return []
    return [Contender(PEER, _mapping, _mapping_sums)]


def _mapping(image: Image) -> list[Any]:
    # Neighbours that are contiguous in both come as one there, but are translated one by one.
    layer = _layer(image)
    return list(layer.mapping(0, 1 << 47, ignore_errors=True))


def _mapping_sums(image: Image) -> Sums:
    return {"size": sum(length for _, length, *_ in _mapping(image))}


def _layer(image: Image) -> Any:
    framework = "volatility3.framework"
    contexts = import_module(f"{framework}.contexts")
    intel = import_module(f"{framework}.layers.intel")
    physical = import_module(f"{framework}.layers.physical")

    # It leaves out pages that lie outside the memory, and here all do but the tables.
    endless = {"maximum_address": (1 << 52) - 1}
    memory = type("Memory", (physical.BufferDataLayer,), endless)
    context = contexts.Context()
    context.add_layer(memory(context, "memory", "memory", image.words.tobytes()))
    context.config["intel.memory_layer"] = "memory"
    context.config["intel.page_map_offset"] = 0
    return intel.Intel32e(context, "intel", "intel")
