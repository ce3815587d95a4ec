"""squid.conf, as Squid 3.5 to 6 read it.

`lexer` makes statements of a file and what it includes; `directives` says what becomes of those that are not translated;
`squid` puts the native form together, with `acls` (what is asked of a request), `ports`, `peers`, `logs`, and `values` for
single settings. `conditions` turns what Squid combines by names and `!` into the nested conditions of the native form,
`expressions` its regular expressions into RE2's, `networks` its addresses into CIDRs.
"""
