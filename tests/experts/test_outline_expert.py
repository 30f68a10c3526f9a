"""Boxes become outlines: Segment Anything beside another expert."""

import json

import numpy as np
import pytest
import torch
from expert_scenes import QUERY, RingReader, make_scene, make_volume
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.utils import optional_import
from PIL import Image

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import AnnotationExpert, BlobExpert, Candidate, RandomBoxExpert, Verdict, checked
from medeyes_monai.experts.sam import BoxSegmenter, OutlineExpert, Outliner, Outlines
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene

COLUMNS, ROWS = 300, 180
SPOT = Box((120, 30), (150, 100))


class Bright:
    """Outlines the bright pixels, and is as sure as it was told to be."""

    name = "bright"

    def __init__(self, fit=0.75):
        self.fit = fit

    def outline(self, picture, boxes):
        self.seen = picture, boxes
        return Outlines(np.stack([picture[..., 0] > 128] * len(boxes)), np.full(len(boxes), self.fit))


class Pointing(RandomBoxExpert):
    """Points at the boxes that it was given."""

    def __init__(self, *candidates, verdict=None):
        super().__init__()
        self.candidates, self.verdict = candidates, verdict or Verdict(0.4, "ring", "yes", 0.2)

    def scan(self, scene, query):
        return self.candidates

    def drill(self, scene, box, query):
        return self.verdict


def scene_with(box=SPOT):
    image = np.full((1, COLUMNS, ROWS), 20, np.uint8)
    image[0][box.slices] = 230
    return ImageScene(image, key="wide")


@given(x=st.integers(0, 260), y=st.integers(0, 140), w=st.integers(1, 40), h=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_an_outline_lies_where_the_pixels_are(x, y, w, h):
    box = Box((x, y), (x + w, y + h))
    shown = SPOT.intersection(box)
    (found,) = checked.scan(OutlineExpert(Pointing(Candidate(box, 0.5)), Bright()), scene_with(), QUERY)
    assert found.mask.sum() == (shown.size if shown else 0)
    if shown:
        assert np.argwhere(found.mask).min(axis=0).tolist() == [
            a - b for a, b in zip(shown.start, box.start, strict=True)
        ]


def test_a_drill_shows_the_surroundings_and_takes_finding_and_answer_from_the_other_expert():
    outliner = Bright()
    expert = OutlineExpert(Pointing(), outliner)
    assert expert.drill(scene_with(), SPOT, QUERY) == Verdict(0.75, "ring", "yes", 0.2)
    picture, boxes = outliner.seen
    assert picture.shape == (140, 60, 3)  # twice 30 by 70 about (135, 65), moved inside: rows 0 to 140
    assert boxes == [Box((15, 30), (45, 100))]


def test_an_empty_outline_is_no_confidence_and_a_fit_beyond_its_range_is_cut():
    nothing = Box((200, 100), (220, 120))
    assert OutlineExpert(Pointing(), Bright()).drill(scene_with(), nothing, QUERY).confidence == 0
    assert OutlineExpert(Pointing(), Bright(1.2)).drill(scene_with(), SPOT, QUERY).confidence == 1
    assert OutlineExpert(Pointing(), Bright(-0.1)).drill(scene_with(), SPOT, QUERY).confidence == 0
    product = OutlineExpert(Pointing(), Bright(), confidence="product")
    assert product.drill(scene_with(), SPOT, QUERY).confidence == pytest.approx(0.75 * 0.4)


def test_a_scan_keeps_confidences_and_outlines_that_are_there_and_asks_for_the_others_at_once():
    own = np.eye(30, 70, dtype=bool)
    pointing = Pointing(Candidate(SPOT, 0.9, "a", own), Candidate(SPOT, 0.5, "b"), Candidate(SPOT, 0.2, "c"))
    outliner = Bright()
    found = OutlineExpert(pointing, outliner).scan(scene_with(), QUERY)
    assert [(c.confidence, c.finding) for c in found] == [(0.9, "a"), (0.5, "b"), (0.2, "c")]
    assert np.array_equal(found[0].mask, own)
    assert found[1].mask.all()
    assert found[2].mask.all()
    assert len(outliner.seen[1]) == 2
    assert OutlineExpert(Pointing(), Bright()).scan(scene_with(), QUERY) == ()


def test_nonsense_of_a_model_is_refused_with_the_experts_name():
    def saying(masks, fits):
        outliner = Bright()
        outliner.outline = lambda picture, boxes: Outlines(masks(picture), np.array(fits))
        return OutlineExpert(Pointing(), outliner)

    right = lambda picture: np.ones((1, *picture.shape[:2]), bool)  # noqa: E731
    turned = lambda picture: np.ones((1, *picture.shape[1::-1]), bool)  # noqa: E731
    for expert in (saying(turned, [0.5]), saying(right, [0.5, 0.5]), saying(right, [np.nan])):
        with pytest.raises(ExpertError, match=f"^{expert.name}: "):
            expert.drill(scene_with(), SPOT, QUERY)


def test_volumes_are_refused_and_an_expert_for_volumes_too():
    expert = OutlineExpert(AnnotationExpert(), Bright())
    with pytest.raises(ExpertError, match="takes pictures"):
        checked.scan(expert, make_volume(), QUERY)
    deep = Pointing()
    deep.axes = (3,)
    with pytest.raises(ConfigError, match="takes no pictures"):
        OutlineExpert(deep, Bright())
    with pytest.raises(ConfigError, match="'outline' or 'product'"):
        OutlineExpert(Pointing(), Bright(), confidence="mean")


def test_names_tell_experts_models_and_settings_apart_and_the_key_is_read_where_the_other_reads_it():
    made = [OutlineExpert(e, Bright()) for e in (BlobExpert(), AnnotationExpert(RingReader()))]
    made += [OutlineExpert(BlobExpert(), BoxSegmenter(p)) for p in ("a/b", "a/c")]
    made += [OutlineExpert(BlobExpert(), Bright(), confidence="product")]
    assert len({expert.name for expert in made}) == len(made)
    assert [expert.reads_key for expert in made[:2]] == [False, True]


# The model of transformers, with random weights.


def test_sam_outlines_the_boxes_that_it_is_given_in_columns_and_rows(models):
    picture = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    boxes = [Box((100, 20), (140, 40)), Box((0, 0), (160, 90)), Box((3, 50), (4, 90))]
    said = models["sam"].outline(picture, boxes)
    assert isinstance(models["sam"], Outliner)
    assert said.masks.shape == (3, 90, 160)
    assert not np.array_equal(said.masks[0], said.masks[2])
    processor, model = models["sam"]._loaded
    inputs = processor(images=Image.fromarray(picture), return_tensors="pt")
    scale = 64 / 160  # the longest side becomes 64
    prompts = torch.tensor([[box.corners for box in boxes]], dtype=torch.float32) * scale
    with torch.no_grad():
        output = model(inputs["pixel_values"], input_boxes=prompts, multimask_output=False)
    assert np.allclose(said.fits, output.iou_scores[0, :, 0], atol=1e-5)
    large = torch.nn.functional.interpolate(output.pred_masks[0].float(), (64, 64), mode="bilinear")
    inside = torch.nn.functional.interpolate(large[:, :, :36], (90, 160), mode="bilinear") > 0
    assert np.array_equal(said.masks, inside[:, 0])


def test_sam_refines_what_a_classical_expert_points_at(models):
    expert = OutlineExpert(BlobExpert(), models["sam"])
    scene = make_scene()
    found = checked.scan(expert, scene, QUERY)
    assert [c.box for c in found] == [c.box for c in BlobExpert().scan(scene, QUERY)]
    assert all(c.mask is not None for c in found)
    assert any(checked.drill(expert, scene, c.box, QUERY).confidence > 0 for c in found)


@pytest.mark.skipif(optional_import("torchvision")[1], reason="torchvision is there")
def test_a_family_that_needs_torchvision_says_so(tmp_path):
    from transformers import Sam2Config

    Sam2Config().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Sam2ImageProcessor", "processor_class": "Sam2Processor"})
    )
    with pytest.raises(ConfigError, match=r"Torchvision|torchvision"):
        BoxSegmenter(str(tmp_path)).outline(np.zeros((9, 9, 3), np.uint8), [Box((0, 0), (9, 9))])
