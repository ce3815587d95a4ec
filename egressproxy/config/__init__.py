"""Settings: what they are, how files become them, and how faults in them are told.

`schema` is vocabulary and imported everywhere. `native` turns the bytes of one YAML file into plain values that know
their lines; `load` reads files and folders, merges them and has `schema` judge the whole; `translate` says in an
operator's words what pydantic found; `faults` is how all of them speak. All but `load` are pure. Nothing here decides
about traffic: `policy` does.
"""
