"""Three sessions in one process, and the messages between them."""

from foedus_contract.mpc_wire import SessionTerms
from foedus_workloads.mpc.session import Session

DIGEST = "sha256:" + "0" * 64
TERMS = SessionTerms(session=bytes(16), model_digest=DIGEST, program_digest=DIGEST, fraction=16)


def session(index, program, terms=TERMS, incarnation=1):
    entropy = lambda count: bytes([index + 1]) * count
    return Session(index, terms, lambda p: program(p, index), incarnation=incarnation, entropy=entropy)


class Wires:
    """Three sessions in one process; messages lie in the order in which they were sent."""

    def __init__(self, sessions):
        self.sessions = sessions
        self.queues = {(a, b): [] for a in range(3) for b in range(3) if a != b}
        for i, each in enumerate(sessions):
            self.put(i, each.start())

    def put(self, sender, sends):
        for send in sends:
            content = [bytes(part) for part in send.payload]
            self.queues[sender, send.party].append((send.header, b"".join(content)))

    def deliver(self, sender, receiver):
        header, content = self.queues[sender, receiver].pop(0)
        for view in self.sessions[receiver].announce(sender, header):
            view[:] = content[: view.nbytes]
            content = content[view.nbytes :]
        assert not content
        self.put(receiver, self.sessions[receiver].arrived(sender))

    def run(self):
        """Deliver until nobody waits for anything."""
        while self.step():
            pass

    def step(self):
        """Deliver one message that somebody waits for; tell whether there was one."""
        for i, each in enumerate(self.sessions):
            sender = each.waiting_for
            if sender is not None and self.queues[sender, i]:
                self.deliver(sender, i)
                return True
        return False
