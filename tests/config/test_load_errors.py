"""Bad input, and exactly what is said about it: a table of files and the lines that `check` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egressproxy.config.load import load
from egressproxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

L = "listeners: [{protocol: http-proxy, port: 3128}]\n"
# A service; what follows begins on line 5, and c.yaml is the file itself.
S = L + "services:\n- hosts: [a.example]\n  ports: [{number: 80, protocol: HTTP}]\n"
EXAMPLE = "listeners: [{protocol: http-proxy, address: 127.0.0.1, port: 3128}]"

# content; what is said of it, with the file's name left out
TABLE = [
    # --- not a configuration at all
    ("", [":1: expected settings like listeners and allow, got an empty file"]),
    ("# only a comment\n", [":1: expected settings like listeners and allow, got an empty file"]),
    ("---\n", [":1: expected settings like listeners and allow, got an empty file"]),
    ("- a\n- b\n", [":1: expected settings like listeners and allow, got a list of 2"]),
    ("allow everything\n", [":1: expected settings like listeners and allow, got 'allow everything'"]),
    ("{}\n", [f": listeners: is missing; expected a list of at least 1; for example {EXAMPLE}"]),
    ("allow: [a.example]\n", [f": listeners: is missing; expected a list of at least 1; for example {EXAMPLE}"]),
    (b"a: 1\nb: \xff\n", [":2: expected text in UTF-8, got the byte 0xff"]),
    (L.encode("utf-16"), [":1: expected text in UTF-8, got the byte 0xff"]),
    (b"a: 1\nb: \0\n", [":2: expected text, got a NUL byte"]),
    (b"a: 1\nb: \x07\n", [":2: expected text, got the control character U+0007"]),
    # --- YAML
    (
        L + "a: 1\n---\nallow: []\n",
        [
            ":2: a: no such setting; expected one of listeners, allow, rules, outbound, routes, services, parents, "
            "on_policy_change, report, sni_check, ech, "
            "guard, dns, timeouts, limits, access_log, http, secrets, capture, admin",
            ":3: expected one document, got a second one behind ---; give it its own file",
        ],
    ),
    (L + "outbound: registry_only\n" + L, [":3: listeners: is written twice; the first is on line 1"]),
    (
        L + "rules:\n- action: deny\n  action: allow\n",
        [":4: rules[0].action: is written twice; the first is on line 3"],
    ),
    (
        L + "allow: [*.example.com]\n",
        [':2: allow[0]: a value that begins with * needs quotes, like "*.example.com"'],
    ),
    (L + "allow:\n- *\n", [':3: allow[0]: a value that begins with * needs quotes, like "*.example.com"']),
    (L + "allow:\n- *all\n", [":3: allow[0]: '*all' without quotes is an alias, and no anchor has its name; quote it"]),
    (L + "admin: {address: ::}\n", [':2: admin.address: a value that begins or ends with :: needs quotes, like "::"']),
    (
        L + "allow: [example.com:443, ::1]\n",
        [':2: allow[1]: a value that begins or ends with :: needs quotes, like "::"'],
    ),
    (
        L + "allow: [example.com: 443]\n",
        [
            ":2: allow[0]: expected HOST:PORT like api.example.com:443, got a mapping; "
            "a colon with a space behind it makes a mapping: quote it as 'example.com:443'"
        ],
    ),
    (L + "allow: [a.example, b.example\n", [":2: allow[2]: [ is opened here and never closed"]),
    (L + "dns: {ipv6: true\n", [":2: dns: { is opened here and never closed"]),
    (L + 'allow:\n- "a.example\n- b.example\n', [":3: allow[0]: a quote is opened here and never closed"]),
    (L + "rules:\n\t- action: deny\n", [":3: rules: a tab cannot indent; use spaces"]),
    (L + "allow: [@corp]\n", [":2: allow[0]: a value that begins with '@' needs quotes"]),
    (
        L + "outbound: a: b\n",
        [":2: a second colon; quote a value that has a colon in it"],
    ),
    (L + "? [a]\n: b\n", [":2: expected a key, got a list"]),
    (
        L + "guard: &g {allow: []}\ndns: {<<: *g}\n",
        [
            ":3: dns: expected a key, got << to merge another mapping; write its keys out",
            ":3: dns.'<<': no such setting; expected one of servers, ipv6, search, timeout_s, tries, min_ttl_s, max_ttl_s, "
            "negative_ttl_s, stale_s, cache_entries",
        ],
    ),
    (
        L + "allow: !!python/object/apply:os.system [id]\n",
        [
            ":2: allow: expected a plain value, got the tag 'tag:yaml.org,2002:python/object/apply...'; "
            "leave the tag out",
        ],
    ),
    (
        L + "outbound: !secret allow_any\n",
        [":2: outbound: expected a plain value, got the tag '!secret'; leave the tag out"],
    ),
    (
        L + "allow: " + "[" * 40 + "]" * 40 + "\n",
        [":2: allow" + "[0]" * 31 + ": expected at most 32 lists and mappings inside each other"],
    ),
    # --- what YAML 1.1 and 1.2 read differently
    (
        L + "report: yes\n",
        [
            ":2: report: 'yes' without quotes is true to some readers of YAML and text to others; write true, or quote it"
        ],
    ),
    (
        L + "report: Off\n",
        [
            ":2: report: 'Off' without quotes is false to some readers of YAML and text to others; write false, or quote it"
        ],
    ),
    (
        L + "allow: [no]\n",
        [
            ":2: allow[0]: 'no' without quotes is false to some readers of YAML and text to others; write false, or quote it"
        ],
    ),
    (
        L + "allow: [22:22]\n",
        [":2: allow[0]: '22:22' without quotes is a number to the base 60 to some readers of YAML; quote it"],
    ),
    (
        L + "limits: {max_headers: 0100}\n",
        [
            ":2: limits.max_headers: '0100' without quotes is an octal, hexadecimal or binary number to some readers of "
            "YAML; write it in decimal, or quote it"
        ],
    ),
    (
        L + "limits: {max_headers: 1_00}\n",
        [
            ":2: limits.max_headers: '1_00' without quotes is a number to some readers of YAML; leave the _ out, or quote it"
        ],
    ),
    # --- values
    (L + "allow: [443]\n", [":2: allow[0]: expected HOST:PORT like api.example.com:443, got 443"]),
    (L + "hosts: [a.example]\n", [":2: hosts: no such setting here; it belongs in a rule, below rules"]),
    (
        L + "services: [{hosts: [a.example], ports: [{number: 1}], clients: [10.0.0.0/8]}]\n",
        [":2: services[0].clients: no such setting here; it belongs in a rule, below rules"],
    ),
    (
        "listeners: [{protocol: http-proxy, port: x}]\n",
        [":1: listeners[0].port: expected an integer from 1 to 65535, got 'x'"],
    ),
    (
        "listeners:\n- protocol: http-proxy\n  port: 65536\n",
        [":3: listeners[0].port: expected an integer from 1 to 65535, got 65536"],
    ),
    (
        "listeners:\n- {protocol: http-proxy, port: '3128'}\n",
        [":2: listeners[0].port: expected an integer from 1 to 65535, got '3128'; write it without quotes"],
    ),
    (
        "listeners:\n- {protocol: http-proxy}\n",
        [":2: listeners[0].port: is missing; expected an integer from 1 to 65535"],
    ),
    ("listeners: []\n", [f":1: listeners: expected a list of at least 1, got a list of 0; for example {EXAMPLE}"]),
    (
        "listeners: {port: 1}\n",
        [":1: listeners: expected a list of at least 1, got a mapping; put - before it, or [ ] around it"],
    ),
    ("listeners: [3128]\n", [":1: listeners[0]: expected a mapping, got 3128"]),
    (L + "report: 'true'\n", [":2: report: expected true or false, got 'true'; write it without quotes"]),
    (L + "report: 1\n", [":2: report: expected true or false, got 1"]),
    (L + "timeouts: {idle_s: 0}\n", [":2: timeouts.idle_s: expected a number above 0 and up to 2592000, got 0"]),
    (L + "timeouts: {drain_s: -1.5}\n", [":2: timeouts.drain_s: expected a number from 0 to 86400, got -1.5"]),
    (
        L + "timeouts: {idle_s: .inf}\n",
        [":2: timeouts.idle_s: expected a number above 0 and up to 2592000, got '.inf'"],
    ),
    (
        L + "outbound: allow-any\n",
        [":2: outbound: expected registry_only or allow_any, got 'allow-any'; did you mean allow_any?"],
    ),
    (L + "access_log: [{path: 7}]\n", [":2: access_log[0].path: expected text, got 7; quote it to make it text"]),
    (
        L + "dns: {servers: [10.1]}\n",
        [":2: dns.servers[0]: expected a name server like 10.96.0.10:53, got 10.1"],
    ),
    (
        L + "admin: {address: localhost}\n",
        [":2: admin.address: expected an IP address like 127.0.0.1, got 'localhost'"],
    ),
    (
        L + "guard: {allow: [10.0.0.1/8]}\n",
        [":2: guard.allow[0]: '10.0.0.1/8' has host bits set; did you mean 10.0.0.0/8?"],
    ),
    (L + "allow: ['a b']\n", [":2: allow[0]: expected a host name or an address, got 'a b'"]),
    (
        L + "allow:\n- a.example\n  b.example\n",
        [":3: allow[0]: expected a host name or an address, got 'a.example b.example'"],
    ),
    (L + 'allow: ["a\\nb:443"]\n', [r":2: allow[0]: expected a host name or an address, got 'a\nb'"]),
    (L + f"outbound: {'x' * 5000}\n", [f":2: outbound: expected registry_only or allow_any, got '{'x' * 37}...'"]),
    # --- slips, with something to paste
    (L + "allow: api.x\n", [":2: allow: expected a list, got 'api.x'; write it as a list: [api.x]"]),
    (
        L + "allow: '*.a.example:443, b.example'\n",
        [
            ":2: allow: expected a list, got '*.a.example:443, b.example'; "
            'write it as a list: ["*.a.example:443", b.example]'
        ],
    ),
    (
        L + "rules: [{action: allow, hosts: a.example, ports: 443}]\n",
        [
            ":2: rules[0].hosts: expected a list, got 'a.example'; write it as a list: [a.example]",
            ":2: rules[0].ports: expected a list, got 443; write it as a list: [443]",
        ],
    ),
    (
        L + "allow: ['https://api.a.example/v1?x', \"http://*.b.example\", 'https://c.example:8443']\n",
        [
            ":2: allow[0]: expected a host, got the URL 'https://api.a.example/v1?x'; did you mean api.a.example:443?",
            ":2: allow[1]: expected a host, got the URL 'http://*.b.example'; did you mean *.b.example:80?",
            ":2: allow[2]: expected a host, got the URL 'https://c.example:8443'; did you mean c.example:8443?",
        ],
    ),
    (
        L + "rules: [{action: allow, hosts: ['https://a.example/']}]\n",
        [
            ":2: rules[0].hosts[0]: expected a host, got the URL 'https://a.example/'; did you mean a.example? its port 443 "
            "belongs in ports"
        ],
    ),
    (
        L + "timeouts: {idle_s: 5m}\n",
        [
            ":2: timeouts.idle_s: expected a number above 0 and up to 2592000, got '5m'; "
            "write it in seconds, without a unit: 300"
        ],
    ),
    (L + "admin: false\n", [":2: admin: expected a mapping, got false; to have no admin port write admin: null"]),
    (L + "admin: 9091\n", [":2: admin: expected a mapping, got 9091; write admin: {port: 9091}"]),
    (
        L + "admin: 0.0.0.0:9090\n",
        [
            ":2: admin: expected a mapping, got '0.0.0.0:9090'; write it like admin: {address: 127.0.0.1, port: 9090}, "
            "leave it out for just that, or admin: null for none"
        ],
    ),
    # --- nothing behind a key never means "any" or "the default"
    (L + "rules:\n- action: allow\n  hosts:\n", [":4: rules[0].hosts: expected a list, got nothing"]),
    (
        L + "rules:\n- {action: allow, hosts: [a.example], ports: null}\n",
        [":3: rules[0].ports: expected a list, got nothing"],
    ),
    (
        "listeners:\n- protocol: http-proxy\n  port: 1\n  tls:\n",
        [":4: listeners[0].tls: expected a mapping, got nothing"],
    ),
    (L + "rules:\n", [":2: rules: expected a list, got nothing"]),
    (L + "allow:\n-\n", [":3: allow[0]: expected HOST:PORT like api.example.com:443, got nothing"]),
    (
        L + "rules:\n- {action: allow, hosts: []}\n",
        [":3: rules[0].hosts: expected at least one entry, got an empty list; leave the key out to match any"],
    ),
    # --- keys
    (L + "alow: []\n", [":2: alow: no such setting; did you mean allow?"]),
    (L + "rules:\n- {action: deny, host: [a.example]}\n", [":3: rules[0].host: no such setting; did you mean hosts?"]),
    (
        L + "admin: {port:9090}\n",
        [":2: admin.'port:9090': no such setting; put a space behind the colon"],
    ),
    (
        L + '"\\e[31m": 1\n',
        [
            r":2: '\x1b[31m': no such setting; expected one of listeners, allow, rules, outbound, routes, services, parents, "
            "on_policy_change, report, "
            "sni_check, ech, guard, dns, timeouts, limits, access_log, http, secrets, capture, admin"
        ],
    ),
    (
        L + "workers: 2\n",
        [":2: workers: this version does not have this setting yet, so it is refused rather than ignored"],
    ),
    (
        L + "rules:\n- {action: allow, users: [x]}\n",
        [
            ":3: rules[0].users: this version does not have this setting yet, so it is refused rather than ignored",
        ],
    ),
    (
        "listeners: [{protocol: https, port: 1}]\n",
        [
            ":1: listeners[0].protocol: expected http-proxy or http or sni or auto or tcp, got 'https'; did you mean http?"
        ],
    ),
    (
        "listeners: [{protocol: http-prox, port: 1}]\n",
        [
            ":1: listeners[0].protocol: expected http-proxy or http or sni or auto or tcp, got 'http-prox'; "
            "did you mean http-proxy?"
        ],
    ),
    (
        L + "access_log: [{format: istio-1.31}]\n",
        [
            ":2: access_log[0].format: expected squid, squid-5, json, nginx-stream, nginx-stream-1.22, envoy, istio, istio-1.0 "
            "to istio-1.30 or istio-json, got 'istio-1.31'; did you mean istio-1.3?"
        ],
    ),
    (
        L + "access_log:\n- format: istio\n  template: '%START_TIME% %GRPC_STATUS%'\n",
        [":4: access_log[0].template: the operator '%GRPC_STATUS%' is not known here"],
    ),
    (
        L + "access_log:\n- format: squid\n  template: '%>a %Hs'\n",
        [":4: access_log[0].template: the code '%Hs' is not known here; did you mean %>Hs?"],
    ),
    (
        L + "access_log:\n- format: nginx-stream\n  template: '$remote_adr'\n",
        [":4: access_log[0].template: the variable '$remote_adr' is not known here; did you mean $remote_addr?"],
    ),
    (
        L + "access_log:\n- format: istio-json\n  template: '%PROTOCOL%'\n- {format: json, template: x}\n",
        [
            ":4: access_log[0].template: needs format: istio, istio-1.N, envoy, squid or nginx-stream; "
            "istio-json has a form of its own",
            ":5: access_log[1].template: needs format: istio, istio-1.N, envoy, squid or nginx-stream; "
            "json has a form of its own",
        ],
    ),
    (
        L + "services: [{hosts: [a.example], ports: [{number: 1, protocol: GRPC}]}]\n",
        [
            ":2: services[0].ports[0].protocol: expected HTTP or TLS or HTTPS or TCP, got 'GRPC'; "
            "this version does not have it yet",
        ],
    ),
    # --- settings that do not go together
    (
        L + "admin: {address: 0.0.0.0, port: 3128}\n",
        [":2: admin.port: 0.0.0.0 port 3128 is taken by listeners[0].port"],
    ),
    (
        "listeners:\n- {protocol: http-proxy, port: 1}\n- {protocol: http-proxy, port: 1, address: '::', name: b}\n",
        [":3: listeners[1].port: :: port 1 is taken by listeners[0].port"],
    ),
    (
        L + "rules:\n- {action: deny, name: a}\n- {action: deny, name: a}\n",
        [":4: rules[1]: two rules are called 'a'; logs and metrics could not tell them apart"],
    ),
    (
        L + "rules:\n- action: allow\n  report: true\n- action: deny\n  private_addresses: true\n",
        [
            ":4: rules[0].report: belongs on a deny rule, or at the top level for all that is refused",
            ":6: rules[1].private_addresses: belongs on an allow rule",
        ],
    ),
    (
        "listeners:\n- protocol: http-proxy\n  port: 1\n  service_port: 443\n  transparent: redirect\n",
        [
            ":4: listeners[0].service_port: belongs on a listener that is no http-proxy: its clients say where they "
            "want to go",
            ":5: listeners[0].transparent: belongs on a listener that is no http-proxy: its clients say where they "
            "want to go",
        ],
    ),
    (
        "listeners:\n- protocol: sni\n  port: 1\n  tls: {certificate: c.yaml, key: c.yaml}\n",
        [":4: listeners[0].tls: belongs on an http-proxy or http listener: sni forwards TLS and does not end it"],
    ),
    (
        "listeners:\n- protocol: auto\n  port: 1\n  tls: {certificate: c.yaml, key: c.yaml}\n",
        [":4: listeners[0].tls: belongs on an http-proxy or http listener: auto forwards TLS and does not end it"],
    ),
    (
        "listeners: [{protocol: sni, port: 1, proxy_protocol: {}}]\n",
        [":1: listeners[0].proxy_protocol.from: is missing; expected a list of at least 1"],
    ),
    (
        "listeners: [{protocol: sni, port: 1, proxy_protocol: {from: []}}]\n",
        [":1: listeners[0].proxy_protocol.from: expected a list of at least 1, got a list of 0"],
    ),
    (
        "listeners:\n- protocol: sni\n  port: 1\n  proxy_protocol:\n    from: [10.0.0.1/8, load-balancer]\n",
        [
            ":5: listeners[0].proxy_protocol.from[0]: '10.0.0.1/8' has host bits set; did you mean 10.0.0.0/8?",
            ":5: listeners[0].proxy_protocol.from[1]: expected a network like 10.0.0.0/8 or fd00::/8, got 'load-balancer'",
        ],
    ),
    (
        L + "rules:\n- action: deny\n  sni_check: report\n  require_tls: false\n  ech: deny\n  proxy_protocol: v1\n",
        [
            ":4: rules[0].sni_check: belongs on an allow rule",
            ":5: rules[0].require_tls: belongs on an allow rule",
            ":6: rules[0].ech: belongs on an allow rule",
            ":7: rules[0].proxy_protocol: belongs on an allow rule",
        ],
    ),
    (
        L + "rules: [{action: deny, paths: /api}]\n",
        [":2: rules[0].paths: expected a list, got '/api'; write it as a list: [\"/api\"]"],
    ),
    (
        L + "rules:\n- action: deny\n  paths:\n  - api\n  - http://a.example/api\n  - 7\n  - /a/../b\n  - /a%2Fb\n",
        [
            ":5: rules[0].paths[0]: expected a path like /api/*, got 'api'",
            ":6: rules[0].paths[1]: expected a path like /api/*, got the URL 'http://a.example/api'; its host belongs in hosts",
            ":7: rules[0].paths[2]: expected a path like /api/*, got 7",
            ":8: rules[0].paths[3]: expected a path without . and .. segments, got '/a/../b'; did you mean /b?",
            ":9: rules[0].paths[4]: expected a path that all servers read alike, got '/a%2Fb'",
        ],
    ),
    (
        L + "rules: [{action: deny, paths: []}]\n",
        [":2: rules[0].paths: expected at least one entry, got an empty list; leave the key out to match any"],
    ),
    (
        L + "rules:\n- action: allow\n  paths: [/*]\n  sni_check: off\n  require_tls: false\n  ech: deny\n",
        [
            f":{line}: rules[0].{key}: has no meaning with paths: a rule with paths never matches a tunnel"
            for line, key in ((5, "sni_check"), (6, "require_tls"), (7, "ech"))
        ],
    ),
    # --- services
    (
        S + "  aliases: ['*.b', c.example, C.example]\n",
        [":5: services[0].aliases[0]: expected one host name, got '*.b'"],
    ),
    (
        S + "  aliases: [b.example, c.example, B.example.]\n",
        [":5: services[0].aliases[2]: b.example is listed twice"],
    ),
    (
        S + "  aliases: [b.example, 10.96.0.1]\n",
        [":5: services[0].aliases[1]: expected a name, got the address 10.96.0.1"],
    ),
    (
        L + "services:\n- hosts: [a.example, b.example]\n  ports: [{number: 80}]\n  aliases: [c]\n",
        [":5: services[0].aliases: stand for one exact host: write that one alone in hosts"],
    ),
    (
        L + "services:\n- hosts: ['*.a.example']\n  ports: [{number: 80}]\n  aliases: [c]\n",
        [":5: services[0].aliases: stand for one exact host: write that one alone in hosts"],
    ),
    (
        L + "services:\n- hosts: [192.0.2.1]\n  ports: [{number: 80}]\n  aliases: [c]\n",
        [":5: services[0].aliases: stand for a name, got the address 192.0.2.1 in hosts"],
    ),
    (
        L + "services: [{hosts: [a.example], ports: [{number: 80, target_port: 0}]}]\n",
        [":2: services[0].ports[0].target_port: expected an integer from 1 to 65535, got 0"],
    ),
    (S + "  resolution: static\n", [":3: services[0].endpoints: resolution: static needs at least one"]),
    (
        S + "  resolution: none\n  endpoints: [{address: 10.0.0.1}]\n",
        [":6: services[0].endpoints: have no meaning with resolution: none"],
    ),
    (
        S + "  resolution: static\n  endpoints:\n  - {address: 10.0.0.1}\n  - {address: b.example}\n",
        [":8: services[0].endpoints[1].address: resolution: static needs IP addresses, got b.example; or write dns"],
    ),
    (
        S + "  endpoints: [10.0.0.1, {address: '*.b', weight: 0, port: 0}]\n",
        [
            ":5: services[0].endpoints[0]: expected a mapping, got '10.0.0.1'; write it like {address: \"10.0.0.1\"}",
            ":5: services[0].endpoints[1].address: expected one host name, got '*.b'",
            ":5: services[0].endpoints[1].port: expected an integer from 1 to 65535, got 0",
            ":5: services[0].endpoints[1].weight: expected an integer from 1 to 1000, got 0",
        ],
    ),
    (
        S + "  timeout_s: 3s\n  connect_timeout_s: 0\n  idle_timeout_s: never\n",
        [
            ":5: services[0].timeout_s: expected a number above 0 and up to 2592000, got '3s'; "
            "write it in seconds, without a unit: 3",
            ":6: services[0].connect_timeout_s: expected a number above 0 and up to 2592000, got 0",
            ":7: services[0].idle_timeout_s: expected a number above 0 and up to 2592000, got 'never'",
        ],
    ),
    # --- TLS to services
    (S + "  tls: simple\n", [":5: services[0].tls: expected a mapping, got 'simple'; write it like {mode: simple}"]),
    (S + "  tls: {}\n", [":5: services[0].tls.mode: is missing; expected disable or simple or mutual"]),
    (
        S + "  tls: {mode: ISTIO_MUTUAL}\n",
        [":5: services[0].tls.mode: expected disable or simple or mutual, got 'ISTIO_MUTUAL'; did you mean mutual?"],
    ),
    (
        S + "  tls:\n    mode: disable\n    ca: c.yaml\n    sni: b.example\n    subject_alt_names: [b.example]\n",
        [
            ":7: services[0].tls.ca: has no meaning with mode: disable",
            ":8: services[0].tls.sni: has no meaning with mode: disable",
            ":9: services[0].tls.subject_alt_names: has no meaning with mode: disable",
        ],
    ),
    (
        S + "  tls:\n    mode: mutual\n    credential: c\n    certificate: c.yaml\n    ca: c.yaml\n",
        [
            ":8: services[0].tls.certificate: is given by credential already; write one or the other",
            ":9: services[0].tls.ca: is given by credential already; write one or the other",
        ],
    ),
    (
        S + "  tls: {mode: mutual, ca: c.yaml}\n",
        [
            ":5: services[0].tls.mode: mutual needs certificate, or a credential",
            ":5: services[0].tls.mode: mutual needs key, or a credential",
        ],
    ),
    (
        S + "  tls: {mode: mutual, key: c.yaml}\n",
        [":5: services[0].tls.mode: mutual needs certificate, or a credential"],
    ),
    (
        S + "  tls:\n    mode: simple\n    certificate: c.yaml\n    key: c.yaml\n",
        [
            ":7: services[0].tls.certificate: belongs to mode: mutual",
            ":8: services[0].tls.key: belongs to mode: mutual",
        ],
    ),
    (
        S + "  tls:\n    mode: simple\n    verify: false\n    ca: c.yaml\n    subject_alt_names: [b.example]\n",
        [
            ":8: services[0].tls.ca: has no effect with verify: false",
            ":9: services[0].tls.subject_alt_names: has no effect with verify: false",
        ],
    ),
    (
        S + "  tls:\n    mode: simple\n    verify: 1\n    minimum_version: 1.1\n    alpn: [h2]\n    sni: '*.a'\n",
        [
            ":7: services[0].tls.verify: expected true, false or chain, got 1",
            ":8: services[0].tls.minimum_version: expected 1.2 or 1.3, got 1.1",
            ":9: services[0].tls.alpn[0]: expected http/1.1 or http/1.0, got 'h2'",
            ":10: services[0].tls.sni: expected one host name, got '*.a'",
        ],
    ),
    (
        S + "  tls: {mode: simple, credential: ../c}\n",
        [":5: services[0].tls.credential: expected the name of a secret, in letters, digits, . and -, got '../c'"],
    ),
    (
        S + "  tls: {mode: simple, credential: c}\n",
        [":5: services[0].tls.credential: needs secrets: {directory: ...}, where secrets are mounted"],
    ),
    (
        S + "  tls: {mode: simple, subject_alt_names: a.example}\n",
        [":5: services[0].tls.subject_alt_names: expected a list, got 'a.example'; write it as a list: [a.example]"],
    ),
    (L + "secrets: /run\n", [":2: secrets: expected a mapping, got '/run'; write it like {directory: \"/run\"}"]),
    # --- header fields for services
    (
        S + "  set_headers: {X-Key: c.yaml}\n",
        [":5: services[0].set_headers.X-Key: expected a mapping, got 'c.yaml'; write it like {file: c.yaml}"],
    ),
    (S + "  set_headers: [X-Key]\n", [":5: services[0].set_headers: expected a mapping, got a list of 1"]),
    (
        S + "  set_headers:\n    X Key: {file: c.yaml}\n",
        [":6: services[0].set_headers.'X Key': expected the name of a header field like Authorization, got 'X Key'"],
    ),
    (
        S + '  set_headers:\n    X-Key: {prefix: "a\\nb", value: x}\n',
        [
            ":6: services[0].set_headers.X-Key.file: is missing; expected text",
            r":6: services[0].set_headers.X-Key.prefix: expected up to 200 printable ASCII characters, got 'a\nb'",
            ":6: services[0].set_headers.X-Key.value: no such setting; expected one of file, prefix",
        ],
    ),
    *(
        (
            S + f"  {tls}\n  set_headers: {{X-Key: {{file: c.yaml}}}}\n",
            [
                ":6: services[0].set_headers: go over verified TLS only: set tls: {mode: simple} or mutual, with verify: true"
            ],
        )
        for tls in (
            "timeout_s: 3",
            "tls: {mode: disable}",
            "tls: {mode: simple, verify: false}",
            "tls: {mode: simple, verify: chain}",
        )
    ),
    (
        S + "  tls: {mode: simple}\n  set_headers:\n    Host: {file: c.yaml}\n    TE: {file: c.yaml}\n",
        [
            ":7: services[0].set_headers.Host: Host is the proxy's own to write",
            ":8: services[0].set_headers.TE: TE is the proxy's own to write",
        ],
    ),
    (
        S + "  tls: {mode: simple}\n  set_headers:\n    X-Key: {file: c.yaml}\n    x-key: {file: c.yaml}\n",
        [":8: services[0].set_headers.x-key: is set twice: letter case does not count"],
    ),
    # --- plain requests
    (
        L + "http: {via: 1, forwarded_for: x, request_id: 'true'}\n",
        [
            ":2: http.via: expected true or false, got 1",
            ":2: http.forwarded_for: expected off or append or replace or delete, got 'x'",
            ":2: http.request_id: expected true or false, got 'true'; write it without quotes",
        ],
    ),
    (
        L + "limits: {max_body_bytes: -1, max_pooled: -1, max_pooled_each: 1.5}\n",
        [
            ":2: limits.max_body_bytes: expected an integer of at least 0, got -1",
            ":2: limits.max_pooled: expected an integer from 0 to 1000000, got -1",
            ":2: limits.max_pooled_each: expected an integer from 0 to 1000000, got 1.5",
        ],
    ),
    (
        L + "timeouts: {keep_alive_s: 0, upstream_idle_s: 1m, upstream_lifetime_s: null}\n",
        [
            ":2: timeouts.keep_alive_s: expected a number above 0 and up to 2592000, got 0",
            ":2: timeouts.upstream_idle_s: expected a number above 0 and up to 2592000, got '1m'; "
            "write it in seconds, without a unit: 60",
            ":2: timeouts.upstream_lifetime_s: expected a number above 0 and up to 2592000, got nothing",
        ],
    ),
    (L + "dns:\n  min_ttl_s: 10\n  max_ttl_s: 5\n", [":3: dns.min_ttl_s: 10 is above max_ttl_s, which is 5"]),
    (
        L + "access_log: [{decisions: true}]\n",
        [":2: access_log[0].decisions: needs format: json; the others have one line per finished transaction"],
    ),
    (
        L + "services:\n- hosts: ['*']\n  ports: [{number: 1}, {number: 1}]\n",
        [
            ":3: services[0].hosts[0]: expected a name, got '*'; to let everything pass write outbound: allow_any",
            ":4: services[0].ports[1].number: port 1 is listed twice",
        ],
    ),
]


@pytest.mark.parametrize(("content", "said"), TABLE, ids=[repr(content)[:60] for content, _ in TABLE])
def test_a_bad_file_is_refused_in_exactly_these_words(tmp_path: Path, content: str | bytes, said: list[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load([str(file)])
    assert [str(problem).removeprefix(str(file)) for problem in caught.value.problems] == said


@pytest.mark.parametrize("name", [r"C:\logs\a.log", "d:/logs/a.log", r"\\host\share\a.log"])
def test_a_windows_path_is_no_name_in_the_folder_of_the_configuration(tmp_path: Path, name: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{L}access_log:\n- path: '{name}'\n")
    with pytest.raises(ConfigError) as caught:
        load([str(file)])
    assert str(caught.value) == (
        f"{file}:3: access_log[0].path: expected a name like /var/log/access.log, got the Windows path {name!a}"
    )


@pytest.mark.parametrize(
    "content",
    [
        "# comment\rlisteners: [{protocol: http-proxy, port: 3128}]\r",
        "http_port 3128\rhttp_access deny all\r",
        "stream {\r# comment\rserver { listen 1; proxy_pass 127.0.0.1:1; }\r}\r",
        "apiVersion: v1\rkind: Service\r",
    ],
)
@pytest.mark.parametrize("forced", ["", "squid:", "nginx:", "istio:"])
def test_lines_that_end_with_a_carriage_return_alone_are_told_as_such(
    tmp_path: Path, content: str, forced: str
) -> None:
    file = tmp_path / "c.conf"
    file.write_bytes(content.encode())
    with pytest.raises(ConfigError) as caught:
        load([f"{forced}{file}"])
    assert f"{file}:1: lines end with a carriage return (CR) alone; save the file with LF or CRLF" in str(caught.value)


def test_all_problems_of_all_files_are_told_at_once_in_file_order(tmp_path: Path) -> None:
    one, two, three = tmp_path / "one.yaml", tmp_path / "two.yaml", tmp_path / "three.yaml"
    one.write_text("rules:\n- {action: alow}\n- {hosts: [a/b]}\nreport: on\n")
    two.write_text("allow: [a b\n")
    three.write_text("allow: ['x y', z.example]\ntimeouts: {idle: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load([str(one), str(two), str(tmp_path / "absent.yaml"), str(three)])
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "one.yaml:2: rules[0].action: expected allow or deny, got 'alow'; did you mean allow?",
        "one.yaml:3: rules[1].hosts[0]: expected a host, got 'a/b'; networks belong in clients (who asks) or "
        "guard.allow (what may be dialled)",
        "one.yaml:3: rules[1].action: is missing; expected allow or deny",
        "one.yaml:4: report: 'on' without quotes is true to some readers of YAML and text to others; "
        "write true, or quote it",
        "two.yaml:1: allow[1]: [ is opened here and never closed",
        "absent.yaml: cannot be read: No such file or directory",
        "three.yaml:1: allow[0]: expected a host name or an address, got 'x y'",
        "three.yaml:2: timeouts.idle: no such setting; did you mean idle_s?",
    ]


def test_a_list_of_nothing_but_mistakes_is_told_up_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(L + "allow:\n" + "- 'a b'\n" * 20_000)
    with pytest.raises(ConfigError) as caught:
        load([str(file)])
    assert len(caught.value.problems) == 51
    assert caught.value.problems[-1].message == "and 950 problems or more"


def test_a_mapping_of_nothing_but_unknown_keys_is_told_up_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("".join(f"key{number}: 1\n" for number in range(5000)))
    with pytest.raises(ConfigError) as caught:
        load([str(file)])
    assert "expected at most 1000 keys in a mapping" in str(caught.value)
    assert len(caught.value.problems) <= 1002
