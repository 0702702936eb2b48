"""Bounds on everything that crosses a border; each number has its reason."""

from __future__ import annotations

MAX_SILOS = 50  # the complete secure-aggregation graph costs n² shares; beyond 50 another protocol is needed
MIN_SILOS = 4  # with fewer, t = ⌊2n/3⌋+1 tolerates no dropout
MAX_COORDINATES = 1 << 24  # one masked vector is then 64 MiB, what a coordinator can hold for 50 silos
MAX_ATTEMPTS = 10_000  # rounds plus spare attempts of one job
MAX_ACCOUNTS = 1000  # jobs of one budget: at about 500 bytes each its object stays below half of etcd's 1.5 MiB
MAX_CHARGES = 10_000_000  # releases in one budget: 1,000 accounts of MAX_ATTEMPTS
MAX_RECORDS = 100_000  # a silo's records: δ = 1e-5 must stay below 1/N
MAX_HEADER_BYTES = 256 * 1024  # a roster or share delivery of 50 silos is below 100 KiB
MAX_PAYLOAD_BYTES = 4 * MAX_COORDINATES + 1024 * 1024  # a vector of uint32, or an adapter, and its header
MAX_RESULT_BYTES = 4096  # the kubelet keeps this much of a termination message
MAX_JOURNAL_BYTES = 256 * 1024 * 1024  # MAX_ATTEMPTS with MAX_SILOS names, 4 KiB, in each of a few entries
MAX_MANIFEST_BYTES = 1024 * 1024  # etcd refuses objects above 1.5 MiB
MAX_DATA_BYTES = 4 * 1024**3  # one silo's data file
MAX_LINE_BYTES = 1024 * 1024  # one record of a data file
MAX_LABELS = 100  # classes of one head; a budget's list of them stays below 8 KiB
MAX_LABEL_LENGTH = 63  # as long as the value of a Kubernetes label
RING_BITS = 32  # masked vectors live in Z_2^32
MAX_ROUND_TENSORS = 1024  # of one round of an inference: a few for each of the operations that share it
MAX_INPUT_TENSORS = 16  # a party's shares of one input: a seed, embeddings, a mask
MAX_TOKENS = 4096  # of one text; attention is quadratic, and encoders take 512
MAX_SHARE_BYTES = 64 * 1024**3  # a party's shares of a model: 16 bytes a weight, four billion weights
MAX_TEXTS = 10_000  # of one call of `foedus infer`
MAX_TEXT_BYTES = 1024 * 1024  # one text; what a model takes is far less, and it says so
