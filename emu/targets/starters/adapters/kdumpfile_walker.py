"""The page-table walk of libkdumpfile, under test: its `addrxlat` with callbacks for memory.

sudo apt-get install -y python3-libkdumpfile
crosswalk fuzz --walker 'exec:/usr/bin/python3 kdumpfile_walker.py'
"""

import addrxlat
from protocol import FRAME, serve

FORMATS = {
    "32bit": (addrxlat.PTE_IA32, (12, 10, 10)),
    "pae": (addrxlat.PTE_IA32_PAE, (12, 9, 9, 2)),
    "4level": (addrxlat.PTE_X86_64, (12, 9, 9, 9, 9)),
    "5level": (addrxlat.PTE_X86_64, (12, 9, 9, 9, 9, 9)),
}


def attach(space):
    """Return a function that translates with the library, which takes CR4.PSE to be set."""
    if space.mode == "32bit" and not space.cr4 >> 4 & 1:
        return None
    frames, zeros = space.frames(), bytes(FRAME)

    def get_page(address):
        address.addr &= -FRAME
        return frames.get(address.addr, zeros), addrxlat.LITTLE_ENDIAN

    context = addrxlat.Context()
    context.cb_get_page = get_page
    context.cb_read_caps = lambda: addrxlat.CAPS(addrxlat.MACHPHYSADDR)
    method = addrxlat.PageTableMethod(addrxlat.MACHPHYSADDR)
    method.root = addrxlat.FullAddress(addrxlat.MACHPHYSADDR, space.root)
    method.pte_format, method.fields = FORMATS[space.mode]
    system, everything = addrxlat.System(), addrxlat.Map()
    system.set_map(addrxlat.SYS_MAP_HW, everything)
    system.set_meth(addrxlat.SYS_METH_PGT, method)
    everything.set(0, addrxlat.Range((1 << 64) - 1, addrxlat.SYS_METH_PGT))

    def translate(va):
        address = addrxlat.FullAddress(addrxlat.KVADDR, va)
        try:
            address.conv(addrxlat.MACHPHYSADDR, context, system)
        except (addrxlat.NotPresentError, addrxlat.InvalidError):
            return None
        return address.addr

    return translate


if __name__ == "__main__":
    serve(["translation"], list(FORMATS), attach)
