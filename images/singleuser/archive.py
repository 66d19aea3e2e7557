"""Writes a root file system as an OCI archive with one plain tar layer.

The same tree gives the same bytes: names are sorted, times are zero.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def _sha256(file: Path) -> str:
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _blob(value: object) -> tuple[str, bytes]:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest(), data


def write(root: Path, archive: Path, reference: str, settings: dict[str, object]) -> str:
    """Writes `archive` and answers the manifest's digest."""
    layer = archive.with_suffix(".layer")
    # Without --xattrs: a file capability has no business in the image.
    subprocess.run(
        [
            "tar",
            "--numeric-owner",
            "--sort=name",
            "--mtime=@0",
            "--one-file-system",
            "--format=gnu",
            "-C",
            root,
            "-cf",
            layer,
            ".",
        ],
        check=True,
    )
    layer_digest = _sha256(layer)
    config_digest, config = _blob(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        }
    )
    manifest_digest, manifest = _blob(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": f"sha256:{config_digest}", "size": len(config)},
            "layers": [
                {"mediaType": LAYER, "digest": f"sha256:{layer_digest}", "size": layer.stat().st_size}
            ],
        }
    )
    _, index = _blob(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": f"sha256:{manifest_digest}",
                    "size": len(manifest),
                    "annotations": {
                        "io.containerd.image.name": reference,
                        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
                    },
                }
            ],
        }
    )
    _, layout = _blob({"imageLayoutVersion": "1.0.0"})
    fresh = archive.with_suffix(".new")
    with tarfile.open(fresh, "w", format=tarfile.GNU_FORMAT) as tar:
        small = {
            "oci-layout": layout,
            "index.json": index,
            f"blobs/sha256/{config_digest}": config,
            f"blobs/sha256/{manifest_digest}": manifest,
        }
        for name, data in small.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo(f"blobs/sha256/{layer_digest}")
        entry.size = layer.stat().st_size
        with open(layer, "rb") as data:
            tar.addfile(entry, data)
    layer.unlink()
    fresh.rename(archive)
    return f"sha256:{manifest_digest}"
