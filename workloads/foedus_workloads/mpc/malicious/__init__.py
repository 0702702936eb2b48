"""Private inference by three parties, one of which may do anything (`Replicated3PCMalicious`): right, or no answer.

Not externally reviewed. The shares are those of `Replicated3PC`; each product, conversion and rounding is computed
optimistically, every claim is kept, and all claims are checked before a share of the result leaves a party.

Adversary: one of the three parties, chosen beforehand, which deviates at will and sees each round's messages of the
others before it sends its own (static, rushing). Model's owner and client may be malicious too, as far as inconsistent
shares go; whoever deals shares of another text or model gets another answer.

Assumptions: no two parties put together what they know; channels are confidential and authenticated; AES-256 in counter
mode is a pseudorandom generator, GMAC with a fresh key an unforgeable authenticator, SHA-256 a binding and hiding
commitment of 32 random bytes; each party draws its key and its coins from the operating system.

Guarantee: security with abort. Either the answer is what the program gives for the inputs, rounding included, or the
session ends with an error at a party that follows the protocol; a false answer has probability at most 2^-40
(`SECURITY`)
whatever the adversary does, since it must pass the first check that it has to fear. What a party sees before the
session
ends is uniform whatever the secrets are, and whether it ends depends on what the adversary did, not on secrets, except
with that probability. Not promised: that there is an answer, or who cheated.

Steps of a session:
1. Holders of the same component compare it, for all weights and inputs (`transcripts`).
2. The program runs. Every value has two copies of each component; a party can add an error to a product that it shares,
   and to nothing else:
   - products and ANDs: `products`; matrix products: `matrices`; each remembers factors and result;
   - bits to arithmetic: `bits`, with random bits that were compared with others when they were made (check C);
   - rounding: `truncation`, whose masked value two parties are told by one and compare with what the third, who knows
     it too, would have said; signs: `comparison`.
3. The result is shared anew, and that the difference is zero goes into the transcripts.
4. `audit.Audit.settle`: coins are tossed when everything that they decide on is fixed (`coins`); products and ANDs are
   compared with random ones (check B), where they meet is decided by coins (`buckets`); matrix products by random
   projections (check A); what must be equal at two parties goes into the transcripts, and these are compared last.
5. Each party sends the client both its components; the client compares the copies.

Sources: Furukawa, Lindell, Nof and Weinstein (EUROCRYPT 2017) and Araki et al. (IEEE S&P 2017) for comparing with
random ones, turns of prime rows instead of their shuffles; Mohassel and Rindal (CCS 2018) for mixed shares; Rotaru and
Wood (INDOCRYPT 2019) for bits that are shared in both ways; Escudero et al. (CRYPTO 2020) for rounding by an opened
mask; Freivalds' projections for matrices. The composition is Foedus' own.
"""
