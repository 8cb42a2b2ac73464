"""What a boot image is told to do, and what it answers.

The runner, the code in a boot image, decides nothing: which words are written, where its own pages
show in the address space under test, which words are looked at, all of that is computed beforehand
and stated here. It does a `Run` after the other, and in each a `Program` after the other.

    Run        the registers and words of an address space
    └─ Program starts from that state, with an empty TLB
       └─ Step an access, or what else a program does
"""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingMode
from crosswalk.walker.memory import U64

__all__ = [
    "BootLog",
    "CpuFacts",
    "Op",
    "Program",
    "ProgramResult",
    "Run",
    "RunResult",
    "Step",
    "StepResult",
]


class Op(IntEnum):
    """What a step does. `va`, `value` and `more` are those of the step."""

    READ = 1
    """Reads the byte at `va`; then looks at the aligned eight bytes around it."""
    WRITE = 2
    """Writes the low byte of `value` to `va`."""
    EXECUTE = 3
    """Goes to `va` with RFLAGS.TF set. Completed by #BP or #DB of what lies there."""
    XADD = 4
    """LOCK XADD of the low byte of `value` to the byte at `va`."""
    CMPXCHG = 5
    """LOCK CMPXCHG of the byte at `va`, with the low byte of `value` as what is compared."""
    READ8 = 6
    """Reads eight bytes at `va`, aligned or not."""
    WRITE8 = 7
    """Writes `value`, eight bytes, to `va`."""
    LOAD_FS = 8
    """Loads FS with the selector `value`, with the GDT's base at `va` and its limit `more`."""
    STORE = 9
    """The word at the physical address `va` becomes `value`."""
    INVLPG = 10
    INVPCID = 11
    """INVPCID of type `more` (0 to 3), PCID `value` and address `va`."""
    MOV_CR0 = 12
    MOV_CR3 = 13
    MOV_CR4 = 14
    """MOV of `value` to a control register."""
    WRPKRU = 15
    """WRPKRU of `value`."""
    LOOK = 16
    """Looks at the word at the physical address `va`, without the address space under test."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `cpl` and `ac` are those of an access."""

    op: Op
    va: int = 0
    value: int = 0
    more: int = 0
    cpl: int = 0
    ac: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """Steps in a row, from the run's state with an empty TLB.

    `signed` words (physical address, value), 8 bytes each, are written before and put back after.
    `watched` are physical addresses of words that are compared, after against before (with the
    signed ones in place), and put back. What else the program changed is found by the run's words.
    """

    steps: tuple[Step, ...]
    watched: tuple[int, ...] = ()
    signed: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An address space and programs in it.

    First the 4-KiB frames at the physical addresses `clear` uint64[m] are filled with zeros, then
    `words` uint64[n, 2] (physical address, value) are written, and read back. Entries that lead to
    the runner are among these words: it shows its own pages at the linear address `alias`, and a
    page of code for CPL 3 at `user`. In IA-32e mode physical address 0 is at `alias`, in other
    modes the runner's first page. The registers hold while a program runs; `alias_key` is the
    protection key that the alias has for that time. `tag`, of 64 bits, comes back in the log. With
    `maxphyaddr` a CPU that has more bits than these refuses the run, and so does one that lacks a
    feature of `needs`, named as those of `CpuFacts`.
    """

    mode: PagingMode
    cr0: int
    cr3: int
    cr4: int
    efer: int
    pkru: int = 0
    pkrs: int = 0
    alias: int = 0
    user: int = 0
    alias_key: int = 0
    clear: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    words: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    programs: tuple[Program, ...] = ()
    tag: int = 0
    maxphyaddr: int = 0
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a step.

    `vector` is that of the exception it raised, None for none; #BP and #DB are what a completed
    fetch ends with. `at_access` tells whether RIP was that of the access, or of what it fetches;
    `behind`, of #BP, whether it was one byte further. `error_code` and `cr2` are as delivered.
    `seen` is what a read saw on its second look, what `LOOK` saw, or RAX after another access;
    `torn`, of a read, whether the byte that it read first is another one than on the second look.
    """

    vector: int | None
    error_code: int = 0
    cr2: int = 0
    at_access: bool = False
    behind: bool = False
    seen: int = 0
    torn: bool = False


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """The results of the steps done; `changed` are watched words that differed, by address.

    `strays` are words of the run, neither watched nor signed, that differ after the program: they
    are looked for where a completed write changed no watched word.
    """

    steps: tuple[StepResult, ...]
    changed: dict[int, int]
    strays: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """The results of a run's programs, or `refused`, why there are none.

    As in "no RAM at 0x12345000", "CR4 = 0x… refused", "CR3 refused": the last is what PAE paging
    answers to PDPTEs with reserved bits (#GP). `tag` is the run's.
    """

    programs: tuple[ProgramResult, ...] = ()
    refused: str | None = None
    tag: int = 0


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What the CPU that ran the image says of itself by CPUID, and RAM by the firmware's map.

    `vendor` is the string of leaf 0; `features` names, as in Linux' /proc/cpuinfo, those of `la57`,
    `pku`, `pks`, `smep`, `smap`, `nx`, `pdpe1gb`, `pcid`, `invpcid`, `lass`, `lam`, `pge`, `pse36`,
    `umip`, `fsgsbase`, `hypervisor` that are there.
    """

    vendor: str
    family: int
    model: int
    stepping: int
    brand: str
    maxphyaddr: int
    features: frozenset[str]
    ram: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class BootLog:
    """All that an image answered, as far as it came.

    `runs` has a result for each run begun; of the last one the programs may be fewer than asked.
    `complete` tells that the image came to its end. `ended` is how it says it ended otherwise.
    `digest` is that of the image.
    """

    cpu: CpuFacts
    runs: tuple[RunResult, ...]
    complete: bool
    ended: str | None = None
    digest: bytes = b""
