"""The map of the code. Start at `connection.py`: the life of one connection, top to bottom.

A connection passes these stages, each a module, in this order::

    accept     listen, cap, pause at the descriptor limit, drain
    frontends  sniff: read what the client wants, as an Intent
    policy     decide: by name before DNS, by address before dialling; pure functions that return values
    resolve    names to addresses, cached
    dial       addresses to one connected socket, by happy eyeballs
    relay      a tunnel: bytes both ways until both sides have ended
    exchange   a plain request: up, and its response down; then the next one of the same client
    telemetry  record: access log, metrics, admin pages

What they stand on: `hostport` (the one place a host becomes canonical), `model` (the values that pass between stages),
`errors` (one tree), `wire` (bytes to values and back), `poller` and `stream` (non-blocking sockets behind one epoll),
`tls`, `deadlines`, `stories`, `tasks`; for plain requests also `registry` (how a service is reached), `upstreams`
(connections that are kept), `identities` and `originate` (TLS with services). Around them: `config` (schema and loading),
`runtime` (worker, reload, drain), `cli`.

Imports point one way, up the floors that ARCHITECTURE.md draws. Everything up to `config` is pure, and a test holds both.
"""
