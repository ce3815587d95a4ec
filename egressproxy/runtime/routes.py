"""Where a connection to an address would end: the kernel's own answer, by rtnetlink(7). Linux only; nothing is sent.

Other ways to find out have holes. Binding a socket to the address tells nothing under `ip_nonlocal_bind`, which is set where
a virtual address wanders between hosts; the address that a connected socket gets is another one when the target is a
secondary address of this host; and a list of addresses misses local routes.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

# linux/netlink.h and linux/rtnetlink.h
_NLMSG_ERROR, _RTM_NEWROUTE, _RTM_GETROUTE = 2, 24, 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST = 2, 3, 4
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, bits of the target, four that are left empty, scope, type, flags
_TYPE = 7  # of the route, in struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_ERROR = struct.Struct("=i")  # struct nlmsgerr begins with it

_OURS = frozenset({_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST})
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})
"""What routes of the kinds `unreachable`, `prohibit` and `blackhole` say; a connection fails in the same way."""

_ANSWER_S = 1.0
_ANSWER_BYTES = 4096


def ends_on_this_host(address: str) -> bool | None:
    """Whether this host would take a connection to the address itself. None where the kernel does not say.

    Raises ValueError if it is no address.
    """
    target = ipaddress.ip_address(address)
    family = socket.AF_INET6 if target.version == 6 else socket.AF_INET
    route = _ROUTE.pack(family, target.max_prefixlen, *bytes(6), 0) + _ATTRIBUTE.pack(
        _ATTRIBUTE.size + len(target.packed), _RTA_DST
    )
    route += target.packed
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(_ANSWER_S)
            kernel.sendto(_HEADER.pack(_HEADER.size + len(route), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + route, (0, 0))
            answer = kernel.recv(_ANSWER_BYTES)
        _, kind, *_ = _HEADER.unpack_from(answer)
        if kind == _RTM_NEWROUTE:
            return _ROUTE.unpack_from(answer, _HEADER.size)[_TYPE] in _OURS
        if kind == _NLMSG_ERROR and -_ERROR.unpack_from(answer, _HEADER.size)[0] in _NO_ROUTE:
            return False
    except (OSError, AttributeError, struct.error):  # not allowed, no descriptor left, or not Linux
        pass
    return None
