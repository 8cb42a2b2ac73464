"""Where physical memory and control registers come from.

- `open_source`: any file that holds memory, or a live guest, as a `Source` with memory and context,
  in two steps `open_contents` and `source_of`; `Registers` for what is known from elsewhere.
- `load_case`, `parse_case`, `dump_case`: case files, as a `Case` of `Probe`s on a `Cpu`.
- `read_core`, `read_raw`: ELF cores and raw images by themselves.
"""

from crosswalk.walker.formats.case import Case, Cpu, Probe, dump_case, load_case, parse_case
from crosswalk.walker.formats.elfcore import ElfCore, read_core
from crosswalk.walker.formats.load import open_contents, open_source, source_of
from crosswalk.walker.formats.raw import read_raw
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.formats.sources import Contents, Source, SourceKind

__all__ = [
    "Case",
    "Contents",
    "Cpu",
    "ElfCore",
    "Probe",
    "Registers",
    "Source",
    "SourceKind",
    "dump_case",
    "load_case",
    "open_contents",
    "open_source",
    "parse_case",
    "read_core",
    "read_raw",
    "source_of",
]
