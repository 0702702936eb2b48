"""Private inference by two or more parties and a dealer on additive shares over Z_2^64 (`CrypTen`).

Protocol: Beaver's ("Efficient Multiparty Protocols Using Circuit Randomization", CRYPTO 1991) with a dealer for the
correlated randomness, by CrypTen 0.4.1 (Knott et al., NeurIPS 2021): its share classes and its Beaver protocol run
here unchanged (`shims`, `beaver`). Transport, randomness, truncation, comparison and every function above them are this
package's. A secret x = x_0 + ... + x_{n-1} mod 2^64; party i holds x_i.

Adversary: up to n - 1 of the parties, or the dealer alone, who follow the protocol and learn from all they see.

Assumptions: the dealer puts together what it knows with no party; channels are confidential and authenticated; AES-256
in counter mode is a pseudorandom generator; the dealer's keys are its operating system's randomness and live for one
session. The masks of the weights live as long as a sharing does: they are the owner's, see `sharing`.

Guarantee: all that parties open is masked by values that the dealer drew and no party knows, so what n - 1 parties see
has the same distribution whatever the secrets are, but for what is opened to them. The dealer sends and is sent nothing
but a greeting by each party: it sees the program, which is public, and nothing that is opened.

Functionality of fixed point: truncation rounds probabilistically (`truncation`), and that is part of what is computed.

Not promised: correctness or privacy against a party or a dealer that deviates.

Operations are generators that yield what they open (`openings.Opening`) and are resumed with what came out; what the
dealer deals, a party takes from its `deals.Deals` meanwhile. A party sends each other party one message a round.
"""
