"""Sessions in one process, and the messages between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any


class Wires:
    """Sessions by their members' numbers; messages lie in the order in which they were sent, `carried` keeps all."""

    def __init__(self, sessions: Sequence[Any] | Mapping[int, Any]) -> None:
        self.sessions = sessions
        self._members = sessions if isinstance(sessions, Mapping) else dict(enumerate(sessions))
        self.queues: dict[tuple[int, int], list[tuple[bytes, bytes]]] = defaultdict(list)
        self.carried: list[tuple[int, int, bytes, bytes]] = []
        for member, each in self._members.items():
            self.put(member, each.start())

    def put(self, sender: int, sends: Any) -> None:
        for send in sends:
            content = b"".join(bytes(part) for part in send.payload)
            self.carried.append((sender, send.party, send.header, content))
            self.queues[sender, send.party].append((send.header, content))

    def deliver(self, sender: int, receiver: int) -> None:
        header, content = self.queues[sender, receiver].pop(0)
        for view in self.sessions[receiver].announce(sender, header):
            view[:] = content[: view.nbytes]
            content = content[view.nbytes :]
        assert not content
        self.put(receiver, self.sessions[receiver].arrived(sender))

    def run(self) -> None:
        """Deliver until nobody waits for anything."""
        while self.step():
            pass

    def step(self) -> bool:
        """Deliver one message that somebody waits for; tell whether there was one."""
        for member, each in self._members.items():
            sender = each.waiting_for
            if sender is not None and self.queues[sender, member]:
                self.deliver(sender, member)
                return True
        return False
