"""JupyterHub servers in sandboxes, through Adrastea's launcher."""

from .spawner import AdrasteaSpawner

__all__ = ["AdrasteaSpawner"]
__version__ = "0.1.0"
