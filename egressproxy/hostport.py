"""The one place where a host name becomes canonical and where text becomes host and port. (interface only, to be written)"""
