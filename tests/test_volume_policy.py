"""The policy for volumes: its script begins with what is known, and teaches what the benchmark asks."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from medeyes_monai.data.phantom import PhantomReader, PhantomVQA
from medeyes_monai.data.phantom3d import PhantomVQA3D, phantom_scene
from medeyes_monai.data.phantom3d_words import LOOK_FAMILIES_3D, PhantomReader3D
from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.rollout import rollout
from medeyes_monai.sampler import write_episode

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def scripts():
    """Import a script or a part of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def builder(scripts):
    """The program that builds the policy."""
    return scripts("build_volume_policy")


@pytest.fixture(scope="module")
def paths(scripts):
    """How scans that are taught are drawn."""
    return scripts("supervised.paths")


@pytest.fixture(scope="module")
def policy(builder, tmp_path_factory):
    """A random policy whose tokenizer knows the benchmark's words."""
    folder = tmp_path_factory.mktemp("volume") / "policy"
    make_tiny_checkpoint(folder, corpus=builder.corpus())
    return HuggingFacePolicy(folder, freeze_vision=False)


@pytest.mark.parametrize("file", ["volume.yaml", "evaluation/volume.yaml"])
def test_a_configuration_shows_volumes_as_the_benchmark_does_by_default(file):
    given = ConfigParser.load_config_file(ROOT / "configs" / file)
    assert {key: given["scene"][key] for key in phantom_scene.keywords} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in phantom_scene.keywords.items()
    }
    assert given["gaze_families"] == list(LOOK_FAMILIES_3D)


def benchmark(dimensions, builder, scripts):
    """Return what is taught about pictures or volumes, some questions, and their reader."""
    if dimensions == 3:
        return builder.COURSE, PhantomVQA3D("train", size=9, families=builder.FAMILIES), PhantomReader3D()
    return scripts("supervised.pictures").COURSE, PhantomVQA("train", size=7), PhantomReader()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_scans_that_are_taught_are_right_wherever_what_was_seen_gives_an_answer(
    dimensions, builder, scripts, paths
):
    course, data, reader = benchmark(dimensions, builder, scripts)
    hits = []
    for case in (data[i] for i in range(len(data))):
        centres = [finding.box.centre for finding in case.scene.findings if finding.subtle]
        for draw in range(3):
            path = paths.random_stop_path(course, case, draw, 0, paths.PATIENT)
            thoughts = [*(look.reasoning for look in path.fixations), path.reasoning][1:]
            seen = [thought.partition(";")[0] for thought in thoughts]
            if reader.read(case.question, seen, ()).decisive:
                assert answers_match(path.answer, case)
            hits += [any(box.contains(centre) for centre in centres) for box in path.boxes]
    assert np.mean(hits) > 0.9  # the others are off by more than half a region


def test_the_axial_slices_of_a_look_that_is_taught_lie_inside_the_candidate(builder):
    data, inside = PhantomVQA3D("train", size=8, families=["presence"]), []
    for case in (data[i] for i in range(len(data))):
        rng = np.random.default_rng(0)
        for finding in (f for f in case.scene.findings if f.subtle):
            box = builder.COURSE.region(finding, case.scene, rng)
            axial = [panel for panel in case.scene.look_sheet(box).panels if panel.plane == "axial"]
            assert {panel.place.extent for panel in axial} == {(32, 32)}  # a pixel for each voxel
            inside += [finding.box.start[2] < panel.label < finding.box.stop[2] - 1 for panel in axial]
    assert np.mean(inside) > 0.9


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_candidate_is_taught_in_the_token_and_the_quarter_that_show_it(dimensions, builder, scripts):
    course, data, _ = benchmark(dimensions, builder, scripts)
    case = data[0]
    shown = case.scene.overview().pixels
    for finding in (f for f in case.scene.findings if f.subtle):
        token, quarter, across, down = course.place(finding)
        column, row = token % 4 * 32 + quarter % 2 * 16, token // 4 * 32 + quarter // 2 * 16
        x, y = round(column + 16 * (across + 0.5)), round(row + 16 * (down + 0.5))
        cell = shown[row // 32 * 32 + 8 : row // 32 * 32 + 32, column // 32 * 32 : column // 32 * 32 + 32]
        assert shown[y, x, 0] > np.median(cell)


def test_haste_stops_after_one_look_and_patience_does_not(builder, paths):
    data = PhantomVQA3D("train", size=4, families=["side"])
    cases = [data[i] for i in range(len(data))]

    def looks(stop_after):
        drawn = [
            paths.random_stop_path(builder.COURSE, case, draw, 0, stop_after)
            for case in cases
            for draw in range(12)
        ]
        return np.mean([len(path.boxes) for path in drawn])

    # 1.4 and 2.5 where there are four to look at
    assert looks(paths.stops(paths.HASTE)) < 1.6 < looks(paths.PATIENT)


def test_a_box_of_six_numbers_survives_being_written_in_the_policys_frame(builder, paths, policy):
    case = PhantomVQA3D("train", size=1, families=["presence"])[0]
    path = paths.random_stop_path(builder.COURSE, case, 1, 0, paths.PATIENT)
    episode = write_episode(path, case, policy)
    assert episode.trajectory.boxes
    for wanted, written in zip(path.boxes, episode.trajectory.boxes, strict=True):
        assert written.is_inside(case.scene.shape)
        assert np.abs(np.subtract(wanted.corners, written.corners)).max() <= 2  # half a pixel of the cell
    assert len(episode.pictures) == 1 + len(path.boxes)
    assert [len(policy.encode(word)) for word in ("upper", " liver", " spiculated")] == [1, 1, 1]


def test_the_rollout_draws_episodes_about_volumes_with_the_same_code(policy):
    case = PhantomVQA3D("train", size=1)[0]
    episodes = rollout(policy, [case], draws=2, max_looks=1, max_turn_tokens=6)
    assert [episode.defect is not None for episode in episodes] == [True, True]  # random words
    assert policy.score(episodes).logprobs.shape[0] == 2


def test_the_policy_begins_with_the_weights_and_the_words_of_the_one_for_pictures(builder, policy):
    builder.begin_with(policy, builder.TINY)
    known = HuggingFacePolicy(builder.TINY)
    for name, weight in known.core.model.visual.named_parameters():
        assert torch.equal(weight, dict(policy.core.model.visual.named_parameters())[name])
    for word in ("solid", " large", "<answer>"):
        (ours,), (theirs,) = policy.encode(word), known.encode(word)
        tables = policy.core.get_input_embeddings().weight, known.core.get_input_embeddings().weight
        assert torch.equal(tables[0][ours], tables[1][theirs])


def test_what_is_told_in_words_is_taught_only_where_it_gives_an_answer(builder, scripts, policy):
    rng = np.random.default_rng(0)
    for _ in range(8):
        episode = scripts("supervised.reading").told_episode(policy, builder.COURSE, rng)
        text = policy.decode(episode.token_ids.tolist())
        assert ("None" in text) == (not episode.response_mask[-1])


@pytest.mark.parametrize("script", ["build_tiny_policy", "build_volume_policy"])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_build_of_few_steps_or_none_writes_a_policy_that_is_loaded(
    script, steps, scripts, tmp_path, monkeypatch
):
    stages = [f"--{name}-steps={steps}" for name in ("perception", "reading", "protocol", "hasty")]
    size = ["--images=2"] if script == "build_tiny_policy" else ["--volumes=2", "--workers=0"]
    begun = ROOT / "bundle" / "models" / ("tiny_policy" if script == "build_tiny_policy" else "volume_policy")
    places = [f"--start={begun}", f"--output={tmp_path}"]
    monkeypatch.setattr("sys.argv", [script, *places, "--batch=2", *stages, *size])
    scripts(script).main()
    built, start = HuggingFacePolicy(tmp_path), HuggingFacePolicy(begun)
    assert built.core.dtype == torch.float32
    old, new = (dict(one.core.named_parameters()) for one in (start, built))
    words = scripts("supervised.building").WORDS  # of a tokenizer that may be another
    kept = [torch.equal(old[name].half(), new[name].half()) for name in new if not name.endswith(words)]
    assert len(kept) > 50
    assert all(kept) == (steps == 0)


def test_a_start_that_would_be_written_over_or_is_another_model_is_refused(
    scripts, tmp_path, policy, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["build", f"--start={tmp_path}", f"--output={tmp_path}"])
    for script in ("build_tiny_policy", "build_volume_policy"):
        with pytest.raises(ConfigError, match="give another --output"):
            scripts(script).main()
    assert list(tmp_path.iterdir()) == []
    make_tiny_checkpoint(tmp_path, family="qwen2_5_vl")
    with pytest.raises(ConfigError, match="begin with a policy that these programs have built"):
        scripts("supervised.building").begin_with(policy, tmp_path)


def test_haste_is_a_share_of_the_scans_that_stop_after_one_look(paths):
    assert paths.stops(paths.HASTE) == (0.75, 0.13, 0.08, 0.04)
    assert paths.stops(1.0) == (1.0, 0.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match=r"a share from 0 to 1, got 1\.5"):
        paths.stops(1.5)


@pytest.mark.slow
def test_the_shipped_policy_writes_whole_episodes_that_look_at_candidates():
    policy = HuggingFacePolicy(ROOT / "bundle" / "models" / "volume_policy").train(False)
    data = PhantomVQA3D("val", size=14, families=LOOK_FAMILIES_3D)
    cases = [data[i] for i in range(len(data))]
    episodes = rollout(policy, cases, draws=1, greedy=True)
    assert [episode.defect for episode in episodes] == [None] * len(cases)
    first = [episode.trajectory.boxes[0] for episode in episodes]
    hits = [
        any(box.contains(finding.box.centre) for finding in case.scene.findings if finding.subtle)
        for box, case in zip(first, cases, strict=True)
    ]
    assert np.mean(hits) > 0.7
