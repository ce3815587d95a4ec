"""What the benchmarks share, in the order a run meets it.

    processes    children, cores, CPU time, memory, descriptor limit
    policy       the one policy that every proxy under test enforces
    origins      what lies behind the proxies: echo_origin, bulk_origin and dns_server, each a process
    proxies      egressproxy and its peers, each started, asked for its CPU time, and stopped
    load         the load generator: plain sockets and epoll
    compare      rounds in turn, medians, ratios within a round, goals
    report       the table, the machine, the files under results/

The generator and the origins need the standard library only.
"""
