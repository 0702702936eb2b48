"""A session of each of three parties."""

from foedus_contract.mpc_wire import SessionTerms
from foedus_workloads.mpc.session import Session

DIGEST = "sha256:" + "0" * 64
TERMS = SessionTerms(session=bytes(16), model_digest=DIGEST, program_digest=DIGEST, fraction=16)


def session(index, program, terms=TERMS, incarnation=1):
    entropy = lambda count: bytes([index + 1]) * count
    return Session(index, terms, lambda p: program(p, index), incarnation=incarnation, entropy=entropy)
