"""Addresses of stubs: which there are, and what nobody answers at."""

import socket

import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import open_contents
from crosswalk.walker.formats.gdb_remote import Address, parse_address


def test_a_port_that_nobody_holds_and_a_host_that_is_none_are_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(BadInput, match=rf"^gdb::{port}: no connection: connection refused$"):
        open_contents(f"gdb::{port}")
    with pytest.raises(BadInput, match=r"^gdb:\.\.:1: no connection: "):
        open_contents("gdb:..:1")
    with pytest.raises(BadInput, match=r"^gdb:/no/such/socket: no connection: no such file"):
        open_contents("gdb:/no/such/socket")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:1234", Address("localhost", 1234)),
        (":1234", Address("localhost", 1234)),
        ("[::1]:65535", Address("::1", 65535)),
        ("/run/gdb.sock", Address(path="/run/gdb.sock")),
        ("./gdb", Address(path="./gdb")),
    ],
)
def test_addresses_are_hosts_with_ports_and_paths(text, expected):
    assert expected == parse_address(text)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:0", "host:65536", "::1:1", "[::1]", "a:b"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BadInput, match="not the address of a stub"):
        parse_address(text)
