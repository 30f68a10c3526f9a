"""MONAI's Pillow reader, bounded: PNG and JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import PILReader
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from medeyes_monai.io.limits import PNG_MAGIC, check_size, only_path

__all__ = ["PictureReader"]

SIXTEEN_BIT_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class PictureReader(PILReader):
    """Read a PNG or JPEG upright (EXIF orientation applied), grey as one channel and colour as three.

    Transparent pixels are laid over black; palettes and CMYK become RGB; 16-bit grey keeps its range.

    Args:
        max_voxels: Most values, channels included.

    Attributes:
        placed: False; a picture does not say how it lies in the patient.
    """

    placed = False

    def __init__(self, max_voxels: int) -> None:
        """Set the limit."""
        super().__init__()
        self.max_voxels = max_voxels

    def holds_slices(self, path: Path) -> bool:
        """Tell that a file holds one slice."""
        return False

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> Image.Image:
        """Open the file, check its declared size, and decode it."""
        path = only_path(data)
        with path.open("rb") as stream:
            is_png = stream.read(len(PNG_MAGIC)) == PNG_MAGIC
            stream.seek(0)
            picture = (PngImageFile if is_png else JpegImageFile)(stream)
            check_size((*picture.size, len(picture.getbands())), 1, self.max_voxels)
            picture.load()
        return _plain(ImageOps.exif_transpose(picture))


def _plain(picture: Image.Image) -> Image.Image:
    """Return a picture in mode L, RGB, or a grey mode of more than eight bits."""
    if picture.mode in ("L", "RGB", *SIXTEEN_BIT_MODES):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if "transparency" in picture.info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        colours = picture.convert("RGBA")
        over_black = Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours)
        return over_black.convert("L" if picture.mode in ("LA", "La") else "RGB")
    return picture.convert("RGB")
