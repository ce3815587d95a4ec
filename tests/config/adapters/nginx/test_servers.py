"""One server to listeners, rules and routes: golden tables of what is written and what it means here."""

from __future__ import annotations

import pytest
import yaml
from support.adapting import adapted

from egressproxy.config.adapters.nginx import nginx

MAP = "map $ssl_preread_server_name $to"


def native(stream):
    """The lists that a stream makes, faults and notes."""
    found = adapted(nginx.translate, f"stream {{\n{stream}\n}}")
    kept = ("listeners", "rules", "routes", "services")
    data = {key: value for key, value in (found.data or {}).items() if key in kept}
    return data, found.faults, found.notes


GOLDEN = {
    "any name": (
        "server { listen 8443; resolver 10.0.0.1; ssl_preread on; proxy_pass $ssl_preread_server_name:443; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 8443, service_port: 443}]
        rules: [{action: allow, listeners: ["sni:8443"], private_addresses: true}]
        """,
    ),
    "any name, on the port of the listener": (
        "server { listen 443; listen [::1]:443; resolver 10.0.0.1; ssl_preread on;\n"
        " proxy_pass $ssl_preread_server_name:${server_port}; }",
        """
        listeners:
          - {protocol: sni, name: "sni:0.0.0.0:443", address: 0.0.0.0, port: 443, service_port: 443}
          - {protocol: sni, name: "sni:::1:443", address: "::1", port: 443, service_port: 443}
        rules: [{action: allow, listeners: ["sni:0.0.0.0:443", "sni:::1:443"], private_addresses: true}]
        """,
    ),
    "some names, on the port of the listener": (
        f"{MAP} {{ a.example $ssl_preread_server_name:$server_port; b.example 10.0.0.2:$server_port; }}\n"
        "server { listen 444; resolver 10.0.0.1; ssl_preread on; proxy_pass $to; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 444, service_port: 444}]
        rules:
          - {action: allow, listeners: ["sni:444"], hosts: [a.example], private_addresses: true}
          - {action: allow, listeners: ["sni:444"], hosts: [b.example], private_addresses: true}
          - {action: deny, listeners: ["sni:444"]}
        routes:
          - {listeners: ["sni:444"], hosts: [b.example], none: [{hosts: [a.example]}], to: [{service: "10.0.0.2:444"}]}
        services:
          - {name: "10.0.0.2:444", ports: [{number: 444, protocol: TCP}], resolution: static, endpoints: [{address: 10.0.0.2}]}
        """,
    ),
    "a fixed place, on the port of the listener": (
        "server { listen 127.0.0.1:25; proxy_pass 10.0.0.2:$server_port; }",
        """
        listeners: [{protocol: tcp, address: 127.0.0.1, port: 25, target: "10.0.0.2:25"}]
        routes: [{listeners: ["tcp:25"], to: [{service: "10.0.0.2:25"}]}]
        services:
          - {name: "10.0.0.2:25", ports: [{number: 25, protocol: TCP}], resolution: static, endpoints: [{address: 10.0.0.2}]}
        """,
    ),
    "a fixed place, without a look": (
        "server { listen 127.0.0.1:5432; proxy_pass db.example:5433; }",
        """
        listeners: [{protocol: tcp, address: 127.0.0.1, port: 5432, target: "db.example:5433"}]
        routes: [{listeners: ["tcp:5432"], to: [{service: "db.example:5433"}]}]
        services:
          - name: db.example:5433
            ports: [{number: 5433, protocol: TCP}]
            resolution: dns
            endpoints: [{address: db.example}]
            private_addresses: true
        """,
    ),
    "an upstream, with a look at the name": (
        "upstream web { server 10.0.0.1:443 weight=3; server 10.0.0.2:8443; server 10.0.0.3:443 down; }\n"
        "server { listen 8443; ssl_preread on; proxy_pass web; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 8443, target: "10.0.0.1:443"}]
        routes: [{listeners: ["sni:8443"], to: [{service: web}]}]
        services:
          - name: web
            ports: [{number: 443, protocol: TCP}]
            resolution: static
            endpoints: [{address: 10.0.0.1, port: 443, weight: 3}, {address: 10.0.0.2, port: 8443}]
        """,
    ),
    "an upstream whose servers are all down": (
        "upstream web { server 10.0.0.1:443 down; }\nserver { listen 8443; proxy_pass web; }",
        """
        listeners: [{protocol: tcp, address: 0.0.0.0, port: 8443, target: "no-server-name.invalid:443"}]
        rules: [{action: deny, listeners: ["tcp:8443"]}]
        """,
    ),
    "a list of names that may pass": (
        f"{MAP} {{ hostnames; *.example.com $ssl_preread_server_name:443; bad.example.com ''; }}\n"
        "server { listen 8443; resolver 10.0.0.1; ssl_preread on; proxy_pass $to; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 8443, service_port: 443}]
        rules:
          - {action: deny, listeners: ["sni:8443"], hosts: [bad.example.com]}
          - {action: allow, listeners: ["sni:8443"], hosts: ["*.example.com"], private_addresses: true}
          - {action: deny, listeners: ["sni:8443"]}
        """,
    ),
    "what closes a name closes it in any spelling": (
        f"{MAP} {{ ~^Secret '';\n ~^evil ''; ~*^Gone ''; ~^Good $ssl_preread_server_name:443;\n"
        " default $ssl_preread_server_name:443; }\n"
        "server { listen 8443; resolver 10.0.0.1; ssl_preread on; proxy_pass $to; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 8443, service_port: 443}]
        rules:
          - {action: deny, listeners: ["sni:8443"], hosts_matching: ["(?i)^Secret"]}
          - {action: deny, listeners: ["sni:8443"], hosts_matching: ["(?i)^evil"]}
          - {action: deny, listeners: ["sni:8443"], hosts_matching: ["(?i)^Gone"]}
          - {action: allow, listeners: ["sni:8443"], hosts_matching: ["^Good"], private_addresses: true}
          - {action: allow, listeners: ["sni:8443"], private_addresses: true}
        """,
    ),
    "names that lead to servers, and no others": (
        f"{MAP} {{ hostnames; a.example one; b.example 127.0.0.1:2; c.example one; ~^d 127.0.0.1:2; }}\n"
        "upstream one { server 127.0.0.1:1; }\n"
        "server { listen 8443; ssl_preread on; proxy_pass $to; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 8443}]
        routes:
          - {listeners: ["sni:8443"], hosts: [a.example, c.example], to: [{service: one}]}
          - {listeners: ["sni:8443"], hosts: [b.example], to: [{service: "127.0.0.1:2"}]}
          - {listeners: ["sni:8443"], hosts_matching: ["^d"], to: [{service: "127.0.0.1:2"}]}
          - {listeners: ["sni:8443"], refuse: close}
        services:
          - name: one
            ports: [{number: 1, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
          - name: "127.0.0.1:2"
            ports: [{number: 2, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
        """,
    ),
    "a default for all, and for those who name no server": (
        f"{MAP} {{ a.example 127.0.0.1:1; default '[::1]:2'; }}\n"
        "server { listen 8443; ssl_preread on; proxy_pass $to; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 8443, target: "no-server-name.invalid:443"}]
        routes:
          - {listeners: ["sni:8443"], hosts: [no-server-name.invalid], to: [{service: "to::1:2"}]}
          - {listeners: ["sni:8443"], hosts: [a.example], to: [{service: "127.0.0.1:1"}]}
          - {listeners: ["sni:8443"], to: [{service: "to::1:2"}]}
        services:
          - name: "127.0.0.1:1"
            ports: [{number: 1, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
          - name: "to::1:2"
            ports: [{number: 2, protocol: TCP}]
            resolution: static
            endpoints: [{address: "::1"}]
        """,
    ),
    "names that pass among names that lead to a server": (
        f"{MAP} {{ hostnames; a.x.example $ssl_preread_server_name; *.x.example 127.0.0.1; }}\n"
        "server { listen 8443; resolver 10.0.0.1; ssl_preread on; proxy_pass $to:443; }",
        """
        listeners: [{protocol: sni, address: 0.0.0.0, port: 8443, service_port: 443}]
        rules:
          - {action: allow, listeners: ["sni:8443"], hosts: [a.x.example], private_addresses: true}
          - {action: allow, listeners: ["sni:8443"], hosts: ["*.x.example"], private_addresses: true}
          - {action: deny, listeners: ["sni:8443"]}
        routes:
          - listeners: ["sni:8443"]
            hosts: ["*.x.example"]
            none: [{hosts: [a.x.example]}]
            to: [{service: "127.0.0.1:443"}]
        services:
          - name: "127.0.0.1:443"
            ports: [{number: 443, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
        """,
    ),
    "clients, in order": (
        "deny 10.0.0.1;\ndeny 10.0.0.2;\nallow 10.0.0.0/24;\ndeny 10.0.0.0/8;\nallow ::1;\ndeny all;\nallow 192.0.2.1;\n"
        "server { listen 1; proxy_pass 127.0.0.1:2; }",
        """
        listeners: [{protocol: tcp, address: 0.0.0.0, port: 1, target: "127.0.0.1:2"}]
        rules:
          - {action: deny, listeners: ["tcp:1"], clients: [10.0.0.1/32, 10.0.0.2/32]}
          - {action: deny, listeners: ["tcp:1"], clients: [10.0.0.0/8], none: [{clients: [10.0.0.0/24]}]}
          - {action: deny, listeners: ["tcp:1"], none: [{clients: [10.0.0.0/24, "::1/128"]}]}
        routes: [{listeners: ["tcp:1"], to: [{service: "127.0.0.1:2"}]}]
        services:
          - name: "127.0.0.1:2"
            ports: [{number: 2, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
        """,
    ),
    "a server's own clients replace those of the stream": (
        "deny all;\nserver { allow all; deny 10.0.0.1; listen 1; proxy_pass 127.0.0.1:2; }",
        """
        listeners: [{protocol: tcp, address: 0.0.0.0, port: 1, target: "127.0.0.1:2"}]
        routes: [{listeners: ["tcp:1"], to: [{service: "127.0.0.1:2"}]}]
        services:
          - name: "127.0.0.1:2"
            ports: [{number: 2, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
        """,
    ),
    "both families, IPv6 alone, and one port on two addresses": (
        "server { listen 1; listen [::]:1; listen [::]:2; listen 127.0.0.1:3; listen 127.0.0.2:3; proxy_pass 127.0.0.1:2; }",
        """
        listeners:
          - {protocol: tcp, address: "::", port: 1, target: "127.0.0.1:2"}
          - {protocol: tcp, address: "::", port: 2, target: "127.0.0.1:2"}
          - {protocol: tcp, address: 127.0.0.1, port: 3, name: "tcp:127.0.0.1:3", target: "127.0.0.1:2"}
          - {protocol: tcp, address: 127.0.0.2, port: 3, name: "tcp:127.0.0.2:3", target: "127.0.0.1:2"}
        rules: [{action: deny, listeners: ["tcp:2"], clients: [0.0.0.0/0]}]
        routes:
          - {listeners: ["tcp:1", "tcp:2", "tcp:127.0.0.1:3", "tcp:127.0.0.2:3"], to: [{service: "127.0.0.1:2"}]}
        services:
          - name: "127.0.0.1:2"
            ports: [{number: 2, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
        """,
    ),
    "PROXY protocol on both sides": (
        "set_real_ip_from 10.0.0.0/8;\nset_real_ip_from 192.0.2.1;\n"
        "server { listen 1 proxy_protocol; proxy_protocol on; allow 172.16.0.0/12; deny all; proxy_pass 127.0.0.1:2; }",
        """
        listeners:
          - protocol: tcp
            address: 0.0.0.0
            port: 1
            target: "127.0.0.1:2"
            proxy_protocol: {from: [10.0.0.0/8, 192.0.2.1/32]}
        rules:
          - {action: deny, listeners: ["tcp:1"], none: [{clients: [172.16.0.0/12]}]}
          - {action: allow, listeners: ["tcp:1"], private_addresses: true, proxy_protocol: v1}
        routes: [{listeners: ["tcp:1"], to: [{service: "127.0.0.1:2"}]}]
        services:
          - name: "127.0.0.1:2"
            ports: [{number: 2, protocol: TCP}]
            resolution: static
            endpoints: [{address: 127.0.0.1}]
        """,
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_a_stream_means_here(name):
    stream, expected = GOLDEN[name]
    data, faults, _ = native(stream)
    assert faults == []
    assert data == yaml.safe_load(expected)


@pytest.mark.parametrize(
    ("stream", "notes"),
    [
        (
            "server { listen 1; ssl_preread on; resolver 10.0.0.1; proxy_pass $ssl_preread_server_name:1; }",
            [
                "2 proxy_pass: any client may reach any name, on private addresses too; metadata addresses, this proxy's own "
                "ports and an address in place of the name stay closed, where NGINX goes there"
            ],
        ),
        (
            f"{MAP} {{ ~^WWW 127.0.0.1:1;\n ~*^FTP 127.0.0.1:1;\n ~^\\S(?<Name>x) 127.0.0.1:1;\n ~^Bad ''; }}\n"
            "server { listen 1; ssl_preread on; proxy_pass $to; }",
            ["2 '~^WWW': names are compared in small letters here, so that the capitals in it match nothing"],
        ),
        (
            "server { listen 1 proxy_protocol; proxy_pass 127.0.0.1:1; }",
            ["2 listen: anybody may announce clients, and logs have the addresses so announced"],
        ),
        (
            "server { listen 1 proxy_protocol; set_real_ip_from 10.1.1.1/8; proxy_pass 127.0.0.1:1; }",
            [
                "2 set_real_ip_from: the last bits of '10.1.1.1/8' do not count: it is 10.0.0.0/8",
                "2 listen: who connects from outside set_real_ip_from is refused, where NGINX lets it pass",
            ],
        ),
        (
            "server { listen 1; set_real_ip_from 10.0.0.0/8; proxy_pass 127.0.0.1:1; }",
            ["2 set_real_ip_from: has no meaning without proxy_protocol in listen"],
        ),
        (
            "deny 10.1.1.1/8;\nserver { listen 1; proxy_pass 127.0.0.1:1; }\nserver { listen 2; proxy_pass 127.0.0.1:1; }",
            ["2 deny: the last bits of '10.1.1.1/8' do not count: it is 10.0.0.0/8"],
        ),
    ],
)
def test_what_is_worth_a_note(stream, notes):
    _, faults, found = native(stream)
    assert (faults, found) == ([], notes)


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        ("server { listen 1; }", "2 server: expected proxy_pass, which says where they go"),
        (
            "server { proxy_pass 127.0.0.1:1; }",
            "2 server: expected listen, which says where clients come in, like listen 8443;",
        ),
        (
            "server { listen 1; proxy_pass $ssl_preread_server_name:443; }",
            "2 proxy_pass: no server name is known without `ssl_preread on;`",
        ),
        (
            "server { listen 1; ssl_preread on; proxy_pass $ssl_preread_server_name:443; }",
            "2 proxy_pass: NGINX looks up no name here without a resolver; add `resolver ADDRESS;` to the server",
        ),
        (
            f"{MAP} {{ a a.example:1; }}\nserver {{ listen 1; ssl_preread on; proxy_pass $to; }}",
            "2 a: NGINX looks up no name here without a resolver; add `resolver ADDRESS;` to the server",
        ),
        (
            "server { listen 1; ssl_preread on; resolver 10.0.0.1; proxy_pass $ssl_preread_server_name; }",
            "2 proxy_pass: expected $ssl_preread_server_name:PORT, HOST:PORT or the name of an upstream, "
            "got '$ssl_preread_server_name'",
        ),
        (
            "server { listen 1; ssl_preread on; proxy_pass $remote_addr:1; }",
            "2 proxy_pass: the variable '$remote_addr' is not known; expected $ssl_preread_server_name, or that of a map on it",
        ),
        (
            "map $remote_addr $to { default 127.0.0.1:1; }\nserver { listen 1; ssl_preread on; proxy_pass $to; }",
            "3 proxy_pass: the map of '$to' asks '$remote_addr'; only $ssl_preread_server_name is known",
        ),
        (
            "server { listen 2; listen 1; ssl_preread on; resolver 10.0.0.1;"
            " proxy_pass $ssl_preread_server_name:$server_port; }",
            "2 proxy_pass: $server_port is 1 or 2 here; write a server for each port",
        ),
        (
            "server { listen 1; proxy_pass a.example:$server_port; }",
            "2 proxy_pass: NGINX looks up no name here without a resolver; add `resolver ADDRESS;` to the server",
        ),
        (
            "server { listen 1; ssl_preread on; proxy_pass $a:$b; }",
            "2 proxy_pass: expected one variable, got '$a:$b'",
        ),
        (
            f"{MAP} {{ a $ssl_preread_server_name:1; b $ssl_preread_server_name:2; }}\n"
            "server { listen 1; ssl_preread on; resolver 10.0.0.1; proxy_pass $to; }",
            "3 proxy_pass: leads to the servers that clients name on the ports 1 and 2; one listener has one of them",
        ),
        (
            f"{MAP} {{ ~^[^a-z] ''; default 127.0.0.1:1; }}\nserver {{ listen 1; ssl_preread on; proxy_pass $to; }}",
            "2 '~^[^a-z]': which names it leaves out depends on their letter case, which does not count here; write ~*",
        ),
        (
            f"{MAP} {{ ~^[^A-Z] 127.0.0.1:1; }}\nserver {{ listen 1; ssl_preread on; proxy_pass $to; }}",
            "2 '~^[^A-Z]': which names it leaves out depends on their letter case, which does not count here; write ~*",
        ),
        (
            f"{MAP} {{ a unix:/run/a; }}\nserver {{ listen 1; ssl_preread on; proxy_pass $to; }}",
            "2 a: UNIX sockets are not reached from here; expected HOST:PORT",
        ),
        (
            f"{MAP} {{ a $b:1; }}\nserver {{ listen 1; ssl_preread on; proxy_pass $to; }}",
            "2 a: expected $ssl_preread_server_name:PORT, HOST:PORT or the name of an upstream, got '$b:1'",
        ),
        (
            "upstream web { server 127.0.0.1:1; }\nserver { listen 1; proxy_pass web:443; }",
            "3 proxy_pass: the upstream 'web' has the ports of its servers; write its name alone",
        ),
        ("server { listen 1; proxy_pass web; }", "2 proxy_pass: expected HOST:PORT, got 'web'"),
        (
            "server { listen 1; ssl_preread yes; proxy_pass 127.0.0.1:1; }",
            "2 ssl_preread: expected on or off, got 'yes'",
        ),
        (
            "server { listen 1; deny al; proxy_pass 127.0.0.1:1; }",
            "2 deny: expected an address or a network like 10.0.0.0/8, got 'al'",
        ),
        (
            "server { listen 1 proxy_protocol; deny 10.0.0.1; proxy_pass 127.0.0.1:1; }",
            "2 proxy_pass: without set_real_ip_from, allow and deny are about who connects, and here about who is announced; "
            "add set_real_ip_from with the networks of the load balancer",
        ),
    ],
)
def test_what_cannot_be_done(stream, fault):
    _, faults, _ = native(stream)
    assert faults == [fault]
