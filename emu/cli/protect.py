"""`protect`: what a hypervisor should grant each page of a guest's memory."""

import argparse
from pathlib import Path

from crosswalk.emu.cli.completeness import add_allow_empty, add_partial
from crosswalk.emu.cli.kernel_options import KERNEL_HELP
from crosswalk.emu.cli.output import add_json
from crosswalk.emu.cli.protect_guest import FOR_SOURCE, protect_guest
from crosswalk.emu.cli.protect_kernel import NEED_KERNEL, add_kernel, protect_kernel
from crosswalk.emu.cli.protect_source import add_policy, protect_source
from crosswalk.emu.cli.source_options import add_source
from crosswalk.walker.errors import BadInput

__all__ = ["add_commands"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `protect`."""
    parser = commands.add_parser(
        "protect",
        help="collective rights, as nested paging would enforce them",
        description="With SOURCE: what the policy would make of its memory. With --kernel: a Linux "
        "kernel under nested paging, its collective rights enforced, and attacked. Without: the "
        "built-in guest asks for protection, is given it, proved to have it, attacked, and lives "
        "on.",
    )
    add_source(parser, optional=True)
    parser.add_argument("--kernel", metavar="FILE", type=Path, help=KERNEL_HELP)
    add_kernel(parser)
    add_policy(parser)
    add_allow_empty(parser)
    add_partial(parser)
    parser.add_argument(
        "--verbose", action="store_true", help="without SOURCE: the malformed hypercalls one by one"
    )
    add_json(parser, "one summary document")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.kernel is not None and options.source is not None:
        raise BadInput("SOURCE and --kernel: choose one of them")
    if options.kernel is not None:
        for name in (*FOR_SOURCE, "verbose"):
            if getattr(options, name):
                raise BadInput(f"--{name.replace('_', '-')} isn't for --kernel")
        return protect_kernel(options)
    for name in NEED_KERNEL:
        if getattr(options, name) is not None:
            raise BadInput(f"--{name.replace('_', '-')} needs --kernel")
    if options.source is None:
        return protect_guest(options)
    return protect_source(options)
