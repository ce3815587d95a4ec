"""Stage 4, resolve: names become addresses. Hosts file, DNS by c-ares, and a cache that outlives a dead name server.

What happens to a name, in order, and where:

1. `resolver`  the door. What the cache knows is given at once; `localhost` and the hosts file never leave the machine;
               askers of one name share one lookup. When the servers fail, an answer that ran out is used a while longer.
2. `lookup`    one name on its way: through the search domains, for A and AAAA at once, until one half has addresses
               and the other has had its 50 ms, or the time is up.
3. `servers`   the wire. One question to the name servers: the c-ares channel, its sockets and its timer.

What they stand on, none of which asks anybody: `cache` (what is remembered, and how long), `answers` (records become
addresses, two halves become one answer), `addresses` (their spelling, and which is tried first), `files` (hosts and
resolv.conf: text becomes values, and a change is noticed).

Which parts are whose. c-ares asks: retries, failover, EDNS, cookies, TCP after truncation, and disbelief of what was
not asked for. The cache, the hosts file and the search list are ours, because c-ares (1.34, by pycares 5)

- has a cache of its own that ignores our floor and ceiling and that pycares cannot switch off (`Servers` empties it);
- goes to the servers for the family that a hosts entry lacks, believes a hosts entry that moves `localhost`, and finds
  the hosts file by an environment variable only;
- tries search domains after *any* absolute name, however many dots it has, unless it ends in a dot (its plain query,
  which is what is used here, never searches: with or without the dot the name is absolute);
- answers A and AAAA in one piece, when the slower one is in or has timed out;
- gets a dangling pointer when pycares 5.2 is given the path of a resolv.conf, so that is read here as well. c-ares reads
  /etc/resolv.conf too, but all that is left for it are options like `rotate` and `use-vc`.

Not here: policy (a refused name never arrives), address literals, and which address is dialled.
"""
