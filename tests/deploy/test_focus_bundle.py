"""A bundle whose inferer is a FocusInferer: its path, its focus map and its focus in all results."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pydicom
import pytest

hd = pytest.importorskip("highdicom", reason="needs the extra deploy")

from deploy_cases import (  # noqa: E402
    ASKED,
    BUNDLE,
    ROOT,
    answers_of_bundle,
    focus_of,
    is_clean,
    phantoms,
    plainly,
    study,
    turned,
)
from policies import LookingPolicy  # noqa: E402

from medeyes_monai.deploy.model import load_bundle  # noqa: E402
from medeyes_monai.deploy.pipeline import answer_study, write_study  # noqa: E402
from medeyes_monai.deploy.questions import Question  # noqa: E402
from medeyes_monai.errors import ConfigError  # noqa: E402
from medeyes_monai.io import read_volume  # noqa: E402


@pytest.fixture
def overlay(tmp_path):
    """The overlay that docs/focus.md shows."""
    text = (ROOT / "docs" / "focus.md").read_text("utf-8")
    file = tmp_path / "focus.yaml"
    file.write_text(text.split("```yaml\n")[1].split("```")[0])
    return file


def test_the_focus_of_a_bundle_with_an_expert_reaches_all_results(tmp_path, overlay):
    folder = phantoms(tmp_path / "in")
    model = load_bundle(BUNDLE, overlays=[overlay], device="cpu")
    answered = answer_study(model, folder, [Question(ASKED, slices="each")])
    results = answered[0].results
    assert plainly(results) == answers_of_bundle(folder, tmp_path / "bundle", overlay)
    for result in results:
        given = [look.confidence is None for look in result.looks]
        assert given == sorted(given)  # the expert's looks come first
        assert (focus_of(result) == (result.focus_map() > 0.5)).all()
    assert any(look.confidence for result in results for look in result.looks)

    files = {path.name: path for path in write_study(tmp_path / "out", answered)}
    assert is_clean(files["sr.dcm"])
    assert is_clean(files["seg.dcm"])
    segmentation = hd.seg.segread(files["seg.dcm"])
    (number,) = segmentation.segment_numbers  # one segment for the question, in all its slices
    pixels = segmentation.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in answered[0].source.headers],
        segment_numbers=[number],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )[..., 0]
    wanted = np.any([focus_of(result) for result in results], axis=0)
    assert (pixels.transpose(2, 1, 0) == wanted).all()
    said = json.loads(files["results.json"].read_text("utf-8"))["results"]
    assert {one["focus"]["rule"] for one in said} == {"looks surer than 0.5"}
    told = [[look["confidence"] for look in one["looks"]] for one in said]
    assert told == [
        [look.confidence and round(look.confidence, 6) for look in result.looks] for result in results
    ]
    assert [len(one["focus"]["boxes"]) for one in said] == [len(result.focused) for result in results]
    content = hd.sr.Comprehensive3DSR.from_dataset(pydicom.dcmread(files["sr.dcm"])).content
    sure = [
        [m.value for m in group.get_measurements() if m.name.meaning == "Certainty of Finding"]
        for group in content.get_planar_roi_measurement_groups()
    ]
    looks = [look for result in results for look in result.looks]
    assert sure == [[] if one.confidence is None else [round(100 * one.confidence, 4)] for one in looks]


class InDepth(LookingPolicy):
    """Looks at boxes with six numbers."""

    def decode(self, token_ids):
        """Read the sum of the words as a look or an answer."""
        number = sum(token_ids) % 3
        if number == 2:
            return "<reasoning>so</reasoning><answer>yes</answer>"
        box = [4 * number, 2, 3, 4 * number + 8, 12, 9]
        return f'<reasoning>so</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>'


@pytest.mark.parametrize("seed", [5, 30])
def test_the_focus_map_of_a_volume_lies_where_the_inferer_puts_it(tmp_path, checkpoints, overlay, seed):
    folder = study(tmp_path / "in", shape=(40, 36, 20), axes=turned(seed), spacing=(1.0, 1.0, 2.0))
    more = tmp_path / "volume.yaml"
    more.write_text("scene::_target_: medeyes_monai.scenes.VolumeScene\nscene::min_extent: 8\n")
    path = str(checkpoints["qwen3_vl"])
    model = load_bundle(BUNDLE, overlays=[overlay, more], policy_path=path, device="cpu", max_turn_tokens=8)
    model = replace(model, policy=InDepth(path))
    (answered,) = answer_study(model, folder, [Question(ASKED)])
    (result,) = answered.results
    scene = model.scene(read_volume(answered.source.paths), key="volume")
    focus = model.inferer(scene, model.policy, question=ASKED)
    theirs, ours = focus.focus_map(), result.focus_map()
    assert result.looks[0].confidence == focus.trajectory.fixations[0].confidence > 0
    for sure in {look.weight for look in result.looks}:
        corners = [
            _extremes(values > sure - 1e-6, affine)
            for values, affine in ((theirs.numpy()[0], theirs.affine.numpy()), (ours, result.grid.affine))
        ]
        assert np.abs(corners[0] - corners[1]).max() < 0.01
        assert ((theirs.numpy() > sure - 1e-6).sum()) == (ours > sure - 1e-6).sum()


def _extremes(mask, affine):
    """How far a mask reaches in the world along many directions."""
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    directions = np.array(list(product((-1, 0, 1), repeat=3)))
    return (points @ directions.T).max(axis=0)


def test_an_inferer_that_the_application_cannot_use_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="with one draw or a FocusInferer, got EpisodeInferer"):
        load_bundle(BUNDLE, device="cpu", **{"inferer::draws": 2})
    other = tmp_path / "other.yaml"
    other.write_text("inferer: {_target_: monai.inferers.SimpleInferer}\n")
    with pytest.raises(ConfigError, match="got SimpleInferer"):
        load_bundle(BUNDLE, overlays=[other], device="cpu")
