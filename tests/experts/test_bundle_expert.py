"""A bundle in a folder as an expert: what is read of it, and what is refused."""

import io
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from expert_scenes import QUERY, make_scene, make_volume
from monai.networks.nets import UNet
from safetensors.torch import save_file

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.experts import bundle_expert, check_expert
from medeyes_monai.geometry import Box

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # monai's LoadImaged without it

ROOT = Path(__file__).resolve().parents[2]
PHANTOM_EXPERT = ROOT / "bundle" / "models" / "phantom_expert"
NETWORK = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}


def unet(**changes):
    torch.manual_seed(0)
    return UNet(**{**NETWORK, **changes})


@pytest.fixture
def bundle(tmp_path):
    """A bundle in the form of MONAI's model zoo: it loads files, and its inference has its own window."""
    config = {
        "image_key": "image",
        "network_def": {"_target_": "UNet", **NETWORK},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "ScaleIntensityd", "keys": "@image_key"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "$[1 / 0]", "transform": "@preprocessing"},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [96, 96], "overlap": 0.25},
    }
    outputs = {"pred": {"channel_def": {"0": "background", "1": "ring", "2": "disc"}}}
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config))
    metadata = {"network_data_format": {"outputs": outputs}}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata))
    save_file(unet().state_dict(), tmp_path / "models" / "model.safetensors")
    return tmp_path


def change(bundle, file, **parts):
    path = bundle / "configs" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def test_a_bundle_brings_its_network_weights_preprocessing_inferer_and_labels(bundle):
    expert = bundle_expert(bundle, threshold=0.34)
    assert expert.labels == ("background", "ring", "disc")
    assert expert.axes == (2,)
    assert all(
        torch.equal(a, b) for a, b in zip(expert.network.parameters(), unet().parameters(), strict=True)
    )
    check_expert(expert, make_scene(), QUERY, lambda: bundle_expert(bundle, threshold=0.34))


def test_what_is_given_comes_before_what_the_bundle_says(bundle):
    change(bundle, "inference.json", expert={"threshold": 0.4, "plain": ["disc"], "min_voxels": 7})
    expert = bundle_expert(bundle, threshold=0.6, labels=("background", "a", "disc"))
    assert (expert.threshold, expert.plain, expert.min_voxels) == (0.6, ("disc",), 7)
    assert expert.labels == ("background", "a", "disc")


def test_another_configuration_or_other_weights_are_another_name(bundle):
    before = bundle_expert(bundle).name
    assert bundle_expert(bundle).name == before
    change(bundle, "inference.json", inferer={"_target_": "SimpleInferer"})
    assert (changed := bundle_expert(bundle).name) != before
    state = {name: value + 1 for name, value in unet().state_dict().items()}
    save_file(state, bundle / "models" / "model.safetensors")
    assert bundle_expert(bundle).name != changed


def test_a_bundle_for_volumes_is_an_expert_for_volumes(bundle):
    change(bundle, "inference.json", network_def={"_target_": "UNet", **NETWORK, "spatial_dims": 3})
    change(bundle, "inference.json", inferer={"_target_": "SlidingWindowInferer", "roi_size": [48, 48, 24]})
    save_file(unet(spatial_dims=3).state_dict(), bundle / "models" / "model.safetensors")
    expert = bundle_expert(bundle, threshold=0.34)
    assert expert.axes == (3,)
    check_expert(expert, make_volume(), QUERY)


@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
def test_weights_of_torch_are_read_where_there_are_no_others(bundle, nested):
    (bundle / "models" / "model.safetensors").unlink()
    state = unet().state_dict()
    torch.save({nested: state, "epoch": 3} if nested else state, bundle / "models" / "model.pt")
    assert bundle_expert(bundle).labels[1] == "ring"


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def archive_with(thing):
    stream = io.BytesIO()
    torch.save({"model": thing}, stream, pickle_module=pickle)
    return stream.getvalue()


def test_weights_that_hold_objects_are_refused_and_nothing_in_them_runs(bundle, tmp_path):
    (bundle / "models" / "model.safetensors").unlink()
    (bundle / "models" / "model.pt").write_bytes(archive_with(Payload(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"model\.pt of .* cannot be loaded"):
        bundle_expert(bundle)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_weights_are_refused(bundle, content):
    (bundle / "models" / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors of .* cannot be loaded"):
        bundle_expert(bundle)


def test_weights_of_another_network_are_refused(bundle):
    save_file(unet(channels=[8, 8]).state_dict(), bundle / "models" / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be loaded into its network_def"):
        bundle_expert(bundle)


def test_a_folder_that_lacks_something_is_told_what(bundle):
    (bundle / "models" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"needs one of models/model\.safetensors, models/model\.pt"):
        bundle_expert(bundle)
    change(bundle, "metadata.json", network_data_format={})
    save_file(unet().state_dict(), bundle / "models" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"names no classes in network_data_format.*give labels"):
        bundle_expert(bundle)
    (bundle / "configs" / "metadata.json").unlink()
    with pytest.raises(ConfigError, match=r"has no configs/metadata\.json"):
        bundle_expert(bundle)
    assert bundle_expert(bundle, labels=("background", "a", "b")).labels[1] == "a"
    (bundle / "configs" / "inference.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"inference\.json has no network_def"):
        bundle_expert(bundle)
    shutil.rmtree(bundle / "configs")
    with pytest.raises(ConfigError, match=r"is no bundle: it needs one of configs/inference\.json"):
        bundle_expert(bundle)


# The bundle that is shipped.


def test_the_shipped_expert_is_small_and_holds_no_objects():
    files = [path for path in PHANTOM_EXPERT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}


@pytest.fixture(scope="module")
def shipped():
    """The shipped expert, and four phantoms that it was not trained on."""
    return bundle_expert(PHANTOM_EXPERT), [
        PhantomVQA("val", size=28)[index].scene for index in (0, 7, 14, 21)
    ]


def test_the_shipped_expert_proposes_the_spots_and_little_else_and_the_heart_without_confidence(shipped):
    expert, scenes = shipped
    found, spots, false_alarms = 0, 0, 0
    for scene in scenes:
        candidates = expert.scan(scene, QUERY)
        sure = [c for c in candidates if c.confidence > 0]
        assert [c.finding for c in candidates if c not in sure] == [scene.findings[-1].label]  # the heart
        centres = [f.box.centre for f in scene.findings if f.subtle]
        spots += len(centres)
        found += sum(any(c.box.contains(centre) for c in sure) for centre in centres)
        false_alarms += sum(not any(c.box.contains(centre) for centre in centres) for c in sure)
    assert found >= 0.9 * spots >= 9
    assert false_alarms <= 1


def test_the_shipped_expert_tells_side_and_size_of_every_spot_and_the_kind_of_most(shipped):
    expert, scenes = shipped
    told = [
        (expert.drill(scene, f.box.expand(scene.shape, minimum=64), QUERY).finding.split(), f.label.split())
        for scene in scenes
        for f in scene.findings
        if f.subtle
    ]
    assert len(told) >= 8
    assert [said[:2] for said, _ in told] == [true[:2] for _, true in told]
    assert sum(said == true for said, true in told) >= 0.75 * len(told)  # spiculated ones pass for laminated
    assert expert.drill(scenes[0], Box((0, 0), (64, 64)), QUERY).finding == "normal"
