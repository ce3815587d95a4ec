"""What egressproxy costs, measured beside its peers in the same run on the same core. `README.md` tells how to read it.

    python -m benchmarks                                          everything, about six minutes
    python -m benchmarks --only tunnels --rounds 9 --seconds 5    one question, thoroughly

One question per file: `tunnels`, `tunnels_tls`, `sni`, `bulk`, `ping_pong`, `idle`, `requests`, `origination`. What
they share is in `support/`: the load generator, the origins, the proxies, the comparison and the report. Small benchmarks on
pure functions are in `micro/`.
"""
