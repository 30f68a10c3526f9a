"""A mask is taken to its image by where its voxels lie in the world, or not at all."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from pydicom.data import get_testdata_file

from medeyes_monai.errors import GeometryError
from medeyes_monai.io import match_grid, read_image

LABELS = np.random.default_rng(2).integers(0, 4, (5, 4, 3), dtype=np.uint8)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]) @ np.array(
    [[1.0, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]
)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3], OBLIQUE[:3, 3] = TURN * (0.7, 1.1, 3.0), (-31.5, 12.25, 100)
WAYS = [
    np.array([*zip(axes, signs, strict=True)], dtype=float)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def of(voxels, affine, **meta):
    return MetaTensor(torch.as_tensor(voxels[None].copy()), affine=torch.as_tensor(affine), meta=meta)


IMAGE = of(LABELS.astype(np.int16), OBLIQUE)


@pytest.mark.parametrize("way", WAYS)
def test_labels_come_back_from_all_48_ways_to_store_them(way):
    stored = nibabel.Nifti1Image(LABELS, OBLIQUE).as_reoriented(way)
    mask = match_grid(of(np.asarray(stored.dataobj), stored.affine), IMAGE)
    assert np.array_equal(mask[0].numpy(), LABELS)
    assert torch.equal(mask.affine, IMAGE.affine)


@pytest.mark.parametrize("voxels", [0.2, 1.0, -2.0])
@pytest.mark.parametrize("axis", range(3))
def test_a_shifted_mask_is_refused_with_the_way_out(axis, voxels):
    shifted = OBLIQUE.copy()
    shifted[:3, 3] += voxels * OBLIQUE[:3, axis]
    off = abs(voxels) * (0.7, 1.1, 3.0)[axis]
    with pytest.raises(GeometryError, match=rf"another grid .* {off:.3g} mm off; resample it"):
        match_grid(of(LABELS, shifted), IMAGE)


def test_a_turned_mask_is_refused_even_where_its_first_and_last_voxel_fit():
    cube = np.zeros((4, 4, 4), np.uint8)
    axis, angle = np.ones(3) / np.sqrt(3), np.radians(40)
    cross = np.cross(np.eye(3), axis)
    turned = np.eye(4)
    turned[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    with pytest.raises(GeometryError, match="another grid"):
        match_grid(of(cube, turned), of(cube, np.eye(4)))


def test_rounding_of_headers_is_no_other_grid():
    rounded = OBLIQUE.astype(np.float32).astype(float) + 1e-4
    assert np.array_equal(match_grid(of(LABELS, rounded), IMAGE)[0].numpy(), LABELS)


def test_another_shape_several_channels_and_other_axes_are_refused():
    for mask in (of(LABELS[1:], OBLIQUE), of(LABELS[..., 0], OBLIQUE), IMAGE.repeat(2, 1, 1, 1)):
        with pytest.raises(GeometryError, match=r"the mask has shape .* the image \(1, 5, 4, 3\)"):
            match_grid(mask, IMAGE)


def test_the_mask_of_a_slice_is_turned_as_well(tmp_path):
    slice_, flipped = LABELS[..., :1], np.diag([-1.0, -1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(slice_, np.eye(4)), tmp_path / "slice.nii")
    flipped[:2, 3] = 4, 3
    nibabel.save(nibabel.Nifti1Image(slice_[::-1, ::-1], flipped), tmp_path / "mask.nii")
    image, mask = read_image(tmp_path / "slice.nii"), read_image(tmp_path / "mask.nii")
    assert np.array_equal(match_grid(mask, image)[0].numpy(), LABELS[..., 0])
    flipped[2, 3] = 1  # the next slice
    nibabel.save(nibabel.Nifti1Image(slice_[::-1, ::-1], flipped), tmp_path / "mask.nii")
    with pytest.raises(GeometryError, match="another grid"):
        match_grid(read_image(tmp_path / "mask.nii"), image)


def test_a_picture_has_no_place_and_fits_a_slice_of_its_size(tmp_path):
    image = read_image(get_testdata_file("CT_small.dcm"))
    Image.new("L", (128, 128), 3).save(tmp_path / "mask.png")
    mask = read_image(tmp_path / "mask.png")
    assert (image.meta["placed"], mask.meta["placed"]) == (True, False)
    assert match_grid(mask, image).unique().tolist() == [3]
