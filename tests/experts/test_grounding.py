"""Text-prompted detection: where regions lie, what is said of them, and the models of transformers."""

import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from expert_detectors import MAKERS
from expert_scenes import QUERY, RingReader, make_scene, make_volume
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.utils import optional_import
from PIL import Image

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import Verdict, checked
from medeyes_monai.experts.grounding import Grounder, Grounding, GroundingExpert, phrases_of
from medeyes_monai.experts.grounding_models import ConceptSegmenter, ZeroShotDetector
from medeyes_monai.experts.pretrained import Pretrained
from medeyes_monai.experts.sam3_images import Sam3ImageProcessorPil
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import BlankedScene, ImageScene

COLUMNS, ROWS = 300, 180
TORCHVISION = optional_import("torchvision")[1]


class Bright:
    """Finds the bright pixels of a picture as one region, with their outline."""

    name = "bright"

    def find(self, picture, phrases):
        bright = picture[..., 0] > 128
        rows, columns = np.nonzero(bright)
        if not len(rows):
            return Grounding(np.zeros((0, 4)), np.zeros(0), (), np.zeros((0, *bright.shape), bool))
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Grounding(np.array([corners], float), np.array([0.75]), (phrases[0],), bright[None])


class Saying:
    """Says what it was told to say, whatever it is shown."""

    name = "saying"

    def __init__(self, boxes=(), scores=(), labels=None, masks=None):
        boxes, scores = np.array(boxes, float).reshape(-1, 4), np.array(scores, float)
        self.reply = Grounding(boxes, scores, tuple(labels or ["ring"] * len(scores)), masks)

    def find(self, picture, phrases):
        self.seen = picture, phrases
        return self.reply


def scene_with(box):
    """A dark picture, wider than high, with one bright box."""
    image = np.full((1, COLUMNS, ROWS), 20, np.uint8)
    image[0][box.slices] = 230
    return ImageScene(image, key="wide")


@st.composite
def boxes(draw):
    low = [draw(st.integers(0, n - 1)) for n in (COLUMNS, ROWS)]
    high = [draw(st.integers(a + 1, min(n, a + 80))) for a, n in zip(low, (COLUMNS, ROWS), strict=True)]
    return Box(tuple(low), tuple(high))


# Where regions lie.


@given(boxes())
@settings(max_examples=40, deadline=None)
def test_a_region_and_its_outline_lie_where_the_pixels_are_in_a_scan(box):
    (found,) = checked.scan(GroundingExpert(Bright(), min_extent=1), scene_with(box), "spot")
    assert found.box == box
    assert found.mask.all()


@given(boxes(), st.integers(1, 150))
@settings(max_examples=40, deadline=None)
def test_a_drill_finds_what_lies_in_its_region_and_nothing_that_lies_beside_it(box, context):
    expert, scene = GroundingExpert(Bright(), context=context), scene_with(box)
    assert checked.drill(expert, scene, box, "spot") == Verdict(0.75, "spot")
    beside = Box((0, 0), (1, 1)) if box.start[0] > COLUMNS // 2 else Box((COLUMNS - 1, 0), (COLUMNS, 1))
    assert checked.drill(expert, scene, beside, "spot") == Verdict(0.0, "normal")


def test_a_small_region_is_grown_with_its_outline():
    box = Box((120, 30), (130, 34))
    (found,) = GroundingExpert(Bright(), min_extent=40).scan(scene_with(box), "spot")
    assert found.box == Box((105, 12), (145, 52))  # 40 voxels about (125, 32)
    assert np.argwhere(found.mask).min(axis=0).tolist() == [15, 18]
    assert found.mask.sum() == box.size


def test_regions_are_cut_at_the_edges_and_what_lies_outside_is_dropped():
    corners = [[-20, 5.5, 10.2, 40], [310, 10, 340, 30], [50, 60, 50, 90], [20, -9, 30, 500]]
    found = GroundingExpert(Saying(corners, [0.9, 0.8, 0.7, 0.6]), min_extent=1).scan(
        scene_with(Box((0, 0), (1, 1))), "x"
    )
    assert [c.box.corners for c in found] == [(0, 5, 11, 40), (20, 0, 30, 180)]


def test_of_regions_that_overlap_the_surer_is_kept_and_of_all_the_best():
    corners = [[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60], [90, 90, 99, 99]]
    grounder = Saying(corners, [0.5, 0.9, 0.3, 0.4])
    scene = scene_with(Box((0, 0), (1, 1)))
    found = GroundingExpert(grounder, min_extent=1, nms_iou=0.5).scan(scene, "x")
    assert [c.confidence for c in found] == [0.9, 0.4, 0.3]
    assert len(GroundingExpert(grounder, nms_iou=1.0).scan(scene, "x")) == 4
    assert [c.confidence for c in GroundingExpert(grounder, max_candidates=1).scan(scene, "x")] == [0.9]


def test_the_image_is_read_at_its_own_resolution():
    grounder, scene = Saying(), scene_with(Box((200, 20), (203, 22)))
    GroundingExpert(grounder).scan(scene, "x")
    assert grounder.seen[0].shape == (ROWS, COLUMNS, 3)
    assert (grounder.seen[0][20:22, 200:203] == 230).all()
    GroundingExpert(grounder, context=96).drill(scene, Box((10, 20), (20, 130)), "x")
    assert grounder.seen[0].shape == (110, 96, 3)


# What is said of them.


def test_a_finding_counts_as_much_as_it_settles_the_question():
    scene, here = scene_with(Box((0, 0), (1, 1))), Box((0, 0), (100, 100))
    inside, outside = [10, 10, 20, 20], [150, 10, 160, 20]

    def verdict(boxes, labels):
        grounder = Saying(boxes, [0.8, 0.6][: len(labels)], labels)
        return GroundingExpert(grounder, reader=RingReader()).drill(scene, here, QUERY)

    assert verdict([inside], ["ring"]) == Verdict(0.8, "ring", "yes")
    assert verdict([inside], ["disc"]) == Verdict(0.0, "disc", "no")
    assert verdict([outside, inside], ["ring", "ring"]) == Verdict(0.6, "ring", "yes")
    assert verdict([], []) == Verdict(0.0, "normal", "no")


@pytest.mark.parametrize(
    ("query", "phrases"),
    [
        ("Lung nodule. Mass.", ("lung nodule", "mass")),
        ("Is there a ring?", ("is there a ring",)),
        ("a 0.5 cm cyst", ("a 0 5 cm cyst",)),
        (" . ?! ", ()),
        ("", ()),
        ("a.\nb.  c", ("a", "b", "c")),
    ],
)
def test_a_query_names_its_parts_between_full_stops(query, phrases):
    assert phrases_of(query) == phrases
    assert len(phrases_of("x. " * 99)) == 16


def test_nothing_is_found_where_nothing_is_asked_for():
    expert, scene = GroundingExpert(Bright()), scene_with(Box((0, 0), (50, 50)))
    assert expert.scan(scene, "?") == ()
    assert expert.drill(scene, Box((0, 0), (50, 50)), "?") == Verdict(0.0, "normal")


@pytest.mark.parametrize(
    "grounder",
    [
        Saying([[0, 0, 9, 9]], [1.5]),
        Saying([[0, 0, 9, 9]], [np.nan]),
        Saying([[0, 0, np.inf, 9]], [0.5]),
        Saying([[0, 0, 9, 9]], [0.5, 0.4]),
        Saying([[0, 0, 9, 9]], [0.5], ["a", "b"]),
        Saying([[0, 0, 9, 9]], [0.5], masks=np.ones((1, COLUMNS, ROWS), bool)),  # the axes of the scene
    ],
)
def test_nonsense_of_a_model_is_refused_with_the_experts_name(grounder):
    expert, scene = GroundingExpert(grounder), scene_with(Box((0, 0), (1, 1)))
    for call in (lambda: expert.scan(scene, "x"), lambda: expert.drill(scene, Box.whole(scene.shape), "x")):
        with pytest.raises(ExpertError, match=f"^{expert.name}: "):
            call()


def test_a_picture_that_the_model_refuses_is_the_experts_failure_and_a_wrong_setting_is_not():
    grounder = Saying()
    expert, scene = GroundingExpert(grounder), scene_with(Box((0, 0), (1, 1)))
    for problem in (RuntimeError("too small\nat layer 3"), ValueError("too small")):
        grounder.find = Mock(side_effect=problem)
        with pytest.raises(
            ExpertError, match=f"^{expert.name}: the model refused a picture of 180 x 300: too small$"
        ):
            expert.scan(scene, "x")
    grounder.find = Mock(side_effect=ConfigError("no such model"))
    with pytest.raises(ConfigError, match="no such model"):
        expert.scan(scene, "x")


def test_volumes_and_scenes_without_voxels_are_refused():
    expert, flat = GroundingExpert(Bright()), scene_with(Box((0, 0), (1, 1)))
    with pytest.raises(ExpertError, match=f"{expert.name}: takes pictures, the scene has 3 axes"):
        expert.scan(make_volume(), "x")
    with pytest.raises(ExpertError, match=f"{expert.name}: needs the voxels of wide"):
        expert.scan(BlankedScene(flat), "x")


@pytest.mark.parametrize(
    "setting", [{"nms_iou": 1.1}, {"max_candidates": 0}, {"min_extent": 0}, {"context": 0}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match="got"):
        GroundingExpert(Bright(), **setting)
    with pytest.raises(ConfigError, match="threshold"):
        ZeroShotDetector("a/b", threshold=1.0)


def test_settings_that_change_replies_change_the_name():
    made = [GroundingExpert(Bright(), **s) for s in ({}, {"nms_iou": 0.4}, {"min_extent": 9}, {"context": 9})]
    made += [GroundingExpert(Saying()), GroundingExpert(Bright(), reader=RingReader())]
    made += [
        GroundingExpert(ZeroShotDetector("a/b", threshold=t, revision=r)) for t in (0.1, 0.2) for r in "cd"
    ]
    made += [GroundingExpert(ConceptSegmenter("a/b", threshold=0.1, revision="c"))]
    assert len({expert.name for expert in made}) == len(made)


# The models of transformers, with random weights.

PICTURE = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
PICTURE[20:40, 100:140] = 255


@pytest.mark.parametrize("family", ["grounding_dino", "owlv2"])
def test_a_detector_says_what_the_processor_of_its_family_makes_of_the_logits(models, family):
    found = models[family].find(PICTURE, ["nodule", "ring"])
    assert isinstance(models[family], Grounder)
    processor, model = models[family]._loaded
    inputs = processor(images=Image.fromarray(PICTURE), text=[["nodule", "ring"]], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    scores = output.logits[0].sigmoid().max(dim=-1).values
    sides = torch.tensor([160, 90]) if family == "grounding_dino" else torch.tensor([160, 160])  # padded
    centres, extents = output.pred_boxes[0].split(2, dim=-1)
    corners = torch.cat([(centres - extents / 2) * sides, (centres + extents / 2) * sides], dim=-1)
    kept = scores > 0.2
    assert kept.sum() > 0
    assert np.allclose(found.scores, scores[kept])
    assert np.allclose(found.boxes, corners[kept], atol=1e-3)
    assert set(found.labels) <= {"nodule", "ring"}
    if family == "owlv2":
        assert found.labels == tuple(("nodule", "ring")[n] for n in output.logits[0].argmax(dim=-1)[kept])


def test_a_concept_segmenter_outlines_each_phrase_for_itself(models):
    both = models["sam3"].find(PICTURE, ["nodule", "ring"])
    alone = [models["sam3"].find(PICTURE, [phrase]) for phrase in ("nodule", "ring")]
    assert set(both.labels) == {"nodule", "ring"}
    assert both.masks.shape == (len(both.scores), 90, 160)
    assert np.allclose(both.scores, np.concatenate([a.scores for a in alone]), atol=1e-5)
    assert np.allclose(both.boxes, np.concatenate([a.boxes for a in alone]), atol=1e-2)
    assert not np.allclose(*(a.scores[:1] for a in alone), atol=1e-3)
    assert both.scores.min() > 0.2


@pytest.mark.parametrize("family", ["grounding_dino", "owlv2", "sam3"])
def test_a_model_finds_other_places_in_other_pictures_and_takes_long_queries(models, family):
    scene = make_scene()
    expert = GroundingExpert(models[family], min_extent=1)
    found = expert.scan(scene, "ring. disc.")
    assert found
    mirrored = ImageScene(scene.image.flip(1), key="mirrored")
    assert [c.box for c in expert.scan(mirrored, "ring. disc.")] != [c.box for c in found]
    assert (found[0].mask is None) is (family != "sam3")
    checked.scan(
        expert, scene, "a very long question that holds far more words than such a model reads " * 20
    )


def test_below_the_threshold_nothing_is_found(detectors, models):
    folder = str(detectors["sam3"])
    for kind, at in ((ConceptSegmenter, folder), (ZeroShotDetector, str(detectors["owlv2"]))):
        none = kind(at, threshold=0.9999).find(PICTURE, ["ring"])
        assert (none.scores.shape, none.boxes.shape, none.labels) == ((0,), (0, 4), ())
    assert none.masks is None
    assert ConceptSegmenter(folder, threshold=0.9999).find(PICTURE, ["a"]).masks.shape == (0, 90, 160)


def test_scores_boxes_and_masks_of_sam_3_are_read_as_worked_out_by_hand():
    logit = lambda p: float(np.log(p / (1 - p)))  # noqa: E731
    output = type("Output", (), {})()
    output.pred_logits = torch.tensor([[logit(0.8), logit(0.5), logit(0.9)]])
    output.presence_logits = torch.tensor([[logit(0.5)]])
    output.pred_boxes = torch.tensor([[[0.0, 0.5, 0.25, 1.0]] * 3])
    output.pred_masks = torch.full((1, 3, 2, 2), -9.0)
    output.pred_masks[0, :, :, 1] = 9.0  # on the right
    (found,) = Sam3ImageProcessorPil().post_process_instance_segmentation(output, 0.3, target_sizes=[(4, 8)])
    assert found["scores"].tolist() == pytest.approx([0.4, 0.45])  # 0.5 * 0.5 is below
    assert found["boxes"].tolist() == [[0, 2, 2, 4]] * 2
    assert found["masks"].tolist() == [[[0] * 4 + [1] * 4] * 4] * 2


@pytest.mark.skipif(not TORCHVISION, reason="the processor of transformers needs torchvision")
def test_sam_3_is_read_as_transformers_reads_it(detectors, models):
    from transformers import AutoImageProcessor

    theirs, ours = (k.from_pretrained(detectors["sam3"]) for k in (AutoImageProcessor, Sam3ImageProcessorPil))
    shown = [p(Image.fromarray(PICTURE), return_tensors="pt")["pixel_values"] for p in (theirs, ours)]
    assert (shown[0] - shown[1]).abs().max() < 0.05
    model, tokenizer = models["sam3"]._loaded[2], models["sam3"]._loaded[1]
    words = tokenizer(["ring"], padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=shown[0], **words)
    read = [p.post_process_instance_segmentation(output, 0.2, 0.5, [(90, 160)])[0] for p in (theirs, ours)]
    assert len(read[0]["scores"])
    for key in ("scores", "boxes", "masks"):
        assert torch.allclose(read[0][key].double(), read[1][key].double(), atol=1e-4)


# Checkpoints.


def test_a_checkpoint_is_named_without_being_read_and_by_its_content(detectors, tmp_path):
    assert ZeroShotDetector("IDEA-Research/grounding-dino-base").name  # no such file, and no network
    copied = shutil.copytree(detectors["owlv2"], tmp_path / "copied")
    first, copy = (ZeroShotDetector(str(folder)) for folder in (detectors["owlv2"], copied))
    assert first.name == copy.name
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert ZeroShotDetector(str(copied)).name != first.name


@pytest.mark.parametrize("damage", ["no weights", "damaged weights", "pickled weights", "another family"])
def test_a_checkpoint_that_cannot_be_loaded_is_named(detectors, tmp_path, damage):
    folder = shutil.copytree(detectors["owlv2"], tmp_path / "damaged")
    weights = folder / "model.safetensors"
    if damage == "damaged weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "another family":
        folder = detectors["sam"]
    else:
        weights.unlink()
        if damage == "pickled weights":
            torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=rf"^{folder}: cannot be loaded"):
        ZeroShotDetector(str(folder)).find(PICTURE, ["ring"])


def test_a_checkpoint_that_is_nowhere_is_refused_at_once():
    for path in ("./nowhere", "nowhere", "no/such/folder"):
        with pytest.raises(ConfigError, match="no such directory"):
            Pretrained(path)
    with pytest.raises(ConfigError, match="dtype"):
        Pretrained("a/b", dtype="float64")


def test_every_family_that_has_a_checkpoint_here_is_tried(models):
    assert models.keys() == MAKERS.keys()
