import itertools
import tracemalloc

import nibabel
import nrrd
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from PIL import Image

from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.geometry import to_world
from medeyes_monai.io import as_stored, read_image, read_volume

VOXELS = np.random.default_rng(1).integers(-1000, 2000, (5, 4, 3), dtype=np.int16)
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]) @ np.array(
    [[1.0, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]
)


def affine_of(codes, spacing=(0.7, 1.1, 3.0), turn=None):
    """An affine whose stored axes have these directions."""
    directions = {
        "R": (1, 0, 0),
        "L": (-1, 0, 0),
        "A": (0, 1, 0),
        "P": (0, -1, 0),
        "S": (0, 0, 1),
        "I": (0, 0, -1),
    }
    affine = np.eye(4)
    affine[:3, :3] = np.array([directions[c] for c in codes]).T * spacing
    affine[:3, :3] = affine[:3, :3] if turn is None else turn @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 12.25, 100)
    return affine


def write(path, voxels=VOXELS, affine=None, **header):
    image = nibabel.Nifti1Image(voxels, affine_of("LPS") if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def refused(path, match, **options):
    with pytest.raises(UnreadableImageError, match=match) as caught:
        read_volume(path, **options)
    assert path.name in str(caught.value)


def test_there_are_48_ways_to_store_a_volume():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("turn", [None, TURN], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_voxel_keeps_its_millimetres_and_goes_back_to_its_index(tmp_path, codes, turn):
    affine = affine_of(codes, turn=turn)
    volume = read_volume(write(tmp_path / "a.nii", affine=affine))
    if turn is None:
        assert "".join(nibabel.aff2axcodes(volume.affine.numpy())) == "RAS"
    to_new = np.linalg.inv(volume.affine.numpy()) @ affine
    for index in np.ndindex(VOXELS.shape):
        place = to_new @ (*index, 1)
        x, y, z = np.rint(place[:3]).astype(int)
        assert np.abs(place[:3] - (x, y, z)).max() < 1e-5  # of a voxel; NIfTI keeps single precision
        assert volume[0, x, y, z] == VOXELS[index]
    stored = as_stored(volume)
    assert np.array_equal(stored[0].numpy(), VOXELS)
    assert np.allclose(stored.affine, affine, atol=1e-4)


def test_a_mask_on_the_volume_s_grid_goes_back_to_the_file_s_axes(tmp_path):
    volume = read_volume(write(tmp_path / "a.nii", affine=affine_of("IAR")))
    mask = (volume > 500).to(torch.uint8)
    assert np.array_equal(as_stored(mask)[0].numpy(), VOXELS > 500)
    with pytest.raises(ConfigError, match="meta"):
        as_stored(type(volume)(torch.zeros(1, 2, 2, 2)))


def test_meta_tells_the_file_s_grid_and_nothing_of_its_header(tmp_path):
    volume = read_volume(write(tmp_path / "a.nii", affine=affine_of("PIR"), descrip=b"Somebody^Known"))
    assert volume.meta["spatial_shape"] == (5, 4, 3)
    assert np.allclose(volume.meta["original_affine"], affine_of("PIR"), atol=1e-5)
    assert "Somebody" not in str(volume.meta)


# numbers


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (np.uint8, torch.uint8),
        (np.int8, torch.int16),
        (np.int16, torch.int16),
        (np.uint16, torch.int16),
        (np.int32, torch.int16),
        (np.float32, torch.float32),
        (np.float64, torch.float32),
    ],
)
def test_whole_numbers_stay_small(tmp_path, stored, wanted):
    voxels = np.abs(VOXELS % 100).astype(stored)
    volume = read_volume(write(tmp_path / "a.nii", voxels))
    assert volume.dtype == wanted
    assert np.array_equal(as_stored(volume)[0].numpy(), voxels)


def test_numbers_beyond_16_bits_become_float(tmp_path):
    volume = read_volume(write(tmp_path / "a.nii", VOXELS.astype(np.int32) * 100))
    assert volume.dtype == torch.float32
    assert volume.min() == 100 * int(VOXELS.min())


def scaled(path, stored, slope, intercept):
    image = nibabel.Nifti1Image(stored, affine_of("LPS"))
    image.header.set_slope_inter(slope, intercept)
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "wanted"),
    [
        (np.int16, 1, -1024, torch.int16),
        (np.uint8, 2, 5, torch.int16),
        (np.int16, 40, 0, torch.float32),  # beyond 16 bits
        (np.int16, 0.5, 0, torch.float32),
        (np.float32, 1, 1, torch.float32),
    ],
)
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4), (5, 4, 3, 1)])
def test_scaled_numbers_stay_small_where_they_are_whole_and_fit(
    tmp_path, stored, slope, intercept, wanted, shape
):
    voxels = np.resize(VOXELS % 100 if stored == np.uint8 else VOXELS, shape).astype(stored)
    for name in ("a.nii", "a.nii.gz"):
        volume = read_volume(scaled(tmp_path / name, voxels, slope, intercept))
        assert volume.dtype == wanted
        expected = voxels.astype(float) * slope + intercept
        assert np.array_equal(as_stored(volume)[0].numpy(), expected.reshape(volume.shape[1:]))
        assert np.array_equal(read_image(tmp_path / name)[0].numpy(), expected.reshape(shape[:3]))


def test_a_volume_of_a_scaled_series_over_time_is_chosen(tmp_path):
    path = scaled(tmp_path / "a.nii", np.stack([VOXELS, VOXELS + 1], axis=-1), 2, 0)
    assert np.array_equal(as_stored(read_volume(path, frame=1))[0].numpy(), 2 * (VOXELS + 1))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("slope", [1, 0.5])
def test_memory_of_scaled_numbers_stays_below_a_few_volumes(tmp_path, name, slope):
    path = scaled(tmp_path / name, np.zeros((128, 128, 40), np.int16), slope, -1024)
    read_volume(path)
    tracemalloc.start()
    volume = read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # what is stored, what is returned, and a copy of that on the way
    assert peak < 1.05 * (128 * 128 * 40 * 2 + 2 * volume.numel() * volume.element_size())


def test_voxels_that_are_not_finite_are_refused(tmp_path):
    voxels = VOXELS.astype(np.float32)
    for wrong in (np.nan, np.inf):
        voxels[1, 1, 1] = wrong
        refused(write(tmp_path / "a.nii", voxels), "not finite")
    refused(write(tmp_path / "b.nii", np.full((3, 3, 3), 1e300)), "not finite")
    refused(scaled(tmp_path / "c.nii", np.full((3, 3, 3), 3e4, np.int16), 3e38, 0), "not finite")


# axes


def test_a_series_over_time_needs_a_choice(tmp_path):
    path = write(tmp_path / "a.nii", np.stack([VOXELS, VOXELS + 1, VOXELS + 2], axis=-1))
    refused(path, "holds 3 volumes .* frame=0 to 2")
    refused(path, "frame=0 to 2", frame=3)
    assert np.array_equal(as_stored(read_volume(path, frame=2))[0].numpy(), VOXELS + 2)
    one = write(tmp_path / "b.nii", VOXELS[..., None])
    assert read_volume(one).shape == (1, 5, 4, 3)
    refused(one, "frame=0 to 0", frame=1)


def test_one_slice_is_a_volume_one_slice_thick(tmp_path):
    assert read_volume(write(tmp_path / "a.nii", VOXELS[..., :1])).shape == (1, 5, 4, 1)
    assert read_volume(write(tmp_path / "b.nii", VOXELS[..., 0])).shape == (1, 5, 4, 1)


def test_five_axes_and_colour_are_refused(tmp_path):
    with pytest.raises(UnreadableImageError):
        read_volume(write(tmp_path / "a.nii", np.zeros((5, 4, 3, 2, 3), np.int16)))
    rgb = np.zeros((5, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(write(tmp_path / "b.nii", rgb), "plain numbers")


def test_axes_that_a_file_does_not_name_must_be_named(tmp_path):
    image = nibabel.Nifti1Image(VOXELS, None)
    image.header.set_zooms((0.7, 1.1, 3.0))
    nibabel.save(image, tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "axes='LPS'")
    volume = read_volume(tmp_path / "a.nii", axes="LPS")
    assert torch.equal(volume.as_tensor()[0], torch.as_tensor(VOXELS[::-1, ::-1].copy()))
    assert volume.affine.diagonal().tolist() == pytest.approx([0.7, 1.1, 3.0, 1.0])
    assert np.allclose(as_stored(volume).affine, np.diag([-0.7, -1.1, 3.0, 1.0]))
    said = read_volume(write(tmp_path / "b.nii", affine=affine_of("RAS")), axes="LPS")  # the file wins
    assert torch.equal(said.as_tensor()[0], torch.as_tensor(VOXELS))


def test_a_sheared_affine_is_refused_and_its_slices_are_moved_on_demand(tmp_path):
    affine = affine_of("RAS", spacing=(1, 1, 2))
    affine[1, 2] = 0.5
    voxels = np.zeros((5, 9, 5), np.int16)
    voxels[2, 4, 4] = 100  # 4 * 0.5 = 2 mm further forward than its index says
    path = write(tmp_path / "a.nii", voxels, affine)
    refused(path, "tilt='resample'")
    volume = read_volume(path, tilt="resample")
    index = np.unravel_index(int(volume[0].argmax()), volume.shape[1:])
    where = to_world([int(i) + 0.5 for i in index], volume.affine.numpy())
    assert where == pytest.approx((-31.5 + 2, 12.25 + 4 + 2, 100 + 8))
    affine[0, 1] = 0.3  # within the slices: no slice can be moved to undo that
    for tilt in ("refuse", "resample"):
        refused(write(tmp_path / "b.nii", voxels, affine), "sheared|shifted", tilt=tilt)


def test_an_affine_that_places_nothing_is_refused(tmp_path):
    flat = affine_of("RAS")
    flat[:, 2] = 0
    path = write(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[280:328] = flat[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(raw)
    refused(path, "singular")
    raw[280:284] = np.array([np.nan], "<f4").tobytes()
    path.write_bytes(raw)
    refused(path, "finite|damaged")


# NRRD


@pytest.mark.parametrize(
    ("space", "to_ras"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_nrrd_lies_where_its_space_says(tmp_path, space, to_ras):
    directions, origin = np.diag([2.0, 3.0, 4.0]), np.array([10.0, 20.0, 30.0])
    nrrd.write(
        str(tmp_path / "a.nrrd"),
        VOXELS,
        {"space": space, "space directions": directions, "space origin": origin},
    )
    volume = read_volume(tmp_path / "a.nrrd")
    assert volume.dtype == torch.int16
    stored = as_stored(volume)
    assert np.array_equal(stored[0].numpy(), VOXELS)
    expected = np.diag([*(np.array([2.0, 3, 4]) * to_ras), 1.0])
    expected[:3, 3] = origin * to_ras
    assert np.allclose(stored.affine, expected)


@pytest.mark.parametrize("turn", [None, TURN], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_nrrd_keeps_its_millimetres_whatever_the_order_of_its_axes(tmp_path, codes, turn):
    affine = affine_of(codes, turn=turn)
    header = {"space": "RAS", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, header)
    volume, same = read_volume(tmp_path / "a.nrrd"), read_volume(write(tmp_path / "a.nii", affine=affine))
    assert torch.equal(volume.as_tensor(), same.as_tensor())
    assert np.allclose(volume.affine, same.affine, atol=1e-4)  # NIfTI keeps single precision


def test_nrrd_without_a_known_space_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, {"spacings": [2.0, 3.0, 4.0]})
    refused(tmp_path / "a.nrrd", "axes='LPS'")
    assert read_volume(tmp_path / "a.nrrd", axes="RAS").affine.diagonal().tolist() == [2, 3, 4, 1]
    header = {"space": "scanner-xyz", "space directions": np.eye(3), "space origin": np.zeros(3)}
    nrrd.write(str(tmp_path / "b.nrrd"), VOXELS, header)
    refused(tmp_path / "b.nrrd", "LPS, RAS and LAS")


def test_nrrd_with_colours_or_time_is_refused(tmp_path):
    directions = np.vstack([[np.nan] * 3, np.eye(3)])
    header = {"space": "LPS", "space directions": directions, "space origin": np.zeros(3)}
    header["kinds"] = ["vector", "domain", "domain", "domain"]
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((3, 5, 4, 3), np.uint8), header)
    refused(tmp_path / "a.nrrd", "not one of space")


def test_pictures_are_refused_with_the_way_out(tmp_path):
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "read_image")
    (tmp_path / "a.nii").write_bytes(b"nothing")
    refused(tmp_path / "a.nii", "neither")


def test_nibabel_s_own_turning_agrees(tmp_path):
    affine = affine_of("PSL")
    volume = read_volume(write(tmp_path / "a.nii.gz", affine=affine))
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(VOXELS, affine))
    assert np.array_equal(volume[0].numpy(), canonical.get_fdata())
    assert np.allclose(volume.affine, canonical.affine, atol=1e-5)
    assert np.allclose(inv_ornt_aff(axcodes2ornt("RAS"), VOXELS.shape), np.eye(4))


# real volumes


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("totalseg_ct/example_ct.nii.gz", (1, 122, 101, 112), torch.int16),
        ("totalseg_ct/example_mr_sm.nii.gz", (1, 117, 91, 20), torch.float32),
        ("pyradiomics_tumour/brain1_image.nrrd", (1, 256, 256, 25), torch.int16),
    ],
)
def test_real_volumes_are_read(data_root, name, shape, dtype):
    if not (data_root / name).is_file():
        pytest.skip(f"no {name}")
    volume = read_volume(data_root / name)
    assert sorted(volume.shape) == sorted(shape)
    assert "".join(nibabel.aff2axcodes(volume.affine.numpy())) == "RAS"
