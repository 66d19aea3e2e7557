"""JupyterHub servers in sandboxes, through Adrastea's launcher."""

from pathlib import Path

from .spawner import AdrasteaSpawner

__all__ = ["TEMPLATES", "AdrasteaSpawner"]
__version__ = "0.1.0"

TEMPLATES = str(Path(__file__).with_name("templates"))
"""For `c.JupyterHub.template_paths`: the hub's pages say why a server ended."""
