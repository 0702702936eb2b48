"""One silo's session at the coordinator, as plain data: each frame arrives once and in order, both ways.

Coordinator to silo: frames get sequence numbers and stay in the outbox until the silo acknowledges them, so an
answer lost on the way is delivered again. Silo to coordinator: each frame carries the next sequence number, so a
retry after a lost answer is recognised and not applied twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foedus_contract.errors import InvalidInput, Unavailable

# An attempt sends a silo six frames; a silo that has left two attempts' worth unread is treated as gone.
MAX_UNREAD_FRAMES = 16


@dataclass(frozen=True)
class Mailbox:
    """What is on its way to one silo, and the last frame taken from it."""

    session: str
    incarnation: int
    outbox: tuple[tuple[int, bytes], ...] = ()
    sent: int = 0
    applied: int = 0

    def push(self, frame: bytes) -> Mailbox:
        """Return the mailbox with `frame` as the newest to deliver; raises Unavailable when it is full."""
        if len(self.outbox) >= MAX_UNREAD_FRAMES:
            raise Unavailable("the silo does not read its messages")
        return replace(self, outbox=(*self.outbox, (self.sent + 1, frame)), sent=self.sent + 1)

    def acknowledge(self, sequence: int) -> Mailbox:
        """Return the mailbox without the frames up to `sequence`; raises InvalidInput for one never sent."""
        if sequence > self.sent:
            raise InvalidInput("acknowledges a frame that was never sent", where="session")
        return replace(self, outbox=tuple(item for item in self.outbox if item[0] > sequence))

    def take(self, sequence: int) -> Mailbox | None:
        """Return the mailbox after the silo's frame `sequence`, or None for a repeat of one already applied.

        Raises InvalidInput for a frame from the future: one before it is missing.
        """
        if sequence <= self.applied:
            return None
        if sequence != self.applied + 1:
            raise InvalidInput("a frame is missing before this one", where="session")
        return replace(self, applied=sequence)

    @property
    def first(self) -> tuple[int, bytes] | None:
        """The oldest frame that is not acknowledged, with its sequence number."""
        return self.outbox[0] if self.outbox else None
