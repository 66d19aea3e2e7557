"""Test images on top of the single-user image: an OCI layout in a directory, without
the first image's layer, which containerd has by then.

Must never change the single-user image or its archive.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from common import TOOLS, ToolError

BASE = TOOLS / "singleuser.oci.tar"
BASE_DIGEST = TOOLS / "singleuser.digest"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def base(names: list[str]) -> tuple[dict[str, object], dict[str, str]]:
    """The base layer's descriptor, and the text of these files in it."""
    if not BASE.exists():
        raise ToolError("failed to find the single-user image (run images/singleuser/build first)")
    with tarfile.open(BASE) as archive:

        def blob(digest: str) -> io.BufferedReader:
            file = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert isinstance(file, io.BufferedReader)
            return file

        manifest = json.load(blob(BASE_DIGEST.read_text().strip()))
        [layer] = manifest["layers"]
        found: dict[str, str] = {}
        with tarfile.open(fileobj=blob(layer["digest"])) as tree:
            for entry in tree:
                if entry.name.removeprefix("./") in names:
                    file = tree.extractfile(entry)
                    assert file is not None
                    found[entry.name.removeprefix("./")] = file.read().decode()
                    if len(found) == len(names):
                        break
    return layer, found


class Layout:
    """A layout in the making."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)

    def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / digest).write_bytes(content)
        return f"sha256:{digest}"

    def _put_json(self, media: str, value: object) -> dict[str, object]:
        content = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        return {"mediaType": media, "digest": self.put(content), "size": len(content)}

    def layer(self, content: bytes) -> dict[str, object]:
        return {"mediaType": LAYER, "digest": self.put(content), "size": len(content)}

    def layer_of_file(self, file: Path) -> dict[str, object]:
        """Moves a tar into the layout."""
        with open(file, "rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        size = file.stat().st_size
        file.rename(self.directory / "blobs/sha256" / digest)
        return {"mediaType": LAYER, "digest": f"sha256:{digest}", "size": size}

    def finish(
        self,
        layers: list[dict[str, object]],
        settings: dict[str, object],
        annotations: dict[str, str] | None = None,
    ) -> str:
        """Writes manifest and index; answers the manifest's digest."""
        # Plain tars: a layer's own digest is that of what it unpacks to.
        tree = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = {"architecture": "amd64", "os": "linux", "config": settings, "rootfs": tree}
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._put_json(CONFIG, config),
            "layers": layers,
        }
        if annotations:
            manifest["annotations"] = annotations
        entry = self._put_json(MANIFEST, manifest)
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return str(entry["digest"])
