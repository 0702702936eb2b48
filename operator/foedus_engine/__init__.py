"""The brain: what should exist, decided by pure functions, and the loop that makes it so."""
