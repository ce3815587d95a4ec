"""What the benchmarks share, in the order a run meets it.

    processes    children, cores, CPU time, memory, descriptor limit
    policy       the one policy that every proxy under test enforces
    origins      what lies behind the proxies: echo_origin, bulk_origin and dns_server, each a process
    hello        a ClientHello as OpenSSL sends it
    proxy        what a proxy under test is: started, asked for its CPU time, checked, and stopped
    peers        Squid, NGINX, HAProxy
    proxies      egressproxy, the floor, no proxy at all; every proxy by its name
    load         the load generator: plain sockets and epoll
    compare      rounds in turn, medians, ratios within a round, goals
    short_tunnels  one turn of many short tunnels, for the three benchmarks that count them
    report       the table, the machine, the files under results/

The generator and the origins need the standard library only.
"""
