"""Control registers as far as they are known: from options first, then from the file."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from crosswalk.walker.context import CR4, EFER, PagingContext, Vendor
from crosswalk.walker.errors import BadInput

__all__ = ["ASSUMED_WIDTH", "NOT_GIVEN", "Registers"]

ASSUMED_WIDTH = 40
"""The MAXPHYADDR, in bits, that is assumed where none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """The registers of a `PagingContext` as far as they are known; None for the others.

    The fields have the names and units of `PagingContext`. `long_mode` says whether the CPU is
    in IA-32e mode, where EFER itself isn't known. `pat` is the MSR IA32_PAT, which no translation
    depends on, but memory types do (`crosswalk.walker.memory_types`).
    """

    cr0: int | None = None
    cr3: int | None = None
    cr4: int | None = None
    efer: int | None = None
    pkru: int | None = None
    pkrs: int | None = None
    rflags_ac: bool | None = None
    maxphyaddr: int | None = None
    page1gb: bool | None = None
    vendor: Vendor | None = None
    encryption_mask: int | None = None
    long_mode: bool | None = None
    pat: int | None = None

    def given(self) -> dict[str, Any]:
        """Return the values that were given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, known: "Registers") -> "Registers":
        """Return these registers, completed with those of `known` where one wasn't given."""
        return Registers(**(known.given() | self.given()))

    def context(self, *, width: int = ASSUMED_WIDTH) -> PagingContext:
        """Return the context; values that weren't given have `PagingContext`'s defaults.

        EFER's default is NXE alone outside IA-32e mode, and 0 without CR4.PAE; MAXPHYADDR's is
        `width`. Raises `BadInput` without CR3, and where `PagingContext` does.
        """
        if self.cr3 is None:
            raise BadInput("CR3 is not known: give --cr3")
        values = self.given()
        values.setdefault("maxphyaddr", width)
        values.pop("pat", None)
        long_mode = values.pop("long_mode", True)
        if self.efer is None:
            if self.cr4 is not None and not self.cr4 & CR4.PAE:
                values["efer"] = 0
            elif not long_mode:
                values["efer"] = int(EFER.NXE)
        return PagingContext(**values)

    def assumed(
        self, context: PagingContext | None = None, *, width: int = ASSUMED_WIDTH
    ) -> tuple[str, ...]:
        """Return the values that the method `context` assumes, as texts like "efer = 0xd00".

        Or those that a context has which was made of these registers and others.
        """
        context = self.context(width=width) if context is None else context
        return tuple(
            f"{field.name} = {_shown(field.name, getattr(context, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) is None
            and field.name not in _UNSAID
            and (field.name != "pkrs" or context.pks)
        )


_UNSAID = {"long_mode", "encryption_mask", "pat"}
"""Never listed as assumed: the first is no register, most systems don't use the second, and no
translation depends on the third."""

NOT_GIVEN = Registers()
"""No register at all."""


def _shown(name: str, value: int | StrEnum) -> str:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if name == "maxphyaddr" else f"{value:#x}"
