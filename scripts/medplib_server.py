r"""Serves MedPLIB (arXiv 2412.09278) as an expert for ``RemoteExpert``, in MedPLIB's own environment.

    git clone https://github.com/ShawnHuang497/MedPLIB
    python medplib_server.py --repository MedPLIB --checkpoint path/to/MedPLIB-7b-2e \
        --sam path/to/sam-med2d_b.pth --port 8765

MedPLIB pins libraries of 2023, so it runs in a process of its own. There: Python 3.8 or later, what its
``requirements.txt`` lists, and this file with the folder ``serving`` beside it; medeyes_monai is not needed.

**Not tested: the model.** Its weights were not at hand, so loading and asking it follow its repository by
reading alone (``serving/medplib_model.py``). What is around it, the interface of docs/expert_http.md, is
tested with a stand-in of the same two methods.

What is asked. A scan asks for a segmentation of the whole picture (the model answers with ``<SEG>``);
connected parts of its mask become candidates. A drill asks for the same on the crop, which gives the
confidence, and about ``<region>`` on the whole picture, which gives the finding and the answer. **The
confidence is the mean probability of the mask** inside a part (of a drill: of all that is marked in the crop,
0 where nothing is). It is not calibrated.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import sys

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, label
from serving.endpoint import MAX_BYTES, run
from serving.medplib_model import MARKS, MedPLIB
from serving.reading import Refused

SCAN_PROMPT = "Could you segment out all regions in this image that matter for the question: {query}"
FINDING_PROMPT = "Can you describe what is seen at the area <region>?"
ANSWER_PROMPT = "With regard to the area <region>: {query}"
THRESHOLD = 0.1
"""Probability from which MedPLIB's own demonstration counts a pixel as marked."""
MAX_PIXELS = 2**26
MIN_PIXELS = 16
"""Smallest part of a mask that becomes a candidate."""


class MedPLIBExpert:
    """MedPLIB, or anything with its two methods, behind the interface.

    Args:
        model: Has ``segment(picture, prompt)`` and ``tell(picture, prompt, box)`` as ``MedPLIB``.
        version: Name of the weights.
        max_candidates: Most candidates of a scan.
        threshold: Probability from which a pixel is marked.
    """

    axes = (2,)

    def __init__(self, model, version, max_candidates=8, threshold=THRESHOLD):
        """Keep the settings, which are part of the name."""
        self.model, self.max_candidates, self.threshold = model, max_candidates, threshold
        settings = repr((version, max_candidates, threshold, SCAN_PROMPT, FINDING_PROMPT, ANSWER_PROMPT))
        self.name = "medplib-" + hashlib.sha256(settings.encode()).hexdigest()[:16]

    def scan(self, request):
        """Return a candidate for each connected part of the mask, the most confident first."""
        shown = self.model.segment(
            read_picture(request), SCAN_PROMPT.replace("{query}", plain(request.query))
        )
        if shown is None:
            return []
        numbered, _ = label(shown > self.threshold)
        found = [
            self._candidate(shown[place], numbered[place] == number, place)
            for number, place in enumerate(find_objects(numbered), start=1)
            if np.count_nonzero(numbered[place] == number) >= MIN_PIXELS
        ]
        found.sort(key=lambda candidate: (-candidate["confidence"], candidate["box"]))
        return found[: self.max_candidates]

    def drill(self, request):
        """Return what is marked in the crop, and what is said of the region."""
        picture = read_picture(request)
        x1, y1, x2, y2 = request.box
        if x2 > picture.shape[1] or y2 > picture.shape[0]:
            raise Refused(400, "box", "the box is not inside the image")
        query = plain(request.query)
        shown = self.model.segment(picture[y1:y2, x1:x2], SCAN_PROMPT.replace("{query}", query))
        marked = shown[shown > self.threshold] if shown is not None else np.zeros(0)
        return {
            "confidence": mean_of(marked),
            "finding": self.model.tell(picture, FINDING_PROMPT, request.box),
            "answer": self.model.tell(picture, ANSWER_PROMPT.replace("{query}", query), request.box) or None,
        }

    @staticmethod
    def _candidate(shown, part, place):
        rows, columns = place
        bits = np.packbits(np.ascontiguousarray(part.T))
        return {
            "box": [int(v) for v in (columns.start, rows.start, columns.stop, rows.stop)],
            "confidence": mean_of(shown[part]),
            "finding": "segmented region",
            "mask": base64.b64encode(bits.tobytes()).decode("ascii"),
        }


def read_picture(request):
    """Return the pixels of a request, ``uint8 (rows, columns, 3)``.

    Raises:
        Refused: If it is no PNG that can be read, or too large.
    """
    if request.format != "png":
        raise Refused(422, "image", "MedPLIB takes pictures, as png")
    try:
        with Image.open(io.BytesIO(request.image), formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Refused(422, "image", f"the picture has more than {MAX_PIXELS} pixels")
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise Refused(422, "image", "the picture cannot be read as PNG") from problem


def mean_of(probabilities):
    """Return the mean of probabilities, 0 where there are none."""
    return min(1.0, float(probabilities.mean(dtype=np.float64))) if probabilities.size else 0.0


def plain(query):
    """Return a question without what the model would take for its own marks.

    Example:
        >>> plain("Is <region> normal?")
        'Is region normal?'
    """
    for mark in MARKS:
        query = query.replace(mark, mark.strip("</>"))
    return query


def load(asked):
    """Load the model that the command line names."""
    return MedPLIB(asked.repository, asked.checkpoint, asked.sam, asked.device, asked.max_tokens)


def main(arguments=None, load=load):
    """Serve what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", required=True, help="folder of MedPLIB's repository")
    parser.add_argument("--checkpoint", required=True, help="folder of its weights")
    parser.add_argument("--sam", required=True, help="file sam-med2d_b.pth")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer")
    parser.add_argument("--max-candidates", type=int, default=8)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    parser.add_argument("--token-env", metavar="NAME", help="environment variable with the token to be shown")
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES, help="largest request")
    asked = parser.parse_args(arguments)
    token = os.environ.get(asked.token_env) if asked.token_env else None
    if asked.token_env and not token:
        sys.exit(f"error: environment variable {asked.token_env} does not hold a token; set it")
    version = os.path.basename(os.path.normpath(asked.checkpoint))
    expert = MedPLIBExpert(load(asked), version, asked.max_candidates, asked.threshold)
    run(expert, asked.host, asked.port, token, asked.max_bytes)


if __name__ == "__main__":
    main()
