"""Secure aggregation: the coordinator learns the sum of the silos' vectors mod 2^32 and nothing else.

Protocol: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017
(ePrint 2017/281), the variant for active adversaries (their section 5 and figure 4 with the underlined steps) on
the complete graph. The steps stand in `silo` and `coordinator`; both are pure state machines
(state, event, now, randomness) -> (state, effects) that open nothing and draw nothing themselves.

Adversary: a coordinator that deviates as it likes (drops, replays, forges, shows different things to different
silos) together with up to c silos, and any silo process that stops at any moment.

Assumptions: X25519 with HKDF-SHA256 is a secure key agreement, ChaCha20 a pseudorandom generator,
ChaCha20-Poly1305 a secure AEAD, Ed25519 unforgeable; the identity keys pinned in an honest silo's policy are the
right ones (their section 3's public-key infrastructure); the entropy is the operating system's;
t > (n + c) / 2, which t >= floor(2n/3) + 1 gives for every c < n/3 (their section 6, active adversaries).

Guarantee: what an honest silo sends reveals nothing about its vector but one sum over one set of at least t
silos, of which at least t - c are honest; with fewer than t answers at any stage nothing is revealed.

Not promised: that an attempt ends. A silo that shares garbage or sends a false share makes the attempt abort, and
a silo may put any vector into the sum.

Two additions to the paper. The key signature also covers plan, attempt and the digest of the adapter that the silo
was shown, so that a coordinator cannot give one silo another model (Pasquini, Francati, Ateniese, "Eluding Secure
Aggregation in Federated Learning via Model Inconsistency", CCS 2022). And the signed survivors name the roster, so
that silos which were shown different rosters never complete each other's proof.
"""
