"""A guest under EPT as a naive processor goes about it, which uses nothing of the walker's.

It walks, notes what it would set, and lists every way to end that the manual leaves to it: see
`Processor.run`.
"""

from tests.walker.naive_nested import EXECUTE, READ, WRITE, Nested, page_of, place

ADDRESS = 0x000F_FFFF_FFFF_F000
UNDEFINED_GUEST = 7 << 9
GOOD_TYPES = (0, 1, 4, 5, 6)


class Exit(Exception):
    """A VM exit on the way: its tuple but for what may be set."""

    def __init__(self, *numbers):
        self.numbers = numbers


def bits_of(eptp, mbec):
    """What says that an entry is present, by its bit numbers."""
    return (0, 1, 2, 10) if mbec else (0, 1, 2)


class Processor(Nested):
    """`ept` has `eptp`, `mbec`, `maxphyaddr` and `capabilities` as plain numbers."""

    def __init__(self, words, ram, guest, ept):
        super().__init__(words, ram, guest, None)
        self.ept = ept
        self.marks_used = ept.eptp >> 6 & 1

    def can(self, bit):
        return self.ept.capabilities >> bit & 1

    def wrong(self, level, entry):
        """Whether a present entry is misconfigured, and whether it is a page."""
        page = level == 1 or (
            entry >> 7 & 1 and ((level == 2 and self.can(16)) or (level == 3 and self.can(17)))
        )
        read, write = entry & 1, entry >> 1 & 1
        if write and not read:
            return True, page
        if not read and not self.can(0):
            return True, page
        if any(entry >> bit & 1 for bit in range(self.ept.maxphyaddr, 52)):
            return True, page
        if not page:
            return bool(entry >> 3 & 31), page
        if any(entry >> bit & 1 for bit in range(12, 12 + 9 * (level - 1))):
            return True, page
        return entry >> 3 & 7 not in GOOD_TYPES, page

    def second(self, gpa, made, undefined):
        """Follow a guest-physical address: (leaf's address, rights, page), or an exit.

        `made` are the bits of a qualification that the access brings, all but the rights.
        """
        levels = (self.ept.eptp >> 3 & 7) + 1
        rights, table = 0b1111, self.ept.eptp & ADDRESS
        if gpa >> 12 + 9 * levels:
            self.violates(gpa, made, undefined | 0x78, 0)
        for level in range(levels, 0, -1):
            where, word = self.word(table + 8 * (gpa >> 12 + 9 * (level - 1) & 511))
            word = word or 0
            if not any(word >> bit & 1 for bit in bits_of(self.ept.eptp, self.ept.mbec)):
                self.violates(gpa, made, undefined, 0)
            wrong, page = self.wrong(level, word)
            if wrong:
                raise Exit("misconfiguration", gpa)
            rights &= word & 7 | (word >> 10 & 1) << 3
            if self.marks_used:
                self.sets[where] = self.sets.get(where, 0) | 0x100
            if page:
                return where, rights, place(level, word, gpa)
            table = word & ADDRESS
        raise AssertionError("a PTE is a page or not present")

    def violates(self, gpa, made, undefined, rights):
        if not self.ept.mbec:
            rights, undefined = rights & 7, undefined | 0x40
        raise Exit("violation", made | 0x80 | rights << 3, undefined | 0x4000, gpa, self.va)

    def dirty(self, where):
        if self.marks_used:
            self.sets[where] |= 0x200

    def guest_word(self, gpa):
        """Read a guest entry, as a write too if the EPT's A and D are in use."""
        made = 3 if self.marks_used else 1
        leaf, rights, pa = self.second(gpa, made, UNDEFINED_GUEST)
        if not rights & 1 or (self.marks_used and not rights & 2):
            self.violates(gpa, made, UNDEFINED_GUEST, rights)
        self.dirty(leaf)
        where, word = self.word(pa)
        self.path.append((where, word, gpa, rights))
        return where, word

    def run(self, va, kind, cpl, ac):
        """Return all (what, numbers, sets) that may come of an access, the likeliest first."""
        width = 57 if self.guest.cr4 >> 12 & 1 else 48
        if va >> width - 1 not in (0, (1 << 65 - width) - 1):
            return [("general protection",)]
        self.va, self.path = va, []
        try:
            how, level, entries = page_of(self.guest_word, self.guest, va)
        except Exit as ended:
            return self.ends([ended.numbers], self.path, 0x20, last=True)
        fetch = kind == EXECUTE and (self.guest.efer >> 11 & 1 or self.guest.cr4 >> 20 & 1)
        code = 2 * (kind == WRITE) + 4 * (cpl == 3) + 16 * bool(fetch)
        if how != "page":
            reserved = 9 if how == "reserved" else 0
            return self.ends([("fault", code | reserved, va)], self.path[:-1], 0x20, last=True)
        words = [word for _, word in entries]
        why = self.guest_refuses(words, kind, cpl, ac)
        if why is not None:
            return self.ends([("fault", code | 1 | why, va)], self.path, 0x20, last=True)
        self.user = all(word >> 2 & 1 for word in words)
        return self.reach(place(level, words[-1], va), words, kind)

    def reach(self, gpa, words, kind):
        """The guest's tables allow it: what comes of the page, and of setting A and D."""
        made, undefined = {READ: 0x101, WRITE: 0x102, EXECUTE: 0x104}[kind], 0
        if self.can(22):
            made |= self.user << 9
            made |= all(word >> 1 & 1 for word in words) << 10
            made |= any(word >> 63 for word in words) << 11
        else:
            undefined = UNDEFINED_GUEST
        leaf_bits = 0x60 if kind == WRITE else 0x20
        try:
            leaf, rights, pa = self.second(gpa, made, undefined)
            right = self.user if self.ept.mbec else False
            needed = {READ: 1, WRITE: 2, EXECUTE: 8 if right else 4}[kind]
            if not rights & needed:
                self.violates(gpa, made, undefined, rights)
        except Exit as ended:
            return self.ends([ended.numbers], self.path, leaf_bits, last=False)
        if kind == WRITE:
            self.dirty(leaf)
        return self.ends([("ok", pa)], self.path, leaf_bits, last=False)

    def ends(self, plain, used, leaf_bits, *, last):
        """Add the exits at guest entries that can't be marked; `plain` is last, or first."""
        refused = []
        for number, (where, word, gpa, rights) in enumerate(used):
            bits = leaf_bits if number == len(used) - 1 else 0x20
            if self.marks_used or rights & 2:
                self.sets[where] = self.sets.get(where, 0) | bits
            elif bits & ~word:
                try:
                    self.violates(gpa, 3, UNDEFINED_GUEST | 1, rights)
                except Exit as ended:
                    refused.append(ended.numbers)
        if refused and plain[0][0] == "ok":
            found = refused
        else:
            found = plain + refused if last else refused + plain
        changed = self.changed()
        return [(*numbers, changed) for numbers in dict.fromkeys(found)]
