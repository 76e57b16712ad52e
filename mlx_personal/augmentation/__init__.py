"""A server's help for scarce personal data, after which the device answers alone (CDCDA-PLM; paper 2).

Only the paper's outline is public: a server model enlarges a user's few records, an adapter is trained on real and
synthetic ones together, and the device answers with it offline. Everything below that outline is this project's design.

`task` says what a record is. On the device: `picking` chooses what to send, `redaction` takes out what must not leave,
`prompting` makes the prompts; `filtering` judges what came back, and an adapter is trained (`device`). Between them,
in the one process that drives: `consent` is asked for, `ledger` keeps every byte that leaves, `asking` talks to the
server, `answers` keeps what it said. `augment` joins all that for many users, whom `users` reads from a folder and
whose adapters `results` keeps, and `profile` for the owner of a profile.
"""
