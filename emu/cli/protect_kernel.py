"""`protect --kernel`: a Linux kernel under nested paging, its collective rights enforced."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crosswalk.emu.cli.blame import Rerun, blame_at, blame_key
from crosswalk.emu.cli.boot_points import point_named
from crosswalk.emu.cli.check import machine_spaces
from crosswalk.emu.cli.expecting import chosen_sentences, judged_machine
from crosswalk.emu.cli.failing import protect_failures
from crosswalk.emu.cli.host_machine import chosen_kind
from crosswalk.emu.cli.kernel_report import kernel_record, report_kernel
from crosswalk.emu.cli.names import kernel_names
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.protect_kernel_ept import protect_kernel_ept
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.linux.image import KernelImage, load_kernel
from crosswalk.emu.load.points import Point, PointKind
from crosswalk.emu.protect.kernel.moment import DEFAULT_SYMBOL, begins_at
from crosswalk.emu.protect.kernel.report import (
    Check,
    boot_lines,
    checks,
    refusal_record,
)
from crosswalk.emu.protect.kernel.scenario import (
    Guest,
    PlainBoot,
    ProtectedBoot,
    boot_kernel,
    run_plain,
    run_protected,
)
from crosswalk.emu.report.expectations import Result
from crosswalk.emu.workers.contained import contained
from crosswalk.guest.init import init_archive
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.protection.policy import TableKind

__all__ = ["protect_kernel"]

_LOW_MIB = 768
"""What every 32-bit kernel has in its direct map; some have a little more."""
_LIMIT = (
    " and not from the rest: any other frame may come to serve as a table, and the emulator ends "
    "where it walks a table that isn't executable"
)


def protect_kernel(options: argparse.Namespace) -> int:
    """Boot without nested paging and with it, protect, attack; return the exit status."""
    kernel = load_kernel(options.kernel)
    if kernel.bits == 32 and chosen_kind(options) is not TableKind.NPT:
        raise BadInput("a Linux kernel of 32 bits is protected under NPT alone (--tables npt)")
    if kernel.bits == 32 and options.ram > _LOW_MIB:
        raise BadInput(
            f"--ram {options.ram}: a Linux kernel of 32 bits is protected in at most {_LOW_MIB} "
            "MiB: in high memory it keeps page tables that none of its mappings lets be written"
        )
    size, seconds = options.ram << 20, options.timeout
    protect_at = _protect_at(options, kernel)
    sentences = chosen_sentences(options)
    own = options.initrd is None
    initrd = init_archive(patching=True, bits=kernel.bits) if own else read_file(options.initrd)
    guest = Guest(
        kernel=kernel,
        initrd=initrd,
        arguments=options.append or "",
        on_line=remark if options.console else None,
    )
    if chosen_kind(options) is not TableKind.NPT:
        if options.blame:
            raise BadInput("--blame is for nested paging (--tables npt)")
        return protect_kernel_ept(options, guest, protect_at)
    rams = Ram(0, size), Ram(0, size)  # Shared with the children.

    def work() -> tuple[ProtectedBoot, list[Result]]:
        found: list[Result] = []

        def look(memory: PhysicalMemory, context: PagingContext) -> None:
            spaces = machine_spaces(str(protect_at), memory, context)
            names = kernel_names(spaces, None)
            found.extend(judged_machine(options, sentences, spaces, names, search=True))

        looking = look if sentences else None
        return run_protected(rams[1], guest, protect_at, seconds, looking), found

    remark(f"{options.kernel}: {kernel.release or 'a kernel'}, {size >> 20} MiB")
    with protect_failures(options):
        remark("booting without nested paging…")
        plain = contained(lambda: run_plain(rams[0], guest, protect_at, seconds))
        remark("booting under nested paging…")
        protected, expected = contained(work)
        quiet = replace(guest, on_line=None)
        rerun = Rerun(lambda ram: boot_kernel(ram, quiet), (), protect_at, seconds)
        blamed = blame_at(options, kernel, rerun)
    differing = np.flatnonzero(rams[0].words != rams[1].words)
    pairs = [(int(rams[0].words[at]), int(rams[1].words[at])) for at in differing.tolist()]
    found = tuple(checks(plain, protected, pairs))
    return report_kernel(
        options,
        protected,
        found,
        record=lambda: {**_record(plain, protected, found, protect_at), **blame_key(blamed)},
        lines=boot_lines(plain, protected, str(protect_at)),
        limit=_LIMIT,
        expected=expected,
    )


def _protect_at(options: argparse.Namespace, kernel: KernelImage) -> Point:
    """Return where protection begins: by default at the kernel's own moment."""
    if options.protect_at is not None:
        point = point_named(options.protect_at, kernel)
        if point.kind in {PointKind.IDLE, PointKind.EXIT}:
            raise BadInput(
                f"--protect-at {point}: protection has to begin before the kernel is idle"
            )
        return point
    point = begins_at(kernel.symbols)
    if point.kind is PointKind.USER:
        remark(
            f"the image has no symbol {DEFAULT_SYMBOL}: protection begins with the first process"
        )
    return point


def _record(
    plain: PlainBoot, protected: ProtectedBoot, found: Sequence[Check], protect_at: Point
) -> dict[str, Any]:
    nested = protected.plain
    return kernel_record(
        protected,
        found,
        protect_at=str(protect_at),
        seconds=plain.seconds + nested.seconds + protected.policy_seconds,
        refused=None if protected.refusal is None else refusal_record(protected.refusal),
        more={
            "plain_seconds": round(plain.seconds, 3),
            "nested_seconds": round(nested.seconds, 3),
            "policy_seconds": round(protected.policy_seconds, 3),
            "slowdown": round(nested.seconds / plain.seconds, 3),
            "slowdown_early": round(nested.early / plain.early, 3),
        },
    )
