"""Which addresses may be called: public ones, and those that ALLOWED_PRIVATE_TARGETS allows."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# In the public ranges but not destinations: protocol assignments with Teredo, 6to4 and its relays, documentation.
_NOT_PUBLIC = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("2001::/23"),
    IPv6Network("2002::/16"),
    IPv6Network("3fff::/20"),
)


class RefusedTarget(OSError):
    """An address that must not be called; the message names it and the setting that allows it."""


def refusal_reason(address: Address, allowed: Sequence[Network]) -> str | None:
    """Why `address` must not be called; None when it is public or in one of the networks `allowed`."""
    target = _embedded_ipv4(address)
    if any(each in network for network in allowed for each in (address, target)):
        return None
    kind = _non_public_kind(target)
    if kind is None:
        return None
    return f"{address} is {kind} and must not be called; the setting ALLOWED_PRIVATE_TARGETS allows exceptions"


def open_socket(family: int, kind: int, protocol: int, address: str, allowed: Sequence[Network]) -> socket.socket:
    """A socket to connect to `address` with; raises RefusedTarget when it must not be called."""
    if (reason := refusal_reason(ip_address(address), allowed)) is not None:
        raise RefusedTarget(reason)
    return socket.socket(family, kind, protocol)


def _embedded_ipv4(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped or NAT64 address; any other address unchanged."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _non_public_kind(address: Address) -> str | None:
    """What kind of non-public address it is; None when it is public."""
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_reserved or any(address in network for network in _NOT_PUBLIC):
        return "a reserved address"
    if address.is_private or not address.is_global:
        return "a private address"
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "a reserved address"
    return None
