"""The languages that access logs are written in: from a record to one line. Pure functions.

`squid`, `json_lines`, `nginx` and `envoy` are one each, and know nothing of each other; `text` is what they share. The words of
the configuration are in `access_log`, one floor up.

A line has no line end and no control character, whatever the record holds, and each of its fields is cut at `text.MAX_TEXT`.
"""
