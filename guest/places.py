"""Physical and virtual addresses of the built-in guest's parts.

Virtual addresses of the kernel keep their distance to physical ones (`KERNEL`), as do those of
the direct map.
"""

from crosswalk.guest.layout import PAGE, span_of
from crosswalk.walker.architecture import GIB, MIB

# Physical addresses.
RAM_SIZE = 32 * MIB
STATUS = 0x2000
STATUS_PAGES = 2
VARIABLES = 0x5000
BOOT = 0x8000
PROTECTED = BOOT + 0x200
LONG = BOOT + 0x800
RECORDS = 0x9000
RECORDS_PAGES = 3
TEXT = 0x10_0000
TRAPS = TEXT + PAGE
AGENT = TEXT + 2 * PAGE
RODATA = 0x10_5000
ON_PURPOSE = RODATA + PAGE
DATA = 0x10_8000
MAILBOX = DATA + 0x800
MAILBOX_SIZE = 0x700
DESCRIPTORS = DATA + PAGE
IST1_TOP = DATA + 3 * PAGE
IST2_TOP = DATA + 4 * PAGE
STACK = 0x10_D000
STACK_PAGES = 2
RSP0_TOP = STACK + PAGE  # Below the pages' other half, which is the kernel's own stack.
LAST_FRAME = 0x10_F000
EXECUTABLE = 0x12_0000  # Frames that are executable somewhere: read-only in the direct map.
WRITABLE = 0x14_0000
USER_DATA_FRAME = WRITABLE + 2 * PAGE
LARGE_TEXT = 2 * MIB
LARGE_DATA = 4 * MIB
LARGE_USER = 6 * MIB
POOL = 8 * MIB
POOL_FRAMES = 256
LARGE_KEYED = 10 * MIB
LARGE_PAT = 12 * MIB
OUTSIDE = GIB  # There is no RAM from here on.

# Virtual addresses.
KERNEL = 0xFFFF_FFFF_8000_0000
LAST_PAGE = 0xFFFF_FFFF_FFFF_F000
DIRECT_MAP = {4: 0xFFFF_8880_0000_0000, 5: 0xFF11_0000_0000_0000}
WINDOW = span_of(4)  # From the direct map to the 1-GiB page that maps RAM once more.
USER = 0x40_0000
USER_RODATA = USER + 3 * PAGE
USER_DATA = USER + 6 * PAGE
KEYED = 0x60_0000
ODD = 0x70_0000
RECURSIVE_SLOT = 0o740

# By level: the first address of the entries there that narrow rights, and of malformed ones.
NARROWED = {
    2: 0x0000_0010_0000_0000,
    3: 0x0000_0020_0000_0000,
    4: 0x0000_1000_0000_0000,
    5: 0x0010_0000_0000_0000,
}
JUNK = {
    1: 0x0000_0000_00C0_0000,
    2: 0x0000_0030_0000_0000,
    3: 0x0000_0038_0000_0000,
    4: 0x0000_2000_0000_0000,
    5: 0x0020_0000_0000_0000,
}


def user_top(levels: int) -> int:
    """Return the end of the lower half, where the user's addresses end."""
    return 1 << (11 + 9 * levels)
