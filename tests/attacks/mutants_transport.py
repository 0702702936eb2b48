"""Mutants of the transport between silos and coordinator, and of what the operator asks it. Tests fail."""

from __future__ import annotations

from attacks.mutants import Patch, fails

UNIT = "unit/foedus_workloads"
WORKLOADS = "workloads/foedus_workloads"
SERVER, SESSIONS, TLS = (f"{WORKLOADS}/transport/{name}.py" for name in ("server", "sessions", "tls"))
WIRE = "workloads/foedus_contract/wire.py"
PAGES = "test_what_the_coordinator_says_of_itself_is_for_silos_of_the_job_and_the_operator"

TRANSPORT_MUTANTS = {
    "client-certificate-not-asked-for": fails(
        f"{UNIT}/test_transport.py::test_tls_1_2_and_peers_without_certificate_get_nothing",
        Patch(
            TLS,
            "    context = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)\n",
            "    context = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)\n    context.verify_mode = ssl.CERT_NONE\n",
        ),
    ),
    "tls-1-2-accepted": fails(
        f"{UNIT}/test_transport.py::test_tls_1_2_and_peers_without_certificate_get_nothing",
        Patch(TLS, "ssl.TLSVersion.TLSv1_3\n", "ssl.TLSVersion.TLSv1_2\n"),
    ),
    "coordinators-name-not-checked": fails(
        f"{UNIT}/test_transport.py::test_a_coordinator_with_another_name_is_refused",
        Patch(TLS, "    context.check_hostname = True", "    context.check_hostname = False"),
    ),
    "another-silos-name": fails(
        f"{UNIT}/test_transport.py::test_bodies_that_are_malformed_oversized_slow_or_another_silos_are_refused",
        Patch(
            SERVER,
            '        if isinstance(message, Join) or getattr(message, "silo", None) != silo:',
            "        if isinstance(message, Join):",
        ),
    ),
    "another-jobs-certificate": fails(
        f"{UNIT}/test_transport.py::test_foreign_certificates_are_refused",
        Patch(TLS, " or not uri.startswith(prefix):", ":"),
        Patch(TLS, "uri.removeprefix(prefix)", 'uri.rpartition("/")[2]'),
    ),
    "other-code-joins": fails(
        f"{UNIT}/test_transport.py::test_foreign_certificates_are_refused",
        Patch(SESSIONS, "        if message.code_digest != self._code_digest:", "        if False:"),
    ),
    "incarnation-not-compared": fails(
        f"{UNIT}/test_transport.py::test_a_higher_incarnation_takes_over_and_a_lower_one_is_refused",
        Patch(SESSIONS, "        if incarnation < self._fences.get(silo, 0):", "        if incarnation < 0:"),
    ),
    "frames-not-bounded": fails(
        "unit/foedus_contract/test_wire.py::test_a_payload_above_the_limit_is_refused",
        Patch(WIRE, "    if len(frame) - 4 - length > limits.MAX_PAYLOAD_BYTES:", "    if False:"),
    ),
    "bodies-not-bounded": fails(
        f"{UNIT}/test_transport.py::test_bodies_that_are_malformed_oversized_slow_or_another_silos_are_refused",
        Patch(f"{WORKLOADS}/transport/framing.py", "    if length > payload_limit:", "    if length < 0:"),
    ),
    "connections-not-counted": fails(
        f"{UNIT}/test_transport.py::test_of_one_silos_connections_the_newest_are_kept",
        Patch(SERVER, "            if count[silo] > MAX_CONNECTIONS:", "            if False:"),
        shows="TimeoutError",
    ),
    "pages-shown-to-any-certificate": fails(
        f"{UNIT}/test_transport.py::{PAGES}",
        Patch(SERVER, "            if not is_operator(", "            if False and is_operator("),
    ),
    "any-jobs-operator-answered": fails(
        f"{UNIT}/test_transport.py::{PAGES}",
        Patch(
            TLS,
            "== operator_uri(namespace, job)",
            '== (_only_uri(peer_certificate) or "//").rpartition("/")[0] + "/operator"',
        ),
    ),
    "operator-takes-a-silos-place": fails(
        f"{UNIT}/test_transport.py::test_the_operators_certificate_opens_nothing_but_pages",
        Patch(
            SERVER,
            "        silo = silo_of(_certificate(transport), namespace=self._namespace, job=self._job)\n",
            "        asking = is_operator(_certificate(transport), namespace=self._namespace, job=self._job)\n"
            '        silo = "a" if asking else silo_of(_certificate(transport), namespace=self._namespace, job=self._job)\n',
        ),
    ),
    "operator-hears-anybody": fails(
        "unit/foedus_operator/test_coordinator_pages.py::test_otherwise_the_log_is_read",
        Patch(
            "operator/foedus_operator/coordinator_pages.py",
            "    context.minimum_version = ssl.TLSVersion.TLSv1_3\n",
            "    context.minimum_version = ssl.TLSVersion.TLSv1_3\n    context.check_hostname = False\n",
        ),
    ),
}
