"""What the benchmarks share, in the order a run meets it.

    errors       what is missing, what was answered wrongly
    processes    children, cores, CPU time, memory, descriptor limit
    policy       the one policy that every proxy under test enforces
    origins      what lies behind the proxies: echo_origin, bulk_origin, http_origin and dns_server, each a process
    certificates of the HTTP origin that speaks TLS
    hello        a ClientHello as OpenSSL sends it
    messages     a request, and the answer to it
    proxy        what a proxy under test is: started, asked for its CPU time, checked, and stopped
    peers        Squid, NGINX, HAProxy
    envoy        Envoy
    proxies      egressproxy, the floor, no proxy at all; every proxy by its name
    load         the load generator: plain sockets and epoll
    compare      rounds in turn, medians, ratios within a round, goals
    cost         what many small things cost: tunnels, requests
    short_tunnels  one turn of many short tunnels, for the three benchmarks that count them
    report       the table, the machine, the files under results/

The generator and the origins need the standard library only; the certificates are made by trustme.
"""
