"""Guests of which a piece of code is another."""

from dataclasses import replace

import pytest

from crosswalk.emu.load.guest import boot
from crosswalk.guest.builder import build_image
from crosswalk.guest.errors import GuestError

__all__ = ["failure", "patched"]


def patched(image, pa, code):
    """Return the image with some of its bytes replaced."""
    segments = tuple(
        (start, data[: pa - start] + code + data[pa - start + len(code) :])
        if start <= pa < start + len(data)
        else (start, data)
        for start, data in image.segments
    )
    return replace(image, segments=segments)


def failure(pa, code, **options):
    with pytest.raises(GuestError) as caught:
        boot(patched(build_image(4), pa, bytes.fromhex(code)), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
