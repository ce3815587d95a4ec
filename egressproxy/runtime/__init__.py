"""What keeps the proxy running: sockets, one worker, its reloads, its end.

A worker is a whole proxy. It turns a configuration into services, replaces them whole on a reload, and drains on SIGTERM.
"""
