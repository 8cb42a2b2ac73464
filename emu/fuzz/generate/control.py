"""The control state of a layout, and the targets that are possible under it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from crosswalk.emu.fuzz.target import CoverageTarget
from crosswalk.walker.context import CR0, CR3, CR4, EFER, PagingContext, Vendor

__all__ = ["draw_context"]

_BITS: Mapping[str, tuple[str, int]] = {
    "wp": ("cr0", CR0.WP),
    "nxe": ("efer", EFER.NXE),
    "smep": ("cr4", CR4.SMEP),
    "smap": ("cr4", CR4.SMAP),
    "pke": ("cr4", CR4.PKE),
    "pge": ("cr4", CR4.PGE),
    "la57": ("cr4", CR4.LA57),
}
"""The register of each control bit, and the bit."""

_EITHER = 0.5
_OTHER_CPU = 0.06
"""Probability of another CPU than the emulated one, without targets."""
NOT_EMULATED = 0.04
"""Probability of features that the emulated CPU lacks, or an encryption mask; no targets."""
_FOR_CPUS, _AIMED = 36, 9
"""One layout of so many, one with composites, may have another CPU for the sake of a target."""
_AMD = 0.3


def draw_context(
    chance: np.random.Generator, targets: Sequence[CoverageTarget], seed: int, index: int
) -> tuple[PagingContext, list[CoverageTarget]]:
    """Return a control state (CR3 without a root), and the targets that are possible under it.

    Targets are taken in order; each may decide bits that none before it has. Of the other bits,
    four layouts in a row have both values, with 4 levels and with 5.
    """
    draws = np.random.default_rng([seed, index // 4, 2]).random(len(_BITS)) < _EITHER
    drawn = {
        name: bool(draw) ^ bool(index % 2 if name == "la57" else index // 2 % 2)
        for name, draw in zip(_BITS, draws, strict=True)
    }
    decided: dict[str, bool] = dict(drawn) if index // 4 % 2 == 0 else {}
    denied: dict[int, int] = {}
    cpu: dict[str, object] | None = {} if index % _FOR_CPUS == _AIMED else None
    kept = [target for target in targets if _decide(target, decided, denied, cpu)]
    registers = {"cr0": 0x8000_0033, "cr4": 0x20, "efer": 0x500}
    for name, (register, bit) in _BITS.items():
        if decided.get(name, drawn[name]):
            registers[register] |= bit
    keys = chance.integers(0, 4, 16) * (chance.random(16) < chance.choice([0.0, 0.2, 0.6, 1.0]))
    pkru = sum(denied.get(key, int(keys[key])) << 2 * key for key in range(16))
    context = PagingContext(
        cr3=0, cr0=registers["cr0"], cr4=registers["cr4"], efer=registers["efer"], pkru=pkru
    )
    if cpu:
        return replace(context, **cpu), kept  # type: ignore[arg-type]  # Fields by name.
    own = np.random.default_rng([seed, index, 3])
    draw = own.random()
    if draw < NOT_EMULATED:
        return _not_emulated(own, context), []
    if draw < NOT_EMULATED + _OTHER_CPU:
        return _another_cpu(own, context), []
    return context, kept


def _decide(
    target: CoverageTarget,
    decided: dict[str, bool],
    denied: dict[int, int],
    cpu: dict[str, object] | None,
) -> bool:
    """Decide what a target asks for; return False, with nothing decided, where it conflicts.

    `cpu` are the features decided, None where the layout isn't for another CPU.
    """
    if target.cpu and (
        cpu is None or any(cpu.get(name, value) != value for name, value in target.cpu.items())
    ):
        return False
    wanted = {name: value for name, value in target.control.items() if name != "ac"}
    if any(decided.get(name, value) is not value for name, value in wanted.items()):
        return False
    key = target.key or 0
    if target.pkru is not None:
        if denied.get(key, target.pkru) != target.pkru:
            return False
        denied[key] = target.pkru
    decided.update(wanted)
    if cpu is not None:
        cpu.update(target.cpu)
    return True


def _another_cpu(chance: np.random.Generator, context: PagingContext) -> PagingContext:
    """Return the context with the features of another CPU."""
    return replace(
        context,
        maxphyaddr=int(chance.choice([36, 39, 40, 41, 46, 52])),
        page1gb=bool(chance.random() < 0.6),
        vendor=Vendor.AMD if chance.random() < 0.5 else Vendor.INTEL,
    )


def _not_emulated(chance: np.random.Generator, context: PagingContext) -> PagingContext:
    """Return the context with one or two features that the emulated CPU doesn't have.

    LAM, UAI, LASS, an encryption mask, or physical addresses of 2^40 and up.
    """
    vendor = Vendor.AMD if chance.random() < _AMD else Vendor.INTEL
    context = replace(context, vendor=vendor)
    own = ("u48", "u57", "sup", "lass") if vendor is Vendor.INTEL else ("uai", "uai")
    names = (*own, "mask", "wide")
    for name in chance.choice(names, int(chance.integers(1, 3)), replace=False).tolist():
        context = _with(chance, context, name)
    return context


def _with(chance: np.random.Generator, context: PagingContext, name: str) -> PagingContext:
    """Return the context with one of these features."""
    cr3, cr4, efer = context.cr3, context.cr4, context.efer
    if name == "mask":
        # Above the bits of all addresses in a layout, so that no page moves.
        bits = chance.choice(np.arange(40, 52), int(chance.choice([1, 1, 4])), replace=False)
        return replace(context, encryption_mask=sum(1 << bit for bit in bits.tolist()))
    if name == "wide":
        return replace(context, maxphyaddr=int(chance.choice([42, 46, 48, 52])))
    cr3 |= {"u48": CR3.LAM_U48, "u57": CR3.LAM_U57}.get(name, 0)
    cr4 |= {"sup": CR4.LAM_SUP, "lass": CR4.LASS}.get(name, 0)
    efer |= {"uai": EFER.UAIE}.get(name, 0)
    return replace(context, cr3=cr3, cr4=cr4, efer=efer)
