"""The whole configuration, the default that is built in, and the JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from egressproxy.config.faults import path_text, shown
from egressproxy.config.schema.listeners import Listener
from egressproxy.config.schema.rules import Route, Rule
from egressproxy.config.schema.services import Parent, Secrets, Service
from egressproxy.config.schema.settings import Settings
from egressproxy.config.schema.stages import AccessLog, Admin, CaptureRanges, Dns, Guard, Http, Limits, Timeouts
from egressproxy.config.templates import plain_field_name
from egressproxy.config.words import MAX_ENTRIES, AllowEntries, Ech, Flag, SniCheck, repeated, together
from egressproxy.model import AskedFields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egressproxy.config.faults import Finding


def _overlap(one: str, other: str) -> bool:
    """Whether two sockets on one port and these addresses collide: `::` takes IPv4 as well, `0.0.0.0` only that."""
    if one == other or "::" in (one, other):
        return True
    return "0.0.0.0" in (one, other) and ":" not in one + other  # noqa: S104 - compared with, not bound to


class Config(Settings):
    """A whole configuration of egressproxy."""

    nullable = frozenset({"admin"})

    listeners: Annotated[tuple[Listener, ...], Field(min_length=1, max_length=1000)]
    """Where clients connect."""
    allow: AllowEntries = ()
    """Shorthand: `HOST:PORT` entries to allow, asked after `rules`."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_ENTRIES)] = ()
    """In order; the first that matches decides."""
    outbound: Literal["registry_only", "allow_any"] = "registry_only"
    """What no rule decides: `registry_only` lets pass what `services` registers, `allow_any` everything."""
    routes: Annotated[tuple[Route, ...], Field(max_length=MAX_ENTRIES)] = ()
    """In order; the first that matches says which service is meant, and lets pass. Asked after `rules` and `allow`."""
    services: Annotated[tuple[Service, ...], Field(max_length=MAX_ENTRIES)] = ()
    """The registry of known destinations."""
    parents: Annotated[tuple[Parent, ...], Field(max_length=1000)] = ()
    """Other proxies that rules may send through."""
    on_policy_change: Literal["keep", "cut"] = "keep"
    """What a reload does to open tunnels that the new configuration would refuse: `keep` lets them go on, `cut` closes them."""
    report: Flag = False
    """Log and count all that rules and `outbound` would refuse, and let it pass; tunnels on port 443 whose TLS asks for another
    host as well. The address guard still holds, and an `sni_check` or `ech` that is set."""
    sni_check: SniCheck | None = None
    """Whether the TLS inside a CONNECT tunnel must ask for the host that the tunnel was granted for. `enforce`: if not, it is
    closed before the origin sees a byte; `report`: logged and counted only; `off`: not looked at. Absent: `off`, and on port
    443 `enforce` (`report` with `report: true`). Set, it holds for every port of every rule that does not say otherwise."""
    ech: Ech = "allow"
    """A ClientHello with Encrypted Client Hello (browsers send a dummy of it to every site): `allow` judges its outer name;
    `deny` closes, dummies included, which nothing on the path can tell from the real thing; tunnels on every port are looked at
    for it, also where `sni_check` is `off` (where it is `report`, it is reported)."""
    guard: Guard = Guard()
    """The address guard."""
    dns: Dns = Dns()
    """Name resolution."""
    timeouts: Timeouts = Timeouts()
    """How long to wait."""
    limits: Limits = Limits()
    """How much to take."""
    access_log: tuple[AccessLog, ...] = (AccessLog(),)
    """Access logs. Default: Squid's format on standard output."""
    http: Http = Http()
    """Plain requests."""
    secrets: Secrets = Secrets()
    """Mounted certificates and keys."""
    capture: CaptureRanges = CaptureRanges()
    """What `egressproxy redirect` captures, unless its options say otherwise."""
    admin: Admin | None = Admin()
    """The admin port; `null` for none."""

    @property
    def asked(self) -> AskedFields | None:
        """The header fields that are kept for the access logs; None: none are."""
        request = frozenset[str]().union(*(log.asked.request for log in self.access_log))
        response = frozenset[str]().union(*(log.asked.response for log in self.access_log))
        return AskedFields(request, response) if request or response else None

    @model_validator(mode="after")
    def _check(self) -> Config:
        found = (
            *self._places_taken(),
            *self._names_twice(),
            *self._unknown_listeners(),
            *self._unknown_destinations(),
            *self._unknown_parents(),
            *self._credentials_without_secrets(),
            *self._credentials_in_logs(),
        )
        return together(self, found)

    def _places_taken(self) -> Iterator[Finding]:
        ports: list[tuple[tuple[str | int, ...], Listener | Admin]] = [
            (("listeners", index, "port"), listener) for index, listener in enumerate(self.listeners)
        ]
        if self.admin is not None:
            ports.append((("admin", "port"), self.admin))
        for number, (at, later) in enumerate(ports):
            for other, earlier in ports[:number]:
                if later.port == earlier.port and _overlap(later.address, earlier.address):
                    yield at, f"{later.address} port {later.port} is taken by {path_text(other)}"
                    break

    def _names_twice(self) -> Iterator[Finding]:
        labels = [listener.label for listener in self.listeners]
        for index in repeated(labels):
            yield ("listeners", index), f"two listeners are called {labels[index]!r}; give one a name of its own"
        for index in repeated([service.name or index for index, service in enumerate(self.services)]):
            yield ("services", index, "name"), f"two services are called {self.services[index].name}: routes need one"
        for index in repeated([parent.name for parent in self.parents]):
            yield ("parents", index, "name"), f"two parents are called {self.parents[index].name!r}"
        names = [rule.name or f"rule-{number}" for number, rule in enumerate(self.rules, 1)]
        for index in repeated(names):
            message = f"two rules are called {names[index]!r}; logs and metrics could not tell them apart"
            yield ("rules", index), message

    def _unknown_listeners(self) -> Iterator[Finding]:
        labels = {listener.label for listener in self.listeners}
        for key, conditions in (("rules", self.rules), ("routes", self.routes)):
            for index, condition in enumerate(conditions):
                for at, name in enumerate(condition.listeners or ()):
                    if name not in labels:
                        yield (key, index, "listeners", at), f"expected the name of a listener, got {shown(name)}"

    def _unknown_destinations(self) -> Iterator[Finding]:
        services = {service.label: service for service in reversed(self.services)}
        for index, route in enumerate(self.routes):
            for number, one in enumerate(route.to):
                way = ("routes", index, "to", number)
                known = services.get(one.service)
                if known is None:
                    yield (*way, "service"), f"expected the name of a service, got {shown(one.service)}"
                elif one.port is not None and all(port.number != one.port for port in known.ports):
                    yield (*way, "port"), f"service {one.service} has no port {one.port}"

    def _unknown_parents(self) -> Iterator[Finding]:
        parents = {parent.name for parent in self.parents}
        for index, rule in enumerate(self.rules):
            if rule.parent is not None and rule.parent not in parents:
                yield ("rules", index, "parent"), f"expected the name of one of parents, got {shown(rule.parent)}"

    def _credentials_without_secrets(self) -> Iterator[Finding]:
        if self.secrets.directory is not None:
            return
        for index, service in enumerate(self.services):
            credential = None if service.tls is None else service.tls.credential
            if credential is not None and self.secrets.inline.keys().isdisjoint((credential, f"{credential}-cacert")):
                way = ("services", index, "tls", "credential")
                yield way, "needs secrets: {directory: ...}, where secrets are mounted"

    def _credentials_in_logs(self) -> Iterator[Finding]:
        credentials = {
            plain_field_name(name): service.label for service in self.services for name in service.set_headers
        }
        for index, log in enumerate(self.access_log):
            for name in sorted(log.asked.request | log.asked.response):
                service = credentials.get(plain_field_name(name))
                if service is not None:
                    message = (
                        f"cannot name {shown(name)}: set_headers of service {service} gives it a credential, "
                        "which is not for a log"
                    )
                    yield ("access_log", index, "template"), message


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one native YAML file, for editors.

    It says less than loading does: hosts, networks and what settings mean together are judged there.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


BUILT_IN = "built-in"
"""Name of the one rule of the built-in default, which stands in no file."""


def built_in() -> dict[str, Any]:
    """The safe default without any configuration: loopback only, public addresses on 80 and 443, guard on."""
    return {
        "listeners": [{"protocol": "http-proxy", "address": "127.0.0.1", "port": 3128}],
        "rules": [{"name": BUILT_IN, "action": "allow", "ports": [80, 443]}],
    }
