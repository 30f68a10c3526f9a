"""Several pictures of one question, laid side by side on one."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.geometry import Box
from medeyes_monai.io import DEFAULT_MAX_VOXELS
from medeyes_monai.io.pictures import SIXTEEN_BIT_MODES

__all__ = ["Tiled", "on_white", "open_picture", "tile"]

GAP = 8
"""White space around each picture. Unit: pixels."""
STRIP = 24
"""Height of the line above a picture that holds its number. Unit: pixels."""
LABEL_WIDTH = 64
"""Least width of a picture's place, so that its number fits. Unit: pixels."""
FORMATS = ("PNG", "JPEG")


@dataclass(frozen=True, slots=True)
class Tiled:
    """Pictures laid on one sheet.

    Args:
        sheet: The sheet, RGB.
        offsets: Where the first pixel of each picture lies on the sheet, ``(x, y)``.
    """

    sheet: Image.Image
    offsets: tuple[tuple[int, int], ...]

    def moved(self, box: Box, number: int) -> Box:
        """Return the region of the sheet that shows a region of one of the pictures.

        Args:
            box: The region. Unit: pixels of the picture.
            number: The picture, from 0.
        """
        x, y = self.offsets[number]
        (left, top), (right, bottom) = box.start, box.stop
        return Box((left + x, top + y), (right + x, bottom + y))


def open_picture(content: bytes, max_pixels: int = DEFAULT_MAX_VOXELS) -> Image.Image:
    """Decode a PNG or JPEG whole, upright, within a limit that is checked before decoding.

    Raises:
        UnreadableImageError: If it is neither, too large, truncated or damaged.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        if math.prod(picture.size) * len(picture.getbands()) > max_pixels:
            raise UnreadableImageError(
                f"declares {picture.width}x{picture.height} pixels, above {max_pixels:,}"
            )
        picture.load()
    except UnidentifiedImageError as error:
        raise UnreadableImageError("is neither PNG nor JPEG, or its beginning is damaged") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        raise UnreadableImageError(f"is truncated or damaged: {error}") from error
    return ImageOps.exif_transpose(picture)


def tile(pictures: Sequence[Image.Image], max_pixels: int = DEFAULT_MAX_VOXELS // 4) -> Tiled:
    """Lay pictures on a white sheet, row by row, each unscaled with "image 1", "image 2", … above it.

    Rows hold as many pictures as there are rows, so that the sheet comes near a square. Transparent pixels
    become white.

    Args:
        pictures: One or more.
        max_pixels: Largest sheet.

    Raises:
        ConfigError: If there are none.
        UnreadableImageError: If the sheet would be too large, or a picture has more than 8 bits a channel.

    Example:
        >>> tiled = tile([Image.new("L", (30, 20)), Image.new("RGB", (10, 40), "red")])
        >>> tiled.sheet.size, tiled.offsets
        ((152, 80), ((8, 32), (80, 32)))
        >>> tiled.moved(Box((0, 0), (10, 40)), 1).corners
        (80, 32, 90, 72)
    """
    if not pictures:
        raise ConfigError("there are no pictures to lay side by side; give at least one")
    columns = math.ceil(math.sqrt(len(pictures)))
    offsets, extent, top = [], [0, 0], 0
    for first in range(0, len(pictures), columns):
        left, row = GAP, pictures[first : first + columns]
        for picture in row:
            offsets.append((left, top + GAP + STRIP))
            left += max(picture.width, LABEL_WIDTH) + GAP
        top += GAP + STRIP + max(picture.height for picture in row)
        extent = [max(extent[0], left), top + GAP]
    if math.prod(extent) > max_pixels:
        raise UnreadableImageError(
            f"{len(pictures)} pictures side by side need {extent[0]}x{extent[1]} pixels, above {max_pixels:,}"
        )
    return Tiled(_drawn(pictures, offsets, (extent[0], extent[1])), tuple(offsets))


def _drawn(
    pictures: Sequence[Image.Image], offsets: Sequence[tuple[int, int]], size: tuple[int, int]
) -> Image.Image:
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for number, (picture, (x, y)) in enumerate(zip(pictures, offsets, strict=True), 1):
        sheet.paste(on_white(picture), (x, y))
        draw.text((x, y - STRIP + 2), f"image {number}", fill="black", font=font)
    return sheet


def on_white(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, white where it is transparent.

    Raises:
        UnreadableImageError: If it has more than 8 bits a channel.
    """
    if picture.mode in SIXTEEN_BIT_MODES:
        raise UnreadableImageError(f"has mode {picture.mode}; a sheet takes pictures of 8 bits a channel")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    colours = picture.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")
