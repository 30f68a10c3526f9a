"""The path of looks drawn over the images themselves: DICOM Grayscale Softcopy Presentation States."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import highdicom as hd
from highdicom import pr
from pydicom import Dataset
from pydicom.multival import MultiValue

from medeyes_monai.deploy import codes as own
from medeyes_monai.deploy.result import FocusResult, Look
from medeyes_monai.deploy.source import Source

__all__ = ["presentations_of"]

SERIES_NUMBER = 9904
BANNER = (0.02, 0.02, 0.98, 0.08)
"""Where the notice stands: left, top, right, bottom, as shares of what is shown."""
WINDOW = ("WindowCenter", "WindowWidth")


def presentations_of(
    source: Source, results: Sequence[FocusResult]
) -> list[pr.GrayscaleSoftcopyPresentationState]:
    """Return states that draw the outline and the number of each look on each image that it lies on.

    Numbers are those of the structured report: of the question, a dot, and of the look. Images are shown as
    their own headers say. A state has one rescaling, so images with different ones (as in PET) get several.

    Args:
        source: The series.
        results: What was found in it.

    Returns:
        The states; none without a look, and for colour and files of several frames, whose rescaling may
        change from frame to frame.
    """
    looks: dict[int, list[tuple[str, Look]]] = {}
    for number, result in enumerate(results, start=1):
        for order, look in enumerate(result.looks, start=1):
            for k in range(look.box.start[2], look.box.stop[2]):
                looks.setdefault(k, []).append((f"{number}.{order}", look))
    alike: dict[tuple[str, ...], list[int]] = {}
    for k in sorted(looks):
        if _is_plain(source.headers[k]):
            alike.setdefault(_rescaling(source.headers[k]), []).append(k)
    series = hd.UID()
    return [
        _state(source, {k: looks[k] for k in slices}, {"series_instance_uid": series, "instance_number": n})
        for n, slices in enumerate(alike.values(), start=1)
    ]


def _state(
    source: Source, looks: dict[int, list[tuple[str, Look]]], place: dict[str, Any]
) -> pr.GrayscaleSoftcopyPresentationState:
    images = {k: _shown(source.headers[k]) for k in looks}
    layers = [pr.GraphicLayer("LOOKS", order=1), pr.GraphicLayer("NOTICE", order=2)]
    drawn = [
        pr.GraphicAnnotation(
            referenced_images=[images[k]],
            graphic_layer=layers[0],
            graphic_objects=[pr.GraphicObject("POLYLINE", look.outline, "PIXEL") for _, look in there],
            text_objects=[
                pr.TextObject(name, "PIXEL", anchor_point=tuple(look.outline[0]), anchor_point_visible=False)
                for name, look in there
            ],
        )
        for k, there in looks.items()
    ]
    notice = pr.TextObject(own.NOTICE, "DISPLAY", bounding_box=BANNER)
    above = pr.GraphicAnnotation(list(images.values()), layers[1], text_objects=[notice])
    first = next(iter(images.values()))
    dark = {first.get("PhotometricInterpretation"), first.get("PresentationLUTShape")}
    shape = "INVERSE" if dark & {"MONOCHROME1", "INVERSE"} else "IDENTITY"
    made = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=list(images.values()),
        content_label="LOOKS",
        content_description=own.TITLE,
        graphic_annotations=[*drawn, above],
        graphic_layers=layers,
        presentation_lut_transformation=hd.PresentationLUTTransformation(presentation_lut_shape=shape),
        **own.new_object(SERIES_NUMBER) | place,
    )
    made.Laterality = first.get("Laterality") or ""
    return made


def _is_plain(header: Dataset) -> bool:
    return header.get("SamplesPerPixel") == 1 and int(header.get("NumberOfFrames", 1) or 1) == 1


def _rescaling(header: Dataset) -> tuple[str, ...]:
    names = ("RescaleSlope", "RescaleIntercept", "RescaleType", "PhotometricInterpretation")
    return tuple(str(header.get(name)) for name in names)


def _shown(header: Dataset) -> Dataset:
    """Return a header with its first window alone, since a state may have one; none if it is no window."""
    centres, widths = (_numbers(header.get(name)) for name in WINDOW)
    image = Dataset()
    image.update({one.tag: one for one in header if one.keyword not in WINDOW})
    if centres and len(centres) == len(widths) and widths[0] >= 1:
        image.WindowCenter, image.WindowWidth = centres[0], widths[0]
    return image


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, (MultiValue, list)) else [value]
    try:
        numbers = [float(one) for one in values]
    except (TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
