"""Nested paging as two walks put together, neither knowing of the other.

A walk here is one function from an address and a way to read words to what it found; the
guest's gets a way to read that is the nested walk. It uses nothing of the walker's.
"""

ADDRESS = 0x000F_FFFF_FFFF_F000
READ, WRITE, EXECUTE = range(3)
TABLE, FINAL = 1 << 33, 1 << 32


class NestedFault(Exception):
    def __init__(self, code, gpa):
        self.code, self.gpa = code, gpa


def page_of(read, context, address):
    """Follow `address` down: ("page", level, entries), or what ended it, "absent" or "reserved".

    `read` answers (where, word) for an entry's address; entries are (where, word) pairs.
    """
    bits = {level: address >> 12 + 9 * (level - 1) & 511 for level in range(1, 6)}
    table, entries = context.cr3 & ADDRESS, []
    for level in (5, 4, 3, 2, 1) if context.cr4 >> 12 & 1 else (4, 3, 2, 1):
        where, word = read(table + 8 * bits[level])
        entries.append((where, word))
        if word is None or word % 2 == 0:
            return "absent", level, entries
        page = level == 1 or (word >> 7 & 1 and (level == 2 or (level == 3 and context.page1gb)))
        wide = [bit for bit in range(context.maxphyaddr, 52) if word >> bit & 1]
        low = [bit for bit in range(13, 12 + 9 * (level - 1)) if page and word >> bit & 1]
        ps = level > 2 and not page and word >> 7 & 1
        global_ = level > 3 and context.vendor == "amd" and word >> 8 & 1
        if wide or low or ps or global_ or (word >> 63 and not context.efer >> 11 & 1):
            return "reserved", level, entries
        if page:
            return "page", level, entries
        table = word & ADDRESS
    raise AssertionError("a PTE is a page")


def place(level, word, address):
    size = 1 << 12 + 9 * (level - 1)
    return (word & ADDRESS) // size * size + address % size


class Nested:
    """One translation: where it comes to, and which bits it sets or may set."""

    def __init__(self, words, ram, guest, host):
        self.words, self.ram, self.guest, self.host = words, ram, guest, host
        self.sets = {}  # where: bits

    def word(self, pa):
        inside = any(start <= pa < start + size for start, size in self.ram)
        return (pa, self.words.get(pa, 0) if inside else None)

    def through(self, gpa, kind, stage):
        """Return the system-physical address, or raise NestedFault."""
        code = 4 | stage | (2 if kind == WRITE else 0)
        code |= 16 if kind == EXECUTE and self.host.efer >> 11 & 1 else 0
        if gpa >> (57 if self.host.cr4 >> 12 & 1 else 48):
            raise NestedFault(code, gpa)
        how, level, entries = page_of(self.word, self.host, gpa)
        for where, _ in entries if how == "page" else entries[:-1]:
            self.sets[where] = self.sets.get(where, 0) | 32
        if how != "page":
            raise NestedFault(code | (9 if how == "reserved" else 0), gpa)
        user = all(word & 4 for _, word in entries)
        writable = all(word & 2 for _, word in entries)
        fetchable = not any(word >> 63 for _, word in entries)
        if not user or (kind == WRITE and not writable) or (kind == EXECUTE and not fetchable):
            raise NestedFault(code | 1, gpa)
        last, word = entries[-1]
        self.sets[last] = self.sets.get(last, 0) | (96 if kind == WRITE else 32)
        return place(level, word, gpa)

    def guest_word(self, gpa):
        return self.word(self.through(gpa, WRITE, TABLE))

    def run(self, va, kind, cpl, ac):
        """Return (what, numbers, sets) of an access."""
        width = 57 if self.guest.cr4 >> 12 & 1 else 48
        if va >> width - 1 not in (0, (1 << 65 - width) - 1):
            return ("general protection",)
        self.passed = []

        def read(gpa):
            where, word = self.guest_word(gpa)
            self.passed.append(where)
            return where, word

        try:
            how, level, entries = page_of(read, self.guest, va)
        except NestedFault as fault:
            self.mark_guest(self.passed, 0)
            return ("nested", fault.code, fault.gpa, self.changed())
        smep = self.guest.cr4 >> 20 & 1 and self.guest.vendor == "intel"
        fetch = kind == EXECUTE and (self.guest.efer >> 11 & 1 or smep)
        code = 2 * (kind == WRITE) + 4 * (cpl == 3) + 16 * bool(fetch)
        if how != "page":
            self.mark_guest(self.passed[:-1], 0)
            return ("fault", code | (9 if how == "reserved" else 0), va, self.changed())
        why = self.guest_refuses([word for _, word in entries], kind, cpl, ac)
        if why is not None:
            self.mark_guest(self.passed, 0)
            return ("fault", code | 1 | why, va, self.changed())
        self.mark_guest(self.passed, 64 * (kind == WRITE))
        try:
            pa = self.through(place(level, entries[-1][1], va), kind, FINAL)
        except NestedFault as fault:
            return ("nested", fault.code, fault.gpa, self.changed())
        return ("ok", pa, self.changed())

    def guest_refuses(self, words, kind, cpl, ac):
        cr0, cr4, pkru = self.guest.cr0, self.guest.cr4, self.guest.pkru
        user = all(word & 4 for word in words)
        writable = all(word & 2 for word in words)
        fetchable = not any(word >> 63 for word in words)
        if kind == EXECUTE:
            good = fetchable and (user if cpl == 3 else not (user and cr4 >> 20 & 1))
            return None if good else 0
        if user and cr4 >> 22 & 1:
            off = pkru >> 2 * (words[-1] >> 59 & 15)
            if off & 1 or (kind == WRITE and off & 2 and (cpl == 3 or cr0 >> 16 & 1)):
                return 32
        if cpl == 3:
            good = user and (kind == READ or writable)
        else:
            good = kind == READ or writable or not cr0 >> 16 & 1
            good &= not (user and cr4 >> 21 & 1 and not ac)
        return None if good else 0

    def mark_guest(self, passed, on_leaf):
        for where in passed:
            self.sets[where] = self.sets.get(where, 0) | 32
        if passed:
            self.sets[passed[-1]] |= on_leaf

    def changed(self):
        after = {pa: self.words.get(pa, 0) | bits for pa, bits in self.sets.items()}
        return tuple(sorted((pa, v) for pa, v in after.items() if v != self.words.get(pa, 0)))
