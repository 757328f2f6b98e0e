"""`egress open`: lets the attached agents reach the network unguarded while no gateway runs, on purpose."""

from __future__ import annotations

import time
from pathlib import Path

import click

from egress.config import load_config
from egress.errors import EgressError

EXAMPLES = """\b
Examples:
  egress open          agents are UNGUARDED until `egress block`, a start of the gateway or a reboot
  egress open --yes    the same, without a question
"""


@click.command("open", epilog=EXAMPLES)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file.")
def command(config_file: Path | None, *, yes: bool) -> None:
    """Let the blocked agents of this host out.

    Their traffic is unguarded and unrecorded until `egress block`, the next start of the gateway, or a reboot. Needs
    root, and a gateway that is stopped. The audit trail gets an entry first, so the database must be available. Until
    the agents are guarded or blocked again, `egress doctor` fails and names them.
    """
    from egress.gateway.supervisor import rest
    from egress.store.database.database import open_database, writing
    from egress.store.policy import audit
    from egress.store.policy.agents import list_agents

    config, actor = load_config(config_file), audit.local_actor()
    if not yes:
        click.confirm("Agents will reach the network unguarded and unrecorded. Continue?", abort=True)
    database = open_database(config.database_url, create=False)
    try:
        with rest.stopped(config), writing(database) as connection:
            mine = None if database.dialect.name == "sqlite" else config.host_name
            agents = tuple(stored.agent.name for stored in list_agents(connection, mine))
            now = time.time()
            audit.note(connection, actor, now, "agents.opened", config.host_name, None, {"agents": agents})
        rest.open_up(config, rest.Opened(actor.name, now, agents))
    except OSError as error:
        raise EgressError(f"cannot open the agents: {error.strerror or error}") from None
    finally:
        database.dispose()
    click.echo(
        f"UNGUARDED until `egress block`, the gateway's next start or a reboot: {', '.join(agents) or 'nothing'}"
    )
