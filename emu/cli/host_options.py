"""Options about a host's tables, as data: SOURCE's memory is then the host's."""

import argparse

from crosswalk.emu.cli.options import Group, number, option

__all__ = ["HOST_TABLES", "names_host"]

HOST_TABLES = Group(
    "a host's tables: SOURCE's memory is the host's",
    (
        option(
            "--eptp",
            metavar="VALUE",
            type=number(),
            help="Intel's EPT: the EPTP; or the address of the first table, which is taken for one "
            "of 4 levels in WB memory, without A and D",
        ),
        option(
            "--mbec",
            action="store_true",
            help="mode-based execute control is on: X is the supervisor's, XU the user's",
            needs="eptp",
        ),
        option(
            "--ept-cap",
            metavar="VALUE",
            type=number(),
            help="IA32_VMX_EPT_VPID_CAP, which says what the processor has of EPT (everything)",
            needs="eptp",
        ),
        option("--ncr3", metavar="PA", type=number(), help="AMD's nested page tables: nCR3"),
        option(
            "--host-efer",
            metavar="VALUE",
            type=number(),
            default=0xD00,
            help="the host's EFER (0xd00)",
            needs="ncr3",
        ),
        option(
            "--host-cr4",
            metavar="VALUE",
            type=number(),
            default=0x20,
            help="the host's CR4 (0x20)",
            needs="ncr3",
        ),
        option(
            "--gmet",
            action="store_true",
            help="the guest-mode execute trap is on: U/S says who executes, and nothing else",
            needs="ncr3",
        ),
    ),
)
"""Which tables: `crosswalk.emu.cli.host_tables` takes their values."""


def names_host(options: argparse.Namespace) -> bool:
    """Return whether the options name a host's tables; `BadInput` for two kinds of them."""
    if options.eptp is not None and options.ncr3 is not None:
        # It imports numpy, which help does without.
        from crosswalk.walker.errors import BadInput  # noqa: PLC0415

        raise BadInput("--eptp and --ncr3: choose one of them")
    return options.eptp is not None or options.ncr3 is not None
