"""Mutants of what a person fetches from a cluster: each comparison with what the job's result names."""

from __future__ import annotations

from attacks.mutants import Patch, fails

STREAM = "sdk/foedus/cluster/stream.py"
DELIVERY = "workloads/foedus_contract/delivery.py"
OF_STREAM = "unit/foedus/test_cluster_stream.py"

CLIENT_MUTANTS = {
    "downloads-not-compared-with-the-result": fails(
        f"{OF_STREAM}::test_files_that_the_result_does_not_name_are_not_written",
        Patch(STREAM, "    if expected and delivery.digest() != expected:", "    if False:"),
    ),
    "downloaded-bytes-not-compared": fails(
        f"{OF_STREAM}::test_what_is_not_the_delivery_is_refused",
        Patch(STREAM, "    if found != file.digest:", "    if False:"),
    ),
    "any-file-name-taken": fails(
        f"{OF_STREAM}::test_what_is_not_the_delivery_is_refused",
        Patch(DELIVERY, 'FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"', 'FILE_NAME = r"^.*$"'),
    ),
}
