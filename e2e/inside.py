"""What a process inside a pod finds: on which ports the pod listens, what it reaches, how a port is to be spoken to.

The programs here run in the pods of Foedus, whose images have Python; each prints one JSON value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from e2e.cluster.kubectl import Kubectl

SILENT, REFUSED, OPEN = "silent", "refused", "open"

# State 0A is LISTEN; of UDP, 07 is a socket that waits for anybody. Which address it is says who reaches it.
_LISTENING = """
import json, pathlib
found = []
for kind, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
    for line in pathlib.Path("/proc/net", kind).read_text().splitlines()[1:]:
        place, theirs, is_in = line.split()[1:4]
        if is_in == state:
            address, port = place.split(":")
            found.append([kind, "everybody" if set(address) == {"0"} else address, int(port, 16)])
print(json.dumps(sorted(found)))
"""

_REACHES = """
import concurrent.futures, json, socket, sys
def connect(place):
    try:
        socket.create_connection(place, 4).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "silent"
    return "open"
places = json.load(sys.stdin)
with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
    print(json.dumps(list(pool.map(connect, map(tuple, places)))))
"""

# In TLS 1.3 a server refuses a client's certificate after the handshake: what counts is whether it answers.
_SPEAKS = """
import json, os, socket, ssl, sys
def held(text):
    file = os.memfd_create("pem")
    os.write(file, text.encode())
    return f"/proc/self/fd/{file}"
def answer(host, port, way):
    with socket.create_connection((host, port), 10) as plain:
        channel = plain
        if not way["plain"]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if way["old"]:
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            if way["certificate"]:
                context.load_cert_chain(held(way["certificate"]), held(way["key"]))
            channel = context.wrap_socket(plain, server_hostname=host)
        channel.sendall(b"GET /nothing HTTP/1.1\\r\\nHost: " + host.encode() + b"\\r\\nConnection: close\\r\\n\\r\\n")
        return channel.recv(64).split(b"\\r\\n")[0].decode("ascii", "replace")
host, port, ways = json.load(sys.stdin)
found = {}
for name, way in ways.items():
    try:
        found[name] = answer(host, port, way)
    except OSError as error:
        found[name] = getattr(error, "reason", None) or type(error).__name__
print(json.dumps(found))
"""

_FETCHES = """
import json, ssl, sys, urllib.request
url, token = json.load(sys.stdin)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
asked = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
with urllib.request.urlopen(asked, timeout=10, context=context) as answer:
    print(json.dumps(answer.read(1 << 20).decode()))
"""


@dataclass(frozen=True)
class Way:
    """A way to speak to a port: in plain text, with TLS 1.2 at most, or with a client's certificate (PEM) or none."""

    plain: bool = False
    old: bool = False
    certificate: str = ""
    key: str = ""


def listening(kubectl: Kubectl, namespace: str, pod: str) -> list[tuple[str, str, int]]:
    """Return what the pod listens on: protocol, who may connect, port."""
    return [tuple(each) for each in _run(kubectl, namespace, pod, _LISTENING)]


def reaches(kubectl: Kubectl, namespace: str, pod: str, places: Iterable[tuple[str, int]]) -> list[str]:
    """Return of each address and port whether a connection from the pod is open, refused, or nobody answers."""
    return list(_run(kubectl, namespace, pod, _REACHES, list(places)))


def speaks(
    kubectl: Kubectl, namespace: str, pod: str, place: tuple[str, int], ways: Mapping[str, Way]
) -> dict[str, str]:
    """Return of each way the first line that the port answers to the pod, or why there is none."""
    asked = [*place, {name: asdict(way) for name, way in ways.items()}]
    return dict(_run(kubectl, namespace, pod, _SPEAKS, asked))


def fetched(kubectl: Kubectl, namespace: str, pod: str, url: str, token: str) -> str:
    """Return what is at `url` for who is in the pod and shows a token."""
    return str(_run(kubectl, namespace, pod, _FETCHES, [url, token]))


def _run(kubectl: Kubectl, namespace: str, pod: str, program: str, asked: object = None) -> Any:
    command = ("-n", namespace, "exec", "-i", pod, "--", "python", "-c", program)
    return json.loads(kubectl(*command, stdin=json.dumps(asked)))


def signed_like(certificate: bytes, issuer_key: bytes | None, begin: datetime, end: datetime) -> Way:
    """Return a copy of a certificate (PEM) with a new key and other dates, signed with the issuer's key (PEM).

    Without that a stranger signs it who has the issuer's name.
    """
    model, key = x509.load_pem_x509_certificate(certificate), ec.generate_private_key(ec.SECP256R1())
    stranger = ec.generate_private_key(ec.SECP256R1())
    signer: Any = serialization.load_pem_private_key(issuer_key, None) if issuer_key else stranger
    made = x509.CertificateBuilder().subject_name(model.subject).issuer_name(model.issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
    for extension in model.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier):
            made = made.add_extension(extension.value, extension.critical)
    pem = made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Way(certificate=pem.decode(), key=secret.decode())
