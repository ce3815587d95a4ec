"""Who may go where: pure functions from intents and addresses to verdicts. No clock, socket, file or name look-up.

The policy is asked twice for every tunnel and every plain request, and either answer can end it:

- by name, before DNS: `Policy.decide(intent)` finds the first that matches of `rules`, `allow`, `services` and
  `outbound`, in this order, and gives its verdict;
- by address, before dialling: `Policy.screen(intent, verdict, addresses)` keeps those that the address guard lets pass.

`policy` holds both; `rules` turns the configuration into clauses; `hostnames` finds the clauses that name a host and
`networks` the networks that hold an address, both in constant time however long the lists are; `paths` knows what the path
of a request may mean to a server; `addresses` is the guard's own table of special ranges; `explanation` is what the command
line and the admin port print; `notes` tells what in a configuration has no effect.
"""
