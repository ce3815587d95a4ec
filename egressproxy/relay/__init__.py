"""Relay: bytes both ways between a client and an upstream, until both directions have ended.

`tunnel` tells the story: a tunnel is two flows, one per direction, moved by the poller's events. Two engines move a flow, with
one interface (`flow`):

- `splicing`, for TCP on both sides on Linux: copies first, which is cheapest for the short exchanges most tunnels are made
  of, and after two full reads in a row moves the bytes through a pipe inside the kernel (`splice`).
- `copying`, for everything else: a TLS side, or a system without splice.

`relay` opens tunnels and holds what they share: timers, pipes, and the set of those that are open.
"""
