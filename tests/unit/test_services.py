"""``nbray.services``: what old programs ask of it."""

from __future__ import annotations

import ipaddress

import pytest

import nbray


def test_the_ip_address_of_this_machine_is_one() -> None:
    ipaddress.IPv4Address(nbray.services.get_node_ip_address())


def test_the_way_to_this_machine_itself_is_the_loopback() -> None:
    assert nbray.services.get_node_ip_address("127.0.0.1:53") == "127.0.0.1"


@pytest.mark.parametrize("address", ["255.255.255.255:53", "127.0.0.1:99999"])
def test_without_a_way_there_it_is_the_loopback(address: str) -> None:
    assert nbray.services.get_node_ip_address(address) == "127.0.0.1"


@pytest.mark.parametrize("address", ["8.8.8.8", ":53", "8.8.8.8:dns", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        nbray.services.get_node_ip_address(address)
