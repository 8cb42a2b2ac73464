"""The control state of a layout, and the targets that are possible under it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crosswalk.emu.fuzz.generate.choice import Selection
from crosswalk.emu.fuzz.generate.shares import Share
from crosswalk.emu.fuzz.target import CoverageTarget
from crosswalk.walker.context import CR0, CR3, CR4, EFER, PagingContext, PagingMode, Vendor

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
_RARE = 0.01
"""The same of portable layouts."""
_FOR_CPUS, _AIMED = 36, 9
"""One layout of so many, one with composites, may have another CPU for the sake of a target."""
_AMD, _SUPERVISOR_KEYS = 0.3, 0.5
_FAR = (41, 42, 46, 47, 48, 49, 50, 51, 52)
"""MAXPHYADDR of layouts with physical addresses of 2^40 and up."""
_LEGACY, _AMD_LEGACY = (36, 39, 40, 40, 40, 40, 40, 40), 0.15
"""MAXPHYADDR of other layouts in 32-bit and PAE paging, and the probability of AMD's rules."""
_WITH_PSE = 0.8
_LEVELS = {PagingMode.LEVEL4: False, PagingMode.LEVEL5: True}


def draw_context(
    chance: np.random.Generator,
    targets: Sequence[CoverageTarget],
    seed: int,
    index: int,
    share: Share,
    select: Selection,
    *,
    portable: bool = False,
) -> tuple[PagingContext, list[CoverageTarget]]:
    """Return a control state (CR3 without a root), and the targets that are possible under it.

    Targets are taken in order; each may decide bits that none before it has. Of the other bits,
    four layouts in a row have both values, with 4 levels and with 5. With `portable` few have
    features that most machines lack, and none an encryption mask, which no machine is told.
    """
    draws = np.random.default_rng([seed, index // 4, 2]).random(len(_BITS)) < _EITHER
    drawn = {
        name: bool(draw) ^ bool(index % 2 if name == "la57" else index // 2 % 2)
        for name, draw in zip(_BITS, draws, strict=True)
    }
    fixed = _fixed(share, select)
    drawn |= fixed
    decided: dict[str, bool] = dict(drawn) if index // 4 % 2 == 0 else fixed
    denied: dict[int, int] = {}
    cpu: dict[str, object] | None = {} if index % _FOR_CPUS == _AIMED else None
    kept = [target for target in targets if _decide(target, decided, denied, cpu)]
    own = np.random.default_rng([seed, index, 3, *share.stream])
    keyed = np.random.default_rng([seed, index, 5, *share.stream])
    registers = {"cr0": 0x8000_0033, "cr3": 0, "cr4": 0x20, "efer": 0x500, "pkrs": 0}
    for name, (register, bit) in _BITS.items():
        if decided.get(name, drawn[name]):
            registers[register] |= bit
    keys = chance.integers(0, 4, 16) * (chance.random(16) < chance.choice([0.0, 0.2, 0.6, 1.0]))
    registers["pkru"] = sum(denied.get(key, int(keys[key])) << 2 * key for key in range(16))
    if share.mode is not None and not share.mode.long:
        _to_legacy(own, registers, share.mode)
    _select(keyed, registers, select)
    features = _features(own, share, select)
    vendor = _only_vendor(registers)
    if vendor is not None and "vendor" not in dict(select.features):
        features["vendor"] = vendor
    values: dict[str, Any] = {**registers, **features}
    context = PagingContext(**values)
    if features:
        return context, []
    if cpu:
        return replace(context, **cpu), kept  # type: ignore[arg-type]  # Fields by name.
    draw = own.random()
    # What is selected might contradict the features of another CPU.
    if draw < (_RARE if portable else NOT_EMULATED) and not select.controls:
        return _not_emulated(own, keyed, context, mask=not portable), []
    if draw < NOT_EMULATED + _OTHER_CPU and not select.controls:
        return _another_cpu(own, context), []
    return context, kept


def _select(chance: np.random.Generator, registers: dict[str, int], select: Selection) -> None:
    """Change registers to what is selected; PKRS has random rights where PKS is."""
    if ("cr4", int(CR4.PKS), True) in select.controls:
        registers["pkrs"] = _key_rights(chance)
    for name, mask, value in select.controls:
        registers[name] = registers[name] | mask if value else registers[name] & ~mask


def _features(chance: np.random.Generator, share: Share, select: Selection) -> dict[str, Any]:
    """Return the features of the CPU that a share and a selection decide, fields of a context."""
    features: dict[str, Any] = {}
    if share.wide:
        features["maxphyaddr"] = int(chance.choice(_FAR))
    elif share.mode is not None and not share.mode.long:
        features["maxphyaddr"] = int(chance.choice(_LEGACY))
        features["vendor"] = Vendor.AMD if chance.random() < _AMD_LEGACY else Vendor.INTEL
    for name, values in select.features:
        features[name] = values[int(chance.integers(len(values)))]
    return features


def _only_vendor(registers: dict[str, int]) -> Vendor | None:
    """Return the vendor whose processors alone have a feature that is enabled, or None."""
    if registers["efer"] & EFER.UAIE:
        return Vendor.AMD
    intel = registers["cr4"] & (CR4.PKS | CR4.LASS | CR4.LAM_SUP)
    intel |= registers["cr3"] & (CR3.LAM_U48 | CR3.LAM_U57)
    return Vendor.INTEL if intel else None


def _fixed(share: Share, select: Selection) -> dict[str, bool]:
    """Return the control bits of `_BITS` that a share and a selection decide."""
    fixed = {
        name: value
        for register, mask, value in select.controls
        for name, place in _BITS.items()
        if place == (register, mask)
    }
    if share.mode in _LEVELS:
        fixed["la57"] = _LEVELS[share.mode]
    return fixed


def _to_legacy(chance: np.random.Generator, registers: dict[str, int], mode: PagingMode) -> None:
    """Change registers to those of 32-bit or PAE paging.

    PKE, PKRU, LA57 and without PAE NXE are without effect there, and stay as they are drawn.
    """
    registers["efer"] &= ~(EFER.LMA | EFER.LME)
    if chance.random() < _WITH_PSE:
        registers["cr4"] |= CR4.PSE
    if mode is PagingMode.BIT32:
        registers["cr4"] &= ~CR4.PAE


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


def _key_rights(chance: np.random.Generator) -> int:
    """Return the rights of sixteen keys, some of them or all denied."""
    some = chance.random(16) < chance.choice([0.2, 0.6, 1.0])
    keys = (chance.integers(0, 4, 16) * some).tolist()
    return sum(denied << 2 * key for key, denied in enumerate(keys))


def _not_emulated(
    chance: np.random.Generator,
    keyed: np.random.Generator,
    context: PagingContext,
    *,
    mask: bool,
) -> PagingContext:
    """Return the context with one or two features that the emulated CPU doesn't have.

    LAM, UAI, LASS, with `mask` an encryption mask, or physical addresses of 2^40 and up. On Intel's
    processors often keys of supervisor pages, besides: `keyed` draws them.
    """
    vendor = Vendor.AMD if chance.random() < _AMD else Vendor.INTEL
    context = replace(context, vendor=vendor)
    own = ("u48", "u57", "sup", "lass") if vendor is Vendor.INTEL else ("uai", "uai")
    names = (*own, "mask", "wide") if mask else (*own, "wide")
    for name in chance.choice(names, int(chance.integers(1, 3)), replace=False).tolist():
        context = _with(chance, context, name)
    if vendor is Vendor.INTEL and keyed.random() < _SUPERVISOR_KEYS:
        return replace(context, cr4=context.cr4 | CR4.PKS, pkrs=_key_rights(keyed))
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
