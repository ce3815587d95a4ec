"""The map of the code. Start at `connection.py`: the life of one connection, top to bottom.

A connection passes seven stages, each a module, in this order::

    accept     listen, cap, pause at the descriptor limit, drain
    frontends  sniff: read what the client wants, as an Intent
    policy     decide: by name before DNS, by address before dialling; pure functions that return values
    resolve    names to addresses, cached
    dial       addresses to one connected socket, by happy eyeballs
    relay      bytes both ways until both sides have ended
    telemetry  record: access log, metrics, admin pages

What they stand on: `hostport` (the one place a host becomes canonical), `model` (the values that pass between stages),
`errors` (one tree), `wire` (bytes to values and back), `poller` and `stream` (non-blocking sockets behind one epoll),
`tls`, `deadlines`, `tasks`. Around them: `config` (schema and loading), `runtime` (worker, reload, drain), `cli`.

Imports point one way: errors, hostport, model < wire, policy, config < poller, stream, tls, resolve, dial, relay,
frontends, telemetry < connection < accept, runtime < cli. Everything up to `config` is pure, and a test holds it so.
"""
