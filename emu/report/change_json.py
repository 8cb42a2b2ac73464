"""What a line of `compare --json` is: crosswalk-changes/1."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from crosswalk.walker.formats.documents import Document, Hex64

__all__ = ["CHANGES", "ChangeJson", "RightsChangeJson", "RootChangeJson"]

Size = Annotated[int, Meta(gt=0)]
Kind = Literal["added", "removed", "changed"]
Text = Annotated[str, Meta(pattern="^[r-][w-][x-]$")]


class RightsJson(Document, frozen=True):
    """Rights of either privilege, as `rwx`, a dash for each that is missing."""

    supervisor: Text
    user: Text


class PlaceJson(Document, frozen=True, kw_only=True):
    """What the first byte of a range is mapped to; no `pa` where frames don't count."""

    pa: Hex64 | UnsetType = UNSET
    flags: Hex64
    page_size: Size | UnsetType = UNSET
    rights: RightsJson


class ChangeJson(Document, frozen=True, kw_only=True):
    """A range of linear addresses, and what it was mapped to and is.

    `before` or `after` is null where nothing is mapped. With `stride` it is so many `pieces` of the
    range, one every so many bytes, each mapped to the same frames. With --roots the root of the
    address space is named, and with --symbols the region, the first symbol and the last one.
    """

    root: Hex64 | UnsetType = UNSET
    mode: str | UnsetType = UNSET
    change: Kind
    va: Hex64
    size: Size
    pieces: Size | UnsetType = UNSET
    stride: Size | UnsetType = UNSET
    before: PlaceJson | None
    after: PlaceJson | None
    differs: list[Literal["frame", "rights", "flags", "size"]]
    region: str | UnsetType | None = UNSET
    symbol: str | UnsetType | None = UNSET
    last_symbol: str | UnsetType | None = UNSET


class GrantJson(Document, frozen=True):
    """The collective rights of a physical range."""

    rights: RightsJson


class RightsChangeJson(Document, frozen=True, kw_only=True):
    """A physical range, and its collective rights; with --frames."""

    change: Kind
    pa: Hex64
    size: Size
    before: GrantJson | None
    after: GrantJson | None
    differs: list[Literal["rights"]]


class RootChangeJson(Document, frozen=True, kw_only=True):
    """A root that one side alone has; with --roots."""

    change: Literal["added", "removed"]
    root: Hex64
    mode: str | UnsetType = UNSET
    mappings: Annotated[int, Meta(ge=0)]


CHANGES = (ChangeJson, RightsChangeJson, RootChangeJson)
"""The types of lines."""
