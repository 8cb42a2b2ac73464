"""What a nested fault was about: facts, found in the guest's registers and tables."""

from unicorn import x86_const as x86

from crosswalk.emu.pc.pc import Machine
from crosswalk.emu.protect.kernel.guestwalk import find_leaf, lower_leaves
from crosswalk.emu.protect.kernel.rights import RightsFollower
from crosswalk.emu.protect.kernel.rules import Fault, Grants
from crosswalk.emu.protect.kernel.store import LONGEST_INSTRUCTION, store_addresses
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.memory import FRAME

__all__ = ["find_facts", "present_root", "read_code"]

_WRITE, _FETCH = 2, 16  # in a nested fault's error code
_WP = 1 << 16
_ROOT = (1 << 52) - FRAME
_LOW = 1 << 47
_WINDOW_PAGES, _LONGEST = 2, LONGEST_INSTRUCTION - 1


def present_root(machine: Machine) -> int:
    """Return the physical address of the guest's present root table."""
    return int(machine.engine.reg_read(x86.UC_X86_REG_CR3)) & _ROOT


def find_facts(
    machine: Machine, grants: Grants, rights: RightsFollower, frame: int, error_code: int
) -> Fault:
    """Return the facts of a nested fault at a frame, the guest being where it faulted.

    `rights` are those of the tables as they are now.
    """
    cpu, words, root = machine.cpu, machine.ram.words, present_root(machine)
    write, fetch = bool(error_code & _WRITE), bool(error_code & _FETCH)
    sealed = bool(grants.sealed[frame])
    loaded = bool(rights.own.executable[frame] and not rights.own.writable[frame])
    # A fetch may fault at an instruction's first byte, or at one on the page behind.
    pages = [find_leaf(words, root, cpu.rip + more) for more in (0, _LONGEST)]
    own = [leaf for leaf in pages if leaf is not None and leaf.pa // FRAME == frame]
    code = None if fetch else pages[0]
    place = None if code is None else (code.pa + cpu.rip % code.size) // FRAME
    return Fault(
        write=write,
        fetch=fetch,
        cpl=cpu.cpl,
        write_protect=bool(cpu.engine.reg_read(x86.UC_X86_REG_CR0) & _WP),
        interrupts=bool(cpu.rflags & RFlags.IF),
        in_text=place is not None and place < rights.count and bool(grants.text[place]),
        window=write and (sealed or loaded) and _in_window(machine, root, frame),
        writable=bool(rights.followed[frame]) and not sealed,
        loaded=loaded and not sealed,
        user_code=fetch and any(leaf.user and leaf.executable for leaf in own),
    )


def read_code(machine: Machine, size: int) -> bytes:
    """Return the bytes at RIP, as many of so many as are mapped."""
    cpu, ram, root, code = machine.cpu, machine.ram, present_root(machine), b""
    while len(code) < size:
        va = cpu.rip + len(code)
        leaf = find_leaf(ram.words, root, va)
        part = min(size - len(code), FRAME - va % FRAME)
        pa = 0 if leaf is None else leaf.pa + va % leaf.size
        if leaf is None or pa + part > ram.size:
            break
        code += ram.read(pa, part)
    return code


def _in_window(machine: Machine, root: int, frame: int) -> bool:
    """Return whether the store goes through a mapping that is there for it alone."""
    stored = store_addresses(machine.cpu, read_code(machine, LONGEST_INSTRUCTION))
    if stored is None or stored[1] >= _LOW:
        return False
    words, pages = machine.ram.words, []
    for va in lower_leaves(words, root):
        pages.append(va)
        if len(pages) > _WINDOW_PAGES:
            return False
    for va in {each & -FRAME for each in stored}:
        leaf = find_leaf(words, root, va)
        if leaf is None or leaf.user or va not in pages:
            return False
        if leaf.pa // FRAME == frame:
            return True
    return False
