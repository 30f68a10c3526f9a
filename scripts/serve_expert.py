"""Serves the expert of a configuration over HTTP, for ``RemoteExpert`` (docs/expert_http.md).

    python scripts/serve_expert.py --config bundle/configs/train.yaml
    python scripts/serve_expert.py --config bundle/configs/train.yaml --config configs/vqa_rad.yaml --port 0

The configuration is one that a training reads, or a file with an ``expert`` alone. Of it are built ``expert``
and, for what an expert sees at a first glance, ``scene``, a callable that makes the scene of an image. A
picture comes in as the scene of the client holds it, windowed already, so its ``window`` is left out.

Configurations of MONAI can run code: serve only those that you trust. Listens at this machine only, unless
--host says otherwise, which needs a token. A token is read from an environment variable:

    EXPERT_TOKEN=... python scripts/serve_expert.py --config mine.yaml --host 0.0.0.0 --token-env EXPERT_TOKEN

There is no encryption; between machines, put a server in front that has it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from serving.endpoint import MAX_BYTES, run
from serving.places import Places
from serving.reading import Refused, Request

from medeyes_monai.errors import ConfigError, ExpertError, GeometryError, MedEyesError, UnreadableImageError
from medeyes_monai.experts import Expert, checked
from medeyes_monai.experts.base import axes_of
from medeyes_monai.experts.remote_wire import candidate_record, verdict_record
from medeyes_monai.geometry import Box
from medeyes_monai.io import as_stored, read_image, read_volume
from medeyes_monai.io.configs import check_config, read_setting
from medeyes_monai.io.literals import set_literals
from medeyes_monai.scenes import Finding, ImageScene, Scene, VolumeScene
from medeyes_monai.seeding import seed_of

Maker = Callable[..., Scene]
PICTURE, VOLUME = "png", "nifti.gz"


class ServedExpert:
    """An expert of the package behind the endpoint.

    Args:
        expert: Who is asked.
        makers: What makes a scene of an image, by the image's format; others are refused.
    """

    def __init__(self, expert: Expert, makers: dict[str, Maker]) -> None:
        """Leave out what the expert does not take."""
        self.expert = expert
        held = {PICTURE: 2, VOLUME: 3}
        self.axes = tuple(n for kind, n in held.items() if kind in makers and n in axes_of(expert))
        self.makers = {kind: makers[kind] for kind, n in held.items() if n in self.axes}

    @property
    def name(self) -> str:
        """The expert's name and a digest of how scenes are made, which changes its replies too."""
        made = [repr(sorted(_settings_of(maker).items())) for maker in self.makers.values()]
        return f"{self.expert.name}-{seed_of(*made) % 16**8:08x}"

    def scan(self, request: Request) -> list[dict[str, Any]]:
        """Return the candidates of a scan."""
        scene, places = self._scene(request)
        try:
            found = checked.scan(self.expert, scene, request.query)
        except ExpertError as problem:
            raise Refused(422, "expert", str(problem)) from problem
        return [candidate_record(places.outward(candidate)) for candidate in found]

    def drill(self, request: Request) -> dict[str, Any]:
        """Return the verdict of a drill."""
        scene, places = self._scene(request)
        try:
            box = places.inward(Box.from_corners(request.box))
            return verdict_record(checked.drill(self.expert, scene, box, request.query))
        except ExpertError as problem:
            raise Refused(422, "expert", str(problem)) from problem

    def _scene(self, request: Request) -> tuple[Scene, Places]:
        if request.format not in self.makers:
            raise Refused(422, "image", f"{self.name} takes {', '.join(self.makers)}")
        findings = [Finding(Box.from_corners(f["box"]), f["label"], f["subtle"]) for f in request.findings]
        try:
            image = _read(request)
            scene = self.makers[request.format](image, key=request.key, findings=findings)
        except (UnreadableImageError, GeometryError) as problem:
            raise Refused(422, "image", str(problem)) from problem
        return scene, Places.of(image, scene)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve what the command line asks for."""
    asked = _parser().parse_args(arguments)
    try:
        served = _build(asked.config, dict(map(read_setting, asked.set)))
        token = read_token(asked.token_env)
    except MedEyesError as error:
        sys.exit(f"error: {error}")
    run(served, asked.host, asked.port, token, asked.max_bytes)


def read_token(name: str | None) -> str | None:
    """Return the token that an environment variable holds."""
    if name is None:
        return None
    if not os.environ.get(name):
        raise ConfigError(f"environment variable {name} does not hold a token; set it")
    return os.environ[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", action="append", type=Path, required=True, help="may be repeated: overlays"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override an id")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    parser.add_argument("--token-env", metavar="NAME", help="environment variable with the token to be shown")
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES, help="largest request")
    return parser


def _build(files: Sequence[Path], settings: dict[str, Any]) -> ServedExpert:
    check_config(files[0], files[1:], **settings)
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update(settings)
    if "bundle_root" in parser and "bundle_root" not in settings:
        set_literals(parser, {"bundle_root": str(files[0].resolve().parents[1])})
    if "expert" not in parser:
        raise ConfigError(f"{files[-1].name} defines no expert")
    expert = parser.get_parsed_content("expert")
    makers: dict[str, Maker] = {PICTURE: ImageScene, VOLUME: VolumeScene}
    if "scene" in parser:
        maker = parser.get_parsed_content("scene")
        if getattr(maker, "func", maker) is VolumeScene:
            makers[VOLUME] = maker
        else:
            makers[PICTURE] = partial(maker, window=None) if "window" in _settings_of(maker) else maker
    return ServedExpert(expert, makers)


def _settings_of(maker: Maker) -> dict[str, Any]:
    return getattr(maker, "keywords", {})


def _read(request: Request) -> Any:
    """Return the voxels of an image with their affine, read within limits."""
    suffix = {PICTURE: ".png", VOLUME: ".nii.gz"}[request.format]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"image{suffix}"
        file.write_bytes(request.image)
        return read_image(file) if request.format == PICTURE else as_stored(read_volume(file))


if __name__ == "__main__":
    main()
