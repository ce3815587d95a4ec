"""Between bytes and values: what arrives on a socket is read here, and replies are written. Pure: no I/O, no clock."""
