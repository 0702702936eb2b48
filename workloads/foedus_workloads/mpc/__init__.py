"""Private inference by three parties on replicated shares over Z_2^64 (`Replicated3PC`).

Protocol: replicated secret sharing as in Araki et al., "High-Throughput Semi-Honest Secure Three-Party Computation
with an Honest Majority", CCS 2016, with ABY3's mix of arithmetic and Boolean shares (Mohassel and Rindal, CCS 2018).
A secret x = x0 + x1 + x2 mod 2^k; party i holds x_i and x_{i+1}, and one key with each neighbour. The steps of each
protocol stand where it is written: `arithmetic`, `truncation`, `comparison`, `conversion`.

Adversary: one of the three parties that follows the protocol and tries to learn from all it sees (semi-honest).

Assumptions: no two parties put together what they know; channels are confidential and authenticated; AES-256 in
counter mode is a pseudorandom generator; each pair's key is the operating system's randomness and lives for one
session.

Guarantee: what a party sees (its shares, its keys' streams, what it receives) has the same distribution whatever the
secrets are, but for what is opened to it. Shapes, the program and the number of rounds are public.

Functionality of fixed point: truncation rounds probabilistically (see `truncation`); that the low bits of an opened
answer depend on the parties' randomness is part of what is computed, not hidden.

Not promised: correctness or privacy against a party that deviates.

Operations are generators: each yields what it sends and expects in one round (`rounds.Exchange`) and is resumed with
what came. `rounds.together` runs independent ones in step and merges their payloads, so a party sends each other party
at most one message a round.
"""
