"""The process that keeps every node's packet filter as the NetworkPolicies want it; started by the cluster.

It asks the API server a few times a second. While that does not answer, the rules stay as they are, and new pods stay
closed (see `policies`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.cluster.policies import build_rules, gather_world

PERIOD = 0.3  # seconds; a new pod is cut off for about this long after the API server has told its address
LISTS = ("/api/v1/pods", "/api/v1/namespaces", "/apis/networking.k8s.io/v1/networkpolicies")


class Lists:
    """Reads whole lists over one connection that is kept open."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        url = urlsplit(server)
        self._connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=10)

    def read(self, path: str) -> list[dict[str, Any]]:
        """Return the objects of a list, as the API server has them in memory."""
        try:
            self._connection.request("GET", f"{path}?resourceVersion=0")
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if answer.status != http.client.OK:
            raise OSError(f"{path}: {answer.status} {answer.reason}")
        found: list[dict[str, Any]] = json.loads(body)["items"]
        return found


def main() -> None:
    """Enforce until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--pki", type=Path, required=True)
    parser.add_argument("--node", action="append", nargs=3, metavar=("NAME", "HANDLE", "NETWORK"), required=True)
    asked = parser.parse_args()
    context = ssl.create_default_context(cafile=asked.pki / "ca.crt")
    context.load_cert_chain(asked.pki / "policy-enforcer.crt", asked.pki / "policy-enforcer.key")
    lists = Lists(asked.server, context)
    present: dict[str, str] = {}
    while True:
        try:
            world = gather_world(*(lists.read(path) for path in LISTS))
            for name, handle, network in asked.node:
                rules = build_rules(name, network, world)
                if present.get(name) != rules:
                    subprocess.run(["nsenter", f"--net={handle}", "nft", "-f", "-"], input=rules, text=True, check=True)
                    present[name] = rules
                    report(f"{name}: {len(world.policies)} policies, {len(world.pods)} pods in the cluster")
        except (OSError, http.client.HTTPException, subprocess.CalledProcessError) as error:
            report(f"trying again: {error}")
            time.sleep(1)
        time.sleep(PERIOD)


def report(line: str) -> None:
    """Write a line with the time into the log."""
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
