"""A head of a silo's charge log, for joins whose head nobody looks at."""

from foedus_contract.wire import LedgerHead

# The end of an empty log, signed by nobody.
ANY_HEAD = LedgerHead(dataset="sha256:" + "0" * 64, count=0, hash="sha256:" + "0" * 64, signature=bytes(64))
