"""Stage 7, record: what is told of a connection, and to whom.

`record` is filled while a connection lives and ends as one ConnectionRecord. `telemetry` hands that to the access logs
(`access_log` makes the line, `log_writer` writes it from a thread of its own) and to the counters (`metrics`). `admin`
serves the pages of the admin port. Nothing here waits, and nothing here decides.
"""
