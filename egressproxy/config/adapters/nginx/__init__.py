"""NGINX's configuration of a TCP proxy (its `stream` block), turned into the native form.

`syntax` reads the text as NGINX does, includes and all; `directives` says of every directive what becomes of it; `values` reads
single words, `expressions` those of PCRE; `listens`, `maps`, `destinations` and `logs` read what their names say; `servers`
turns one server into listeners, rules and routes; `nginx` puts the whole together.

Directives are those of nginx.org/en/docs/stream, as of NGINX 1.29.
"""
