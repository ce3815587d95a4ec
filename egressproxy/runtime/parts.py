"""What a configuration needs and is not there yet: built beside what runs, put in place whole or given back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.config.faults import path_text
from egressproxy.errors import ConfigError
from egressproxy.identities import Identities, IdentityProblems
from egressproxy.policy.policy import Policy
from egressproxy.runtime.sockets import BindError, OwnPorts, listen
from egressproxy.telemetry.log_writer import LogUnusable
from egressproxy.telemetry.telemetry import Log, open_logs
from egressproxy.tls import TlsSettingsError, listener_context

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Collection, Mapping, Sequence

    from egressproxy.config.faults import Way
    from egressproxy.config.load import Loaded
    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.listeners import Listener
    from egressproxy.model import Problem
    from egressproxy.registry import Registry
    from egressproxy.runtime.handed_sockets import HandedSockets

Place = tuple[str, int]
"""Address and port that is listened on."""
Transparent = Literal["redirect", "tproxy"] | None
"""Of a listener: how clients are captured."""


class Parts(NamedTuple):
    """Bound, opened and read, but not in use.

    notes     what is worth knowing about the configuration; finding out takes seconds when it is very large
    contexts  TLS of the listeners that have it
    sockets   for the places that were not listened on before
    """

    loaded: Loaded
    policy: Policy
    registry: Registry
    identities: Identities
    notes: Sequence[Problem]
    contexts: dict[Place, ssl.SSLContext]
    logs: Sequence[Log]
    sockets: dict[Place, socket.socket]

    def give_back(self) -> None:
        """Undo: the configuration is not used after all."""
        for sock in self.sockets.values():
            sock.close()
        for log in self.logs:
            log.writer.close(0)


def build(
    loaded: Loaded,
    listening: Mapping[Place, Transparent],
    admin: Place | None,
    before: Identities | None,
    handed: HandedSockets,
) -> Parts:
    """All that the configuration needs beside the sockets that are there already. Changes nothing that runs.

    `before` are the TLS identities in use: those that stay the same stay in use. `listening` are the places of the listeners at
    work, and their `transparent`; `admin` is that of the admin port. `handed` are the service manager's sockets: each must be
    wanted, and is taken where it has not been yet. Raises ConfigError or BindError, with nothing left open.
    """
    config = loaded.config
    contexts = _contexts(loaded)
    identities = _identities(loaded, before)
    places = _places(config)
    handed.require_all_in(places)
    policy = Policy.from_config(config, OwnPorts(set(places)), time.localtime)
    try:
        logs = open_logs(config.access_log)
    except LogUnusable as error:
        index = next((n for n, log in enumerate(config.access_log) if log.path == error.filename), 0)
        message = f"{error.filename} cannot be written: {error.strerror}"
        raise ConfigError([loaded.problem(("access_log", index, "path"), message)]) from error
    parts = Parts(
        loaded,
        policy,
        policy.registry,
        identities,
        loaded.noted((*policy.notes(), *identities.notes)),
        contexts,
        logs,
        {},
    )
    own = (*listening, *([admin] if admin else ()))
    for place, settings in places.items():
        there_already = place == admin if settings is None else place in listening
        try:
            if not there_already:
                parts.sockets[place] = _take(place, settings, own, handed)
            elif settings is not None and settings.transparent == "tproxy" != listening[place]:
                raise BindError(
                    f"a reload cannot make the listener on {place[0]} port {place[1]} transparent: tproxy; restart"
                )
        except BindError as error:
            parts.give_back()
            raise BindError(f"{error}; {_where_it_is_set(loaded, place)}") from error
    return parts


def _take(place: Place, settings: Listener | None, own: Collection[Place], handed: HandedSockets) -> socket.socket:
    """A socket for a place that none of its kind holds yet, a handed one if there is one; without `settings` for the admin
    port. Raises BindError.

    Where clients speak first, the kernel hands them over with their first bytes.
    """
    transparent = None if settings is None else settings.transparent
    client_speaks_first = settings is not None and settings.protocol != "tcp"
    taken = handed.take(place, client_speaks_first=client_speaks_first, transparent=transparent)
    if taken is not None:
        return taken
    try:
        return listen(*place, client_speaks_first=client_speaks_first, transparent=transparent)
    except BindError as error:
        for address, port in own:
            if port == place[1]:  # one of the other kind has it, or one with a wider or narrower address
                raise BindError(
                    f"cannot listen on {place[0]} port {port} while this proxy itself listens on {address} port {port};"
                    " a reload cannot hand that over: choose another port, or restart"
                ) from error
        raise


def _where_it_is_set(loaded: Loaded, place: Place) -> str:
    """Which setting names the place, for who has to change it."""
    for number, listener in enumerate(loaded.config.listeners):
        if (listener.address, listener.port) == place:
            if not loaded.sources:
                return "it is where the built-in default listens: write a configuration with another port"
            way: Way = ("listeners", number, "port")
            if loaded.locate(way)[1] is None:  # nobody wrote it
                return "it is where the default listeners of Istio files listen: write a native file with listeners"
            break
    else:
        way = ("admin", "port")
    file, line = loaded.locate(way)
    where = f"it is {path_text(way)}" + (f" in {file}:{line}" if line else "")
    if way[0] == "admin":
        where += (
            ", by default 9090: write admin: {port: ...} in a configuration for another one, or admin: null for none"
        )
    return where


def _places(config: Config) -> dict[Place, Listener | None]:
    """Every place to listen on, with its listener; None for the admin port."""
    places: dict[Place, Listener | None] = {
        (listener.address, listener.port): listener for listener in config.listeners
    }
    if config.admin is not None:
        places[config.admin.address, config.admin.port] = None
    return places


def _contexts(loaded: Loaded) -> dict[Place, ssl.SSLContext]:
    contexts: dict[Place, ssl.SSLContext] = {}
    problems: list[Problem] = []
    for number, listener in enumerate(loaded.config.listeners):
        if listener.tls is not None:
            try:
                contexts[listener.address, listener.port] = listener_context(listener.tls)
            except TlsSettingsError as error:
                problems.append(loaded.problem(("listeners", number, "tls"), str(error)))
    if problems:
        raise ConfigError(problems)
    return contexts


def _identities(loaded: Loaded, before: Identities | None) -> Identities:
    try:
        return Identities.load(loaded.config, before)
    except IdentityProblems as error:
        raise ConfigError([loaded.problem(way, message) for way, message in error.problems]) from error
