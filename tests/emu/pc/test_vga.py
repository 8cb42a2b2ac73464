from crosswalk.emu.pc.vga import Crtc


def test_registers_are_selected_and_keep_what_is_written():
    crtc = Crtc()
    for index, value in ((0x0E, 0x07), (0x0F, 0xD0), (0x40, 0x55)):
        crtc.write(0, index)
        crtc.write(1, value)
    assert (0x40, 0) == (crtc.read(0), crtc.read(1))
    crtc.write(0, 0x0F)
    assert 0xD0 == crtc.read(1)
