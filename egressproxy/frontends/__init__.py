"""Sniff: what a client wants, read from its first bytes as an Intent. One module per protocol a listener can speak.

A front end is five members: its name, what a client is that is `too_slow` for it, `read_intent`, `grant` (the upstream is
connected: tell the client) and `refuse` (tell the client why not). It knows nothing of policy, names or addresses.
"""
