"""Stage 7, record: what is told of a connection, and to whom.

`record` is filled while a connection lives and ends as one ConnectionRecord, or one for each plain request. `telemetry` hands
that to the access logs (`formats` makes the line, `access_log` says which, `log_writer` writes it from a thread of its own)
and to the counters (`metrics`). `admin` serves the pages of the admin port. Nothing here waits, and nothing here decides.
"""
