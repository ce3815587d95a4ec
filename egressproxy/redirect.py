"""Write the nftables rules that send a host's connections to a transparent listener without the programs knowing.

Values in, text out: nothing is run here (`runtime.nftables` does). The rules live in a table of their own, `inet
egressproxy`, which each application replaces as a whole, so that twice is the same as once.

Whom they capture: connections that programs on this host make (`own`) and those that are routed through it (`routed`), over
IPv4 and IPv6, by destination and port. Whom they never capture:

- the proxy: by its user, or its own connections would come back to it;
- loopback and this host's own addresses, the proxy's listeners and admin port among them;
- connections that clients made to this host, and those that were open before: only the packet that begins a connection is
  judged, and the others follow it;
- DNS (port 53), and everything that is not TCP.

**redirect** rewrites the destination (NAT). What a program connects to becomes a port of the loopback address, what is routed
a port of this host; SO_ORIGINAL_DST tells where it was going.

**tproxy** rewrites nothing: the connection keeps its addresses and is handed to a socket that has IP_TRANSPARENT. Packets of
programs on this host come by the output hook, where that cannot be done; so they are marked there, and a routing rule sends
what has the mark to the loopback interface, by which they arrive again. The mark belongs to the connection (conntrack), not
to the socket: the last packets of a connection that its program has closed have no user any more.

**What is captured never leaves by another way.** With no listener, redirect and tproxy both answer with a reset; and what the
routing rule should have sent to loopback and did not (somebody removed it) is dropped on its way out, as are packets that
conntrack cannot place: the last ones of a connection whose other half is gone would go to the address itself.

Where somebody else on this host rewrites destinations (a Kubernetes node's service addresses), redirect comes first. Under
tproxy the listener is told the rewritten one, and what is routed there is refused: exclude it.

This is no fence: another port, UDP (QUIC) or a program with the proxy's user goes past it. A fence is a firewall that lets
only the proxy out.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.hostport import PortRange, parse_port_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Mode = Literal["redirect", "tproxy"]
Network = IPv4Network | IPv6Network

TABLE = "inet egressproxy"
MARK = 0x2000
"""The bit that captured connections and their packets carry under tproxy. Others keep their bits: kube-proxy's are 0x4000 and
0x8000, Istio's mark is 0x539, Calico, Cilium, Tailscale and the VPC CNIs use bits below or above."""
ROUTING_TABLE = 8192
ROUTING_PREFERENCE = 8
"""Among the first routing rules (0 is the host's own addresses): a VPN's rule must not take captured packets away."""
DNS_PORT = 53

# Before others rewrite destinations (-100): a connection that one of them took would go past the proxy.
_NAT_PRIORITY = -105
_MANGLE_PRIORITY = -150
_BEGINS = "tcp flags & (fin | syn | rst | ack) == syn"
_CAPTURED = f"ct direction original ct mark and {MARK:#x} == {MARK:#x}"


class Capture(NamedTuple):
    """What to capture.

    port     of the proxy's transparent listener
    mode     its `transparent`
    own      connections that programs on this host make
    routed   connections that are routed through this host
    uid      the proxy's user, whose connections are left alone; None only without `own`
    ports    that are captured; apart and in order, as `parse_ports` makes them
    include  only destinations in these networks; empty: all
    exclude  no destination in these networks, whatever `include` says
    """

    port: int
    mode: Mode = "redirect"
    own: bool = True
    routed: bool = False
    uid: int | None = None
    ports: tuple[PortRange, ...] = (PortRange(443, 443),)
    include: tuple[Network, ...] = ()
    exclude: tuple[Network, ...] = ()

    def __str__(self) -> str:
        """One line for people."""
        whose = " and ".join(["programs on this host"] * self.own + ["what is routed through it"] * self.routed)
        ports = ", ".join(map(str, self.ports))
        return f"TCP to ports {ports} of {whose} goes to port {self.port} ({self.mode})"


# --- reading what people write ------------------------------------------------------------------------------------


def parse_ports(text: str) -> tuple[PortRange, ...]:
    """The ports of `80,443,8000-8100`, sorted and merged; a range that has port 53 goes on behind it. Raises ValueError."""
    ranges = sorted(parse_port_range(word.strip()) for word in text.split(","))
    merged: list[PortRange] = []
    for low, high in ranges:
        if merged and low <= merged[-1].high + 1:
            merged[-1] = PortRange(merged[-1].low, max(high, merged[-1].high))
        else:
            merged.append(PortRange(low, high))
    apart = [
        part
        for low, high in merged
        for part in (PortRange(low, min(high, DNS_PORT - 1)), PortRange(max(low, DNS_PORT + 1), high))
        if part.low <= part.high
    ]
    if not apart:
        raise ValueError(f"expected ports other than {DNS_PORT}: DNS is not captured")
    return tuple(apart)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks of CIDRs and addresses, each text one or several with commas between. Raises ValueError."""
    return tuple(_network(word.strip()) for text in texts for word in text.split(","))


_MAPPED = IPv6Network("::ffff:0:0/96")


def _network(text: str) -> Network:
    try:
        wider = ip_network(text, strict=False)
    except ValueError:
        wider = None
    if wider is None or "%" in text:  # a zone would let any text into the rules behind its sign
        raise ValueError(f"expected a network like 10.0.0.0/8 or fd00::/8, got {text[:80]!a}")
    if wider.version == 6 and wider.subnet_of(_MAPPED):
        raise ValueError(f"{text!a} is a network of IPv4 addresses; write it as such, like 10.0.0.0/8")
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError(f"{text!a} has host bits set; did you mean {wider}?") from None


def faults(capture: Capture) -> list[str]:
    """Why these rules must not be written; empty if they may be."""
    found = []
    if not (capture.own or capture.routed):
        found.append("nothing would be captured: neither programs on this host nor what is routed through it")
    if capture.own and capture.uid is None:
        found.append(
            "expected the proxy's own user (--user), or its connections would come back to it; give it one that no program "
            "to be captured has"
        )
    if capture.mode == "tproxy" and any(low <= capture.port <= high for low, high in capture.ports):
        found.append(
            f"under tproxy a captured connection keeps its port, so that the listener's own, {capture.port}, cannot be "
            "among them: it could not be told from a client that connects to the proxy itself"
        )
    return found


def notes(capture: Capture) -> list[str]:
    """What is right, and perhaps not known."""
    said = [
        "only TCP is captured: QUIC (UDP) goes past the proxy unless a firewall stops it",
        "the listener should have the address ::, which takes IPv4 and IPv6; where it does not listen, what is captured is "
        "refused",
    ]
    if capture.own and capture.uid == 0:
        said.append("the proxy's user is root: whatever runs as root goes past the proxy")
    if capture.routed:
        said.append(
            "the listener must have the address 0.0.0.0 or ::, since what is routed does not arrive on loopback"
        )
    if capture.mode == "tproxy":
        said.append("the proxy needs CAP_NET_ADMIN for its listener")
    return said


# --- the rules ----------------------------------------------------------------------------------------------------


def rules(capture: Capture) -> str:
    """What `nft -f -` takes. Replaces what was there; under tproxy the `routing` commands must be run before."""
    chains = _redirect_chains(capture) if capture.mode == "redirect" else _tproxy_chains(capture)
    return f"{removal()}table {TABLE} {{\n" + "\n".join(chains) + "}\n"


def removal() -> str:
    """What `nft -f -` takes to remove the rules; harmless where there are none."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def printed(capture: Capture) -> str:
    """The rules for people to read, keep and pipe into `nft -f -`: what else is to be known or run is in comments."""
    said = [f"# {capture}."]
    said += [f"# Note: {note}." for note in notes(capture)]
    if capture.mode == "tproxy":
        said.append("# Before these rules, for IPv4 and IPv6:")
        said += [f"#   {' '.join(command)}" for family in ("-4", "-6") for command in routing(family)]
    return "\n".join(said) + "\n" + rules(capture)


def _redirect_chains(capture: Capture) -> list[str]:
    chains = [_chain("capture", *_left_out(capture), f"{_dports(capture)} redirect to :{capture.port}")]
    if capture.own:
        chains.append(
            _chain(
                "output",
                f"type nat hook output priority {_NAT_PRIORITY}; policy accept;",
                'oifname "lo" return',
                f"meta skuid {capture.uid} return",
                f"{_BEGINS} jump capture",
            )
        )
    if capture.routed:
        chains.append(
            _chain(
                "prerouting",
                f"type nat hook prerouting priority {_NAT_PRIORITY}; policy accept;",
                "fib daddr type local return",
                f"{_BEGINS} jump capture",
            )
        )
    return [*chains, *_strays(capture)]


def _tproxy_chains(capture: Capture) -> list[str]:
    chains = [
        _chain("capture", *_left_out(capture), f"{_dports(capture)} ct mark set ct mark or {MARK:#x}"),
        _chain(
            "deliver",
            f"meta l4proto tcp tproxy to :{capture.port} meta mark set meta mark or {MARK:#x} accept",
            "reject with tcp reset",
        ),
    ]
    if capture.own:
        chains.append(
            _chain(
                "output",
                f"type route hook output priority {_MANGLE_PRIORITY}; policy accept;",
                'oifname "lo" return',
                f"ct state new meta skuid != {capture.uid} {_BEGINS} jump capture",
                f"{_CAPTURED} meta mark set meta mark or {MARK:#x}",
            )
        )
    routed = [f"ct state new fib daddr type != local {_BEGINS} jump capture"] if capture.routed else []
    chains.append(
        _chain(
            "prerouting",
            f"type filter hook prerouting priority {_MANGLE_PRIORITY}; policy accept;",
            *routed,
            f"{_CAPTURED} goto deliver",
        )
    )
    return [*chains, *_strays(capture)]


def _strays(capture: Capture) -> list[str]:
    """Stop what would leave though it is captured, or was: see above."""
    lines = ["type filter hook postrouting priority 0; policy accept;", 'oifname "lo" return']
    if capture.mode == "tproxy":
        lines.append(f"{_CAPTURED} drop")
    if capture.own:
        lines.append(f"meta skuid {capture.uid} return")
    if capture.own != capture.routed:  # the others' connections are none of our business
        lines.append(f"fib saddr type {'!=' if capture.own else '=='} local return")
    return [_chain("strays", *lines, "ct state != invalid return", *_left_out(capture), f"{_dports(capture)} drop")]


def _left_out(capture: Capture) -> list[str]:
    """Rules that return for the destinations that are not captured."""
    lines = []
    for version, protocol, family in ((4, "ip", "ipv4"), (6, "ip6", "ipv6")):
        exclude = _of(version, capture.exclude)
        include = _of(version, capture.include)
        if _is_all(exclude) or (capture.include and not include):
            lines.append(f"meta nfproto {family} return")
            continue
        if exclude:
            lines.append(f"{protocol} daddr {_set(exclude)} return")
        if include and not _is_all(include):
            lines.append(f"{protocol} daddr != {_set(include)} return")
    return lines


def _of(version: int, networks: Sequence[Network]) -> list[Network]:
    """The networks of that version, none inside another."""
    return list(collapse_addresses(network for network in networks if network.version == version))  # type: ignore[type-var]  # of one version


def _is_all(networks: list[Network]) -> bool:
    return bool(networks) and networks[0].prefixlen == 0


def _dports(capture: Capture) -> str:
    return f"tcp dport {_set(capture.ports)}"


def _set(members: Iterable[object]) -> str:
    return "{ " + ", ".join(map(str, members)) + " }"


def _chain(name: str, *lines: str) -> str:
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


# --- routing, for tproxy ------------------------------------------------------------------------------------------


def routing(family: str) -> tuple[tuple[str, ...], ...]:
    """The commands that send marked packets to the loopback interface; `family` is `-4` or `-6`."""
    table = str(ROUTING_TABLE)
    return (
        ("ip", family, "route", "replace", "local", "default", "dev", "lo", "table", table),
        ("ip", family, "rule", "add", "pref", str(ROUTING_PREFERENCE), "fwmark", f"{MARK:#x}/{MARK:#x}", "lookup", table),
    )  # fmt: skip


def routing_removal(family: str) -> tuple[tuple[str, ...], ...]:
    """The commands that take it back. Each fails where there is nothing to remove."""
    table = str(ROUTING_TABLE)
    return (
        ("ip", family, "rule", "del", "pref", str(ROUTING_PREFERENCE), "fwmark", f"{MARK:#x}/{MARK:#x}", "lookup", table),
        ("ip", family, "route", "del", "local", "default", "dev", "lo", "table", table),
    )  # fmt: skip
