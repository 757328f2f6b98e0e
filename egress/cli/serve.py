"""`egress serve`: serves the REST API, in the foreground."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import click

from egress import seccomp
from egress.config import load_config
from egress.errors import InputError

EXAMPLES = """\b
Examples:
  egress serve                                         http://127.0.0.1:7477 and, for root, /run/egress/api.sock
  egress serve --port 8443 --config egress.yaml        another port; TLS as the config says (api: tls_cert, tls_key)
  egress serve --host ''                               the unix socket only
  curl --unix-socket /run/egress/api.sock http://egress/api/v1/allowlist
Stop it with Ctrl-C or SIGTERM: running requests are completed. The OpenAPI document: /api/v1/openapi.json
"""


@click.command("serve", epilog=EXAMPLES)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file [/etc/egress/egress.yaml].")
@click.option("--host", help="Address to listen on; overrides the config's. Empty: only the unix socket.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; overrides the config's.")
@click.option("--access-log", is_flag=True, help="Log every request: caller, path, status, time.")
def command(config_file: Path | None, host: str | None, port: int | None, access_log: bool) -> None:
    """Serve the REST API until SIGTERM or Ctrl-C.

    It runs in the foreground and serves the policy, agents, approvals and records. Root on this host needs no token
    on the unix socket; all other callers need one (`egress token create`). The server needs write access to the
    database and no other privilege. It works without a running gateway.
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
        raise InputError(f"directory {config.state_dir}, for the database, does not exist; create it, or set state_dir")
    database = open_database(config.database_url)
    log = logging.getLogger("egress.api")
    if server.is_exposed(config.api):
        log.warning(
            "WARNING: other hosts can reach %s and it has no TLS: tokens are sent in clear text", config.api.host
        )
    if not seccomp.confine(seccomp.API):
        log.warning("no system call filter: use a kernel with CONFIG_SECCOMP_FILTER")
    log.info("listening at %s", server.names(config))
    try:
        server.serve(create_app(config, database), config)
    finally:
        database.dispose()
