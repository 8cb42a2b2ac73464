"""Reports of what ways of enforcing collective rights grant beyond them: lines and JSON records."""

from collections.abc import Iterator, Sequence
from typing import Any

from crosswalk.emu.report.protection import nobody_asked
from crosswalk.emu.report.text import size_text
from crosswalk.walker.protection.enforcers import Beyond
from crosswalk.walker.protection.policy import Protection
from crosswalk.walker.rights import Rights

__all__ = ["beyond_lines", "beyond_record"]

_KIB = 1 << 10
_WIDTH = 11
_NAME = 31


def beyond_lines(protection: Protection, found: Sequence[Beyond]) -> Iterator[str]:
    """Yield a table: a line for each way of enforcing rights, a column for each right."""
    yield (
        f"RAM: {size_text(int(protection.size.sum()))}, of which mapped "
        f"{size_text(_mapped(protection))}; granted beyond what its mappings allow, in KiB:"
    )
    half = 3 * _WIDTH
    yield f"  {'':<{_NAME}}{'supervisor':>{half}}{'user':>{half}}"
    columns = [_name(right)[1] for right in Rights]
    yield f"  {'':<{_NAME}}{''.join(f'{each:>{_WIDTH}}' for each in columns)}"
    for each in found:
        sizes = "".join(f"{size // _KIB:>{_WIDTH},}" for size in each.rights.values())
        yield f"  {each.enforcer:<{_NAME}}{sizes}"


def beyond_record(
    protection: Protection, found: Sequence[Beyond], seconds: float
) -> dict[str, Any]:
    """Return the same for machines, sizes in bytes; with the rights now and as granted."""
    return {
        **nobody_asked(seconds),
        "ram": int(protection.size.sum()),
        "mapped": _mapped(protection),
        "enforcers": [
            {
                "name": each.enforcer,
                "beyond": {"_".join(_name(right)): size for right, size in each.rights.items()},
                "changed": [
                    {
                        "supervisor": rights.supervisor,
                        "user": rights.user,
                        "granted": {"supervisor": granted.supervisor, "user": granted.user},
                        "size": size,
                    }
                    for (rights, granted), size in each.changed.items()
                ],
            }
            for each in found
        ],
    }


def _mapped(protection: Protection) -> int:
    return int(protection.size[protection.rights != 0].sum())


def _name(right: Rights) -> tuple[str, str]:
    """Return who has a right, and which it is."""
    who, _, what = str(right.name).lower().partition("_")
    return who, what
