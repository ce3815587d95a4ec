"""Other programs' configuration files, each turned into the native form.

An adapter is a pure function from sources to `Adapted`: native data with the lines it came from, and what is worth saying
about it. In each, one table says for every directive what becomes of it: it is translated; it is known and without meaning
here, which is noted; or it is not known, which is a fault, or with `lenient` a note unless it is about security.

What an adapter cannot express it says. It never drops anything in silence, and never lets pass more than the file does.
"""
