"""`egress serve`: the REST API, in the foreground."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import click

from egress.config import load_config
from egress.errors import InputError

EXAMPLES = """\b
Examples:
  egress serve                                         http://127.0.0.1:7477 and, for root, /run/egress/api.sock
  egress serve --port 8443 --config egress.yaml        another port; TLS as the config says (api: tls_cert, tls_key)
  egress serve --host ''                               the unix socket only
  curl --unix-socket /run/egress/api.sock http://egress/api/v1/allowlist
Stop it with Ctrl-C or SIGTERM: requests that run are finished. The API's own document: /api/v1/openapi.json
"""


@click.command("serve", epilog=EXAMPLES)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file [/etc/egress/egress.yaml].")
@click.option("--host", help="Address to listen on; beats the config's. Empty: only the unix socket.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; beats the config's.")
@click.option("--access-log", is_flag=True, help="Log every request: who, what, status, time.")
def command(config_file: Path | None, host: str | None, port: int | None, access_log: bool) -> None:
    """Serve the allowlist, agents, approvals and records over HTTP, in the foreground, until SIGTERM or Ctrl-C.

    Root on this host needs no token on the unix socket; all others need one (`egress token create`). It needs write
    access to the database, and no other privilege; a gateway need not run.
    """
    from api import server
    from api.app import create_app
    from egress.store.database.database import open_database

    logging.basicConfig(format="egress: %(message)s")
    logging.getLogger("egress").setLevel(logging.INFO)
    logging.getLogger("egress.api.access").setLevel(logging.INFO if access_log else logging.WARNING)
    config = load_config(config_file)
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    config = dataclasses.replace(config, api=dataclasses.replace(config.api, **given))  # type: ignore[arg-type]
    if not config.database and not config.state_dir.is_dir():
        raise InputError(f"there is no directory {config.state_dir} for the database; make it, or set state_dir")
    database = open_database(config.database_url)
    log = logging.getLogger("egress.api")
    if server.is_exposed(config.api):
        log.warning("WARNING: %s is not this host alone and has no TLS: tokens travel in the clear", config.api.host)
    log.info("listening at %s", server.names(config))
    try:
        server.serve(create_app(config, database), config)
    finally:
        database.dispose()
