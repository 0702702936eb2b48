"""`python -m foedus_operator.ledger_service`: answer until a signal comes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping

from foedus_contract.errors import FoedusError
from foedus_contract.exit_codes import ExitCode
from foedus_operator.api_server import connect, load_configuration
from foedus_operator.ledger_service.config import Config, read_config
from foedus_operator.ledger_service.service import serve

_logger = logging.getLogger(__name__)


def main() -> None:
    """Run the service and exit."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(run(os.environ))


def run(environ: Mapping[str, str]) -> int:
    """Run until told; return the exit code."""
    try:
        asyncio.run(run_until_told(read_config(environ)))
    except FoedusError as error:
        sys.stderr.write(f"foedus-ledger: {error}\n")
        return int(error.code)
    return int(ExitCode.OK)


async def run_until_told(config: Config) -> None:
    """Serve; SIGTERM and SIGINT end it once the requests under way are answered."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    async with connect(await load_configuration(config.kubeconfig)) as server, serve(server, config) as port:
        _logger.info("serving on port %d", port)
        await told.wait()


if __name__ == "__main__":
    main()
