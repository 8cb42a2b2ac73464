"""Roots, for people and for machines."""

from collections.abc import Iterator
from typing import Any

from crosswalk.walker.roots import Root, Roots

__all__ = ["ROOT_HEADING", "root_record", "root_text", "roots_lines"]

_SHOWN = 8

ROOT_HEADING = (
    f"{'CR3':<18}  {'mode':<7}  {'group':>5}  {'mappings':>13}  {'user':>11}  {'role':<8}  "
    f"{'pair':<14}  source"
)
"""The heading of the columns of `root_text`."""


def root_text(root: Root) -> str:
    """Return a root as a line of columns."""
    pair = "" if root.pair is None else f"{root.pair:#x}"
    return (
        f"{root.context.cr3:<#18x}  {root.context.mode.value:<7}  {root.group:>5}  "
        f"{root.mappings:>13,}  {root.user_mappings:>11,}  {root.role or '-':<8}  "
        f"{pair or '-':<14}  {root.source}"
    )


def root_record(root: Root) -> dict[str, Any]:
    """Return a root as a record; `pair` is the CR3 of its partner under page-table isolation."""
    return {
        "cr3": hex(root.context.cr3),
        "mode": root.context.mode.value,
        "group": root.group,
        "mappings": root.mappings,
        "user_mappings": root.user_mappings,
        "source": root.source,
        "role": root.role,
        "pair": None if root.pair is None else hex(root.pair),
    }


def roots_lines(roots: Roots) -> Iterator[str]:
    """Yield the first few roots, and how many more there are."""
    yield f"roots: {len(roots):,}"
    for root in roots[:_SHOWN]:
        yield f"  {root_text(root)}"
    if len(roots) > _SHOWN:
        yield f"  … and {len(roots) - _SHOWN:,} more: `crosswalk roots` lists them"
