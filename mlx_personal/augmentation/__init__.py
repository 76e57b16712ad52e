"""Augment scarce personal data with the help of a server's model [Zhong25].

The server's model writes records similar to a user's few records, an adapter is trained on real and synthetic records
together, and the device answers with it, without the server. Only this outline is public; all details are this
project's own design.

- `task` defines records and tasks, `config` the settings.
- On the device, `sampling` selects the records to send, `redaction` removes private values, `prompting` builds the
  prompts and parses responses, and `filters` decide which synthetic records are kept. `on_device` combines these steps
  with the training of the adapter.
- Between device and server, in the process that drives a run: `consent` is required first, `ledger` records every byte
  that leaves, `client` sends the requests to the `server`, and `response_cache` stores the responses.
- `augment_users` drives all of it for many users: `user_files` reads them from a folder, `user_jobs` runs in worker
  processes, `user_results` stores the adapters, and `database` has the tables. `augment_profile` does the same for the
  owner of a profile.
"""
