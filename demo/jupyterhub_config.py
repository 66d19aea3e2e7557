"""The demo's JupyterHub: an example to start from.

The hub runs as an ordinary user. All it may do is name what it wants; the launcher's
own configuration decides what that is.
"""

import os
from pathlib import Path

import adrastea

c = get_config()  # noqa: F821

# Servers are started by the launcher on this machine.
c.JupyterHub.spawner_class = "adrastea"
c.AdrasteaSpawner.socket = os.environ["ADRASTEA_SOCKET"]

# The pages say why a server ended.
c.JupyterHub.template_paths = [adrastea.TEMPLATES]

# The address the launcher owns, and the only one of this machine that a sandbox reaches.
c.JupyterHub.hub_bind_url = "http://10.88.0.1:8081"

# Servers are the launcher's: they outlive a restart of the hub.
c.JupyterHub.cleanup_servers = False

# The proxy runs beside the hub, so that a hub that restarts cuts nobody off.
# Both find its token in the environment variable CONFIGPROXY_AUTH_TOKEN.
c.JupyterHub.bind_url = os.environ["DEMO_URL"]
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["DEMO_PROXY_API"]

# Only for the demo: any name, with one password that is new at each run.
# Put your own authenticator here.
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.DummyAuthenticator.password = os.environ["DEMO_PASSWORD"]

# What the hub itself keeps: who logged in, and each running server's token.
state = Path.cwd()
c.JupyterHub.db_url = f"sqlite:///{state / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(state / "cookie_secret")
