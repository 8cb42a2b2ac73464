"""The names of the dimensions of the matrix, and their values."""

from crosswalk.walker.access import AccessType
from crosswalk.walker.context import CR0, CR3, CR4, EFER, PagingMode

__all__ = ["ACCESSES", "CONTROLS", "ENTRY_BITS", "FEATURES", "KEY_BITS", "LEVEL_NAMES", "MODES"]

LEVEL_NAMES = {1: "pte", 2: "pde", 3: "pdpte", 4: "pml4e", 5: "pml5e"}

MODES = {mode: mode.slug for mode in PagingMode}

ENTRY_BITS: dict[str, int] = {
    "p": 1 << 0,
    "rw": 1 << 1,
    "us": 1 << 2,
    "pwt": 1 << 3,
    "pcd": 1 << 4,
    "a": 1 << 5,
    "d": 1 << 6,
    "ps": 1 << 7,
    "g": 1 << 8,
    "sw": 0x7F << 52 | 7 << 9,
    "avl": 7 << 9,
    "pat": 1 << 12,
    "pk": 1 << 59,
    "nx": 1 << 63,
    **{f"key{number}": number << 59 for number in range(1, 16)},
    **{f"bit{number}": 1 << number for number in (*range(12, 30), *range(36, 63))},
}
"""Bits of an entry: `ps` is PAT in a PTE; `sw` all bits for software in IA-32e mode, `avl`
those of all modes; `pk` is key 1."""

CONTROLS: dict[str, tuple[str, int]] = {
    "cr0.wp": ("cr0", CR0.WP),
    "efer.nx": ("efer", EFER.NXE),
    "cr4.smep": ("cr4", CR4.SMEP),
    "cr4.smap": ("cr4", CR4.SMAP),
    "cr4.pke": ("cr4", CR4.PKE),
    "cr4.pks": ("cr4", CR4.PKS),
    "cr4.pge": ("cr4", CR4.PGE),
    "cr4.pse": ("cr4", CR4.PSE),
    "cr3.lam_u48": ("cr3", CR3.LAM_U48),
    "cr3.lam_u57": ("cr3", CR3.LAM_U57),
    "cr4.lam_sup": ("cr4", CR4.LAM_SUP),
    "cr4.lass": ("cr4", CR4.LASS),
    "efer.uaie": ("efer", EFER.UAIE),
}
"""Bits of control registers: the field of a context, and the bit."""

KEY_BITS: dict[str, tuple[str, int]] = {
    f"{register}.{name}": (register, bit)
    for register in ("pkru", "pkrs")
    for name, bit in (("ad", 1), ("wd", 2))
}
"""The bits of PKRU and of IA32_PKRS for the key that `pk` stands for: the field of a context, and
which of the key's two bits."""

FEATURES: dict[str, tuple[str, ...]] = {
    "maxphyaddr": ("36", "39", "40", "41", "46", "52"),
    "page1gb": ("0", "1"),
    "vendor": ("intel", "amd"),
    "encryption_mask": ("0x0", "0x800000000000"),
}
"""Features of a processor, by the field of a context: the values in the matrix."""

ACCESSES = {
    "read": AccessType.READ,
    "write": AccessType.WRITE,
    "execute": AccessType.EXECUTE,
}
