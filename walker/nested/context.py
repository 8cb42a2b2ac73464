"""The state that a translation under nested paging depends on: the guest's and the host's."""

from dataclasses import dataclass

from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput

__all__ = ["NestedContext"]


@dataclass(frozen=True, slots=True)
class NestedContext:
    """`guest` has the guest's registers; `host` the host's as they were at VMRUN.

    The host's `cr3` is the VMCB's nCR3, and its CR4 and EFER say how nested entries are read:
    EFER.NXE above all. The guest's `cr3` is a guest-physical address, nCR3 a system-physical
    one. The guest's CR0 and CR4 restrict nothing in nested tables, nor do the host's WP, SMEP,
    SMAP and PKE: every access is a user's there.

    Raises `BadInput` where either side isn't in IA-32e mode, and for LAM, LASS, UAI, PKS and
    an encryption mask on either side: none of that is modelled in two dimensions.

    Source: AMD APM vol. 2, "Nested Paging".
    """

    guest: PagingContext
    host: PagingContext

    def __post_init__(self) -> None:
        for side, context in (("guest", self.guest), ("host", self.host)):
            if not context.mode.long:
                raise BadInput(
                    f"nested paging is modelled for 4- and 5-level paging; the {side} has "
                    f"{context.mode} paging"
                )
            for name in (*context.address_features, *(["PKS"] if context.pks else [])):
                raise BadInput(f"nested paging is not modelled with {name}; the {side} has it")
