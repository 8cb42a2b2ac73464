"""A program that answers as ACL2 with x86isa does, as far as the judge looks; it knows no rights.

It is run by itself, with a line before it that says what it does wrong, and at which address.
"""

# ruff: noqa: F821  # WRONG and AT are in the line before.

import os
import pathlib
import re
import signal
import sys

ROW = re.compile(r"\((\d+) (-?\d+) (:\w) (\d) (\d)((?: \(\d+ \. \d+\))*)\)")
WORD = re.compile(r"\((\d+) \. (\d+)\)")

memory = {}
root = 0


def words(text):
    return {int(pa): int(value) for pa, value in WORD.findall(text)}


def translate(va, kind):
    table = root
    used = []
    for shift in (39, 30, 21, 12):
        pa = table + (va >> shift & 511) * 8
        entry = memory.get(pa, 0)
        if not entry & 1:
            return f"PAGE-FAULT 0 ((PAGE-FAULT {2 * (kind == ':w')} {va}))"
        used.append(pa)
        table = entry & 0xF_FFFF_FFFF_F000
        if shift < 39 and entry & 0x80:
            break
    for pa in used:
        memory[pa] |= 0x20
    memory[used[-1]] |= 0x40 * (kind == ":w")
    size = (1 << shift) - 1
    return f"NIL {table & ~size | va & size} NIL"


def ask(text):
    for number, address, kind, _cpl, _ac, listed in ROW.findall(text):
        va, held = int(address), words(listed)
        answer = translate(va, kind)
        changed = [f"{pa} {memory.get(pa, 0)} " for pa in held if memory.get(pa, 0) != held[pa]]
        memory.update(held)
        line = f"crosswalk {number} {answer} changed {''.join(changed)}"
        if va == AT:
            if WRONG in ENDS:
                ENDS[WRONG](line)
            line = CHANGES.get(WRONG, str)(line)
        say(line)
        if va == AT and WRONG == "error":
            return


def say(line):
    sys.stdout.write(line + "\n")


def stray(_line):
    memory[root + 8 * 256] ^= 2  # Of the upper half.


def die(line):
    sys.stdout.write(line[:30])
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGABRT)


def die_once(line):
    mark = pathlib.Path(__file__ + ".died")
    if not mark.exists():
        mark.touch()
        die(line)


def flood(_line):
    while True:
        say("x" * 4096)


ENDS = {"strays": stray, "dies": die, "dies once": die_once, "floods": flood}
CHANGES = {
    "address": lambda line: line.replace("NIL ", "NIL 1", 1),
    "garbled": lambda line: line.replace("NIL", "N\0L"),
    "cut": lambda line: line[:20],
    "too large": lambda line: line.replace("NIL ", f"NIL {1 << 52}", 1),
    "another row": lambda line: line.replace("crosswalk ", "crosswalk 77", 1),
    "error": lambda _: "\nACL2 Error in TOP-LEVEL:  The guard for the call of 4096 is violated.\n",
}

for form in sys.stdin:
    if form.startswith("(include-book") and WRONG == "no books":
        say("\nACL2 Error in ( INCLUDE-BOOK ...):  There is no file of that name.\n")
    elif form.startswith('(crosswalk-print (list "crosswalk" "of"') and WRONG != "no books":
        say("crosswalk of ACL2 Version 8.5 ")
    elif form.startswith("(crosswalk-enter"):
        root = int(form.split()[2])
    elif form.startswith("(crosswalk-store '"):
        memory.update(words(form))
    elif form.startswith("(crosswalk-ask '"):
        ask(form)
    elif form.startswith("(crosswalk-check '") and WRONG != "unchecked":
        strays = [f"{pa} {memory[pa]} " for pa, value in words(form).items() if memory[pa] != value]
        say(f"crosswalk strays {''.join(strays)}")
    elif "crosswalk end" in form:
        say("\ncrosswalk end")
        sys.stdout.flush()
