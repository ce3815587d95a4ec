"""ServiceEntry: what is checked, said with the line it stands on."""

from __future__ import annotations

import pytest
from support.istio import meets, thing

PORTS = "ports: [{number: 80, name: http, protocol: HTTP}]"
TCP = "ports: [{number: 1, name: a, protocol: TCP}]"


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("{ports: []}", "spec.hosts: expected at least one host"),
        (
            f"{{hosts: ['*'], {PORTS}}}",
            "spec.hosts[0]: expected a name, got '*'; to let all hosts pass set ALLOW_ANY in the mesh",
        ),
        (
            f"{{hosts: ['a.*.example'], {PORTS}}}",
            "spec.hosts[0]: expected * alone or as the whole first label, like *.example.com, got 'a.*.example'",
        ),
        (
            f"{{hosts: ['*.example'], {PORTS}, resolution: DNS}}",
            "spec.hosts[0]: a wildcard cannot be looked up: resolution DNS needs exact hosts, or endpoints",
        ),
        ("{hosts: [a.example]}", "spec.ports: expected at least one port"),
        (
            "{hosts: [a.example], ports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: b, protocol: HTTP}]}",
            "spec.ports[1].number: port 80 is listed twice",
        ),
        (
            "{hosts: [a.example], ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: a, protocol: HTTP}]}",
            "spec.ports[1].name: two ports are called 'a'",
        ),
        ("{hosts: [a.example], ports: [{number: 80, protocol: HTTP}]}", "spec.ports[0]: name is missing"),
        (
            "{hosts: [a.example], ports: [{number: 80, name: a, protocol: SMTP}]}",
            "spec.ports[0].protocol: expected one of HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, MONGO, REDIS, MYSQL, "
            "got 'SMTP'",
        ),
        (
            "{hosts: [a.example], ports: [{number: 70000, name: a, protocol: HTTP}]}",
            "spec.ports[0].number: expected a port from 1 to 65535, got 70000",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, resolution: dns}}",
            "spec.resolution: expected one of NONE, STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS, got 'dns'",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, resolution: STATIC}}",
            "spec.endpoints: resolution STATIC needs at least one",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, resolution: STATIC, endpoints: [{{address: b.example}}]}}",
            "spec.endpoints[0].address: resolution STATIC needs an IP address, got 'b.example'; or set DNS",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, endpoints: [{{address: 192.0.2.1}}]}}",
            "spec.endpoints: resolution NONE goes to the address that the client dialled; leave them out, or set STATIC",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, resolution: DNS, endpoints: [{{address: 'unix:///x'}}]}}",
            "spec.endpoints[0].address: a Unix socket cannot be looked up: it needs resolution STATIC",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, resolution: STATIC, endpoints: [{{address: 'unix:///x'}}]}}",
            "spec.endpoints[0].address: Unix sockets are not dialled by this proxy; give an address",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, resolution: DNS, endpoints: [{{address: b.example, ports: {{x: 1}}}}]}}",
            "spec.endpoints[0].ports: no port of this ServiceEntry is called 'x'",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, resolution: DNS, addresses: [192.0.2.0/24]}}",
            "spec.addresses: a network needs resolution NONE or STATIC",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, addresses: [b.example]}}",
            "spec.addresses[0]: expected an address or a network like 10.0.0.0/8, got 'b.example'",
        ),
        (
            f"{{hosts: [a.example, b.example], {TCP}, resolution: DNS}}",
            "spec.hosts: several hosts on a TCP port need resolution NONE: nothing would tell them apart",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, workloadSelector: {{labels: {{a: b}}}}}}",
            "spec.workloadSelector: selects pods, which are not known here; write endpoints, with their addresses",
        ),
        (
            f"{{hosts: [a.example], {PORTS}, hots: [b.example]}}",
            "spec.hots: no such field, or one that is not known here; it is refused rather than ignored",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(spec: str, fault: str) -> None:
    found = meets(thing("ServiceEntry e", spec))
    assert found.faults[0] == f"4 ServiceEntry.e.{fault}"


@pytest.mark.parametrize(
    "word", ["HTTP", "http", "Http2", "GRPC", "grpc-web", "HTTPS", "TLS", "TCP", "MONGO", "Redis", "MYSQL"]
)
def test_protocols_are_words_without_case(word: str) -> None:
    found = meets(thing("ServiceEntry e", f"{{hosts: [a.example], ports: [{{number: 1, name: a, protocol: {word}}}]}}"))
    assert found.faults == []


def test_http2_is_served_as_http_1_and_noted() -> None:
    found = meets(thing("ServiceEntry e", "{hosts: [a.example], ports: [{number: 1, name: a, protocol: GRPC}]}"))
    assert "GRPC is served as HTTP/1.1: what needs HTTP/2, as gRPC does, does not pass" in found.notes[0]


def test_a_wildcard_may_be_looked_up_where_it_says_so_or_has_endpoints() -> None:
    for more in ("resolution: DYNAMIC_DNS", "resolution: DNS, endpoints: [{address: b.example}]"):
        found = meets(thing("ServiceEntry e", f"{{hosts: ['*.example'], {PORTS}, {more}}}"))
        assert found.faults == []
        assert found.get("x.example:80/") == "outbound|80||*.example"


def test_host_bits_of_a_network_are_masked_and_noted() -> None:
    found = meets(thing("ServiceEntry e", f"{{hosts: [a.example], {TCP}, addresses: [192.0.2.9/24]}}"))
    assert found.data["services"][0]["addresses"] == ["192.0.2.0/24"]
    assert "192.0.2.9/24 has host bits set; taken as 192.0.2.0/24" in found.notes[0]


def test_several_hosts_are_several_services() -> None:
    found = meets(thing("ServiceEntry e", f"{{hosts: [a.example, b.example], {PORTS}, resolution: DNS}}"))
    assert list(found.services) == ["outbound|80||a.example", "outbound|80||b.example"]
