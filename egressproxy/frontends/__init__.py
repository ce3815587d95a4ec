"""Sniff: what a client wants, read from its first bytes as an Intent. One module per protocol a listener can speak.

A front end is four members: its name, `read_intent`, `grant` (the upstream is connected: tell the client) and `refuse`
(tell the client why not). It knows nothing of policy, names or addresses.
"""
