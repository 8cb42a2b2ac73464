"""The page that lies in the suite."""

from collections import Counter
from collections.abc import Iterable

__all__ = ["readme"]

_TEXT = """\
# crosswalk-suite-1

{probes:,} accesses under x86-64 page tables, in {files:,} files, each with all outcomes that the
manuals allow: for projects that have a page-table walker or an MMU, and test it in their own
language. Crosswalk made it; docs/suite.md there describes the format, docs/schemas has schemas.
`suite.json` has the SHA-256 of each file, `images.json` those of the boot images.

{table}

A file of the format crosswalk-suite/1 has

- `case`: registers (`cpu`), RAM as [start, size], the non-zero 8-byte words of the page tables by
  physical address (`entries`), and `probes`: an access each, from this state, with an empty TLB;
- `cpus`: classes of CPUs, on each of which all probes come to the same. A class is a list of boxes;
  a CPU is in a box that lists its vendor, and whether it has 1-GiB pages, and of which the two
  numbers have its MAXPHYADDR between them. A CPU in no class can't be in this state, and one that
  lacks what a bit of a register switches on can't, either: the file isn't for it;
- `allowed`: for each probe, in order, `sets`, and `by_cpu`: for each class the number of its set,
  or -1 where nothing is defined, as the walk leaves RAM.

An outcome is in a set if `outcome` and `pa`, or `error_code` and `cr2`, are the same; if each pair
of `must_change` is a word's address and what it holds afterwards; and if each other word that
changed is one of the pairs in `may_change`. Numbers are strings in hexadecimal: JSON's own have 53
bits.

Files of the format crosswalk-composite/1 (cases/composite, cases/matrix-composite) are accesses of
more than one byte, or two in a row: `predicted` has the outcomes allowed on the CPU that the file
names, of which one has to be the case.

`images` puts the cases to a machine that boots them: multiboot 1, for `qemu -kernel` or GRUB. An
image is named by what its cases need of a CPU. It answers over COM1, in records that
`crosswalk judge cases --with log:FILE` reads, or on the screen where there is no COM1. `results`,
if it is there, has what judges said.
"""


def readme(paths: Iterable[str], probes: int) -> str:
    """Return the page, for a suite of these files."""
    folders = Counter(path.split("/")[1] for path in paths if path.startswith("cases/"))
    rows = [f"| cases/{folder} | {count:,} |" for folder, count in sorted(folders.items())]
    table = "\n".join(["| folder | files |", "|---|---:|", *rows])
    return _TEXT.format(probes=probes, files=folders.total(), table=table)
