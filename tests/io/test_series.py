import math
import os
import shutil
import tracemalloc

import numpy as np
import pydicom
import pytest
import torch
from dicom_series import AXIAL, PATIENT, enhanced, save, series, slice_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import BasicTextSRStorage, DeflatedExplicitVRLittleEndian, generate_uid

from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.geometry import to_world
from medeyes_monai.io import as_stored, read_image, read_volume

VOXELS = np.random.default_rng(0).integers(-1000, 2000, (7, 6, 5), dtype=np.int16)
OBLIQUE = ((math.cos(0.3), math.sin(0.3), 0.0), (0.0, 0.0, -1.0))


def refused(path, match, **options):
    with pytest.raises(UnreadableImageError, match=match) as caught:
        read_volume(path, **options)
    assert PATIENT not in str(caught.value)
    assert "1.2.3" not in str(caught.value)
    return str(caught.value)


def bright(volume):
    """Where the brightest voxel's centre lies."""
    index = np.unravel_index(int(volume[0].argmax()), volume.shape[1:])
    return to_world([int(i) + 0.5 for i in index], volume.affine.numpy())


# order and place


def test_a_series_is_a_volume_in_ras_with_its_own_numbers(tmp_path):
    volume = read_volume(save(tmp_path / "s", series(VOXELS, spacing=(2, 3, 4), origin=(10, 20, 30))))
    # LPS with x to the left and y to the back becomes RAS by turning both round
    assert torch.equal(volume.as_tensor()[0], torch.as_tensor(VOXELS[::-1, ::-1].copy()))
    assert volume.dtype == torch.int16
    # the last column, 10 + 6 * 2 = 22 mm to the left, is the first one now: -22 in RAS; the last row 20 + 15
    assert volume.affine.tolist() == [[2, 0, 0, -22], [0, 3, 0, -35], [0, 0, 4, 30], [0, 0, 0, 1]]


@given(st.permutations(range(5)), st.permutations(range(5)))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_neither_names_nor_numbers_but_positions_order_the_slices(tmp_path, names, numbers):
    slices = series(VOXELS, spacing=(1, 1, 2.5))
    expected = read_volume(save(tmp_path / "plain", slices))
    for one, number in zip(slices, numbers, strict=True):
        one.InstanceNumber = number
    mixed = read_volume(save(tmp_path / "mixed", slices, [f"{n}.dcm" for n in names]))
    assert torch.equal(mixed.as_tensor(), expected.as_tensor())
    assert torch.equal(mixed.affine, expected.affine)


@pytest.mark.parametrize("declared", [1.0, 9.0])
def test_spacing_comes_from_the_positions_not_from_the_thickness(tmp_path, declared):
    slices = series(VOXELS, spacing=(1, 1, 2.5), SliceThickness=declared, SpacingBetweenSlices=declared)
    assert read_volume(save(tmp_path / "s", slices)).affine[2, 2] == 2.5


@pytest.mark.parametrize("axes", [AXIAL, ((0, 1, 0), (0, 0, -1)), ((-1, 0, 0), (0, 0, 1)), OBLIQUE])
def test_every_voxel_keeps_its_millimetres(tmp_path, axes):
    volume = read_volume(save(tmp_path / "s", series(VOXELS, spacing=(2, 3, 4), axes=axes, origin=(5, 6, 7))))
    along, down = np.array(axes)
    for index in [(0, 0, 0), (6, 5, 4), (3, 1, 2)]:
        lps = (
            np.array((5, 6, 7))
            + 2 * index[0] * along
            + 3 * index[1] * down
            + 4 * index[2] * np.cross(along, down)
        )
        mm = torch.tensor([-lps[0], -lps[1], lps[2], 1.0], dtype=torch.float64)
        found = torch.linalg.inv(volume.affine) @ mm
        x, y, z = (int(v) for v in found[:3].round())
        assert (found[:3] - found[:3].round()).abs().max() < 1e-6
        assert volume[0, x, y, z] == VOXELS[index]


def test_a_list_of_files_is_read_as_its_folder(tmp_path):
    folder = save(tmp_path / "s", series(VOXELS))
    files = sorted(folder.iterdir())
    assert torch.equal(read_volume(files[::-1]).as_tensor(), read_volume(folder).as_tensor())
    assert read_volume(files[1:4]).shape[3] == 3
    assert read_volume([*files, files[0]]).shape[3] == 5  # the same file twice is one slice


def test_one_slice_is_a_volume_as_thick_as_it_declares(tmp_path):
    volume = read_volume(save(tmp_path / "s", series(VOXELS[..., :1], SliceThickness=5)))
    assert volume.shape == (1, 7, 6, 1)
    assert volume.affine[2, 2] == 5


def test_slices_counted_from_the_head_are_turned(tmp_path):
    down = read_volume(save(tmp_path / "s", series(VOXELS, step=(0, 0, -3), origin=(0, 0, 12))))
    up = read_volume(save(tmp_path / "t", series(VOXELS[..., ::-1], step=(0, 0, 3))))
    assert torch.equal(down.as_tensor(), up.as_tensor())
    assert torch.equal(down.affine, up.affine)


# numbers


def test_each_slice_has_its_own_rescaling(tmp_path):
    slices = series(VOXELS)
    for k, one in enumerate(slices):
        one.RescaleSlope, one.RescaleIntercept = k + 1, -10 * k
    volume = read_volume(save(tmp_path / "s", slices))
    for k in range(5):
        assert torch.equal(
            volume[0, ..., k].flip(0, 1).int(),
            torch.as_tensor(VOXELS[..., k].astype(np.int32)) * (k + 1) - 10 * k,
        )
    assert volume.dtype == torch.int16


def test_a_fraction_or_a_number_too_large_for_16_bits_makes_it_float(tmp_path):
    slices = series(VOXELS)
    slices[3].RescaleSlope, slices[3].RescaleIntercept = 0.5, 0
    half = read_volume(save(tmp_path / "s", slices))
    assert half.dtype == torch.float32
    assert torch.equal(half[0, ..., 3].flip(0, 1), torch.as_tensor(VOXELS[..., 3] * 0.5, dtype=torch.float32))
    assert torch.equal(half[0, ..., 2].flip(0, 1), torch.as_tensor(VOXELS[..., 2]).float())
    large = series(np.full((4, 4, 3), 60000, np.uint16))
    assert read_volume(save(tmp_path / "t", large)).unique().tolist() == [60000.0]


def test_memory_stays_below_three_volumes(tmp_path):
    folder = save(tmp_path / "s", series(np.zeros((128, 128, 40), np.int16)))
    read_volume(folder)
    tracemalloc.start()
    read_volume(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 128 * 128 * 40 * 2


def of_floats(value):
    """Slices of zeros in floating point, but for one value in the second."""
    slices = series(np.zeros((4, 4, 3), np.float32))
    for k, one in enumerate(slices):
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(one, name)
        one.FloatPixelData = np.diag([value if k == 1 else 0, 0, 0, 0]).astype(np.float32).tobytes()
    return slices


def test_floating_point_is_read_and_a_slice_that_is_not_finite_is_named(tmp_path):
    volume = read_volume(save(tmp_path / "s", of_floats(1.5)))
    assert (volume.dtype, volume[0, ..., 1].max()) == (torch.float32, 1.5)
    for value in (np.nan, -np.inf):
        assert "001.dcm" in refused(save(tmp_path / str(value), of_floats(value)), "not finite")


def test_monochrome1_is_inverted_as_in_a_picture(tmp_path):
    # 12 bits stored: v -> 4095 - v, then 2 v + 5, so that 0 becomes 8195 and 4095 becomes 5
    stored = np.abs(VOXELS).astype(np.uint16)
    stored[0, 0, :2] = 0, 4095
    kind = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    for values, expected in (
        ({"RescaleSlope": 2, "RescaleIntercept": 5}, 2 * (4095 - stored.astype(int)) + 5),
        ({"RescaleSlope": 0.5}, 0.5 * (4095 - stored.astype(int))),
    ):
        folder = save(tmp_path / str(len(values)), series(stored, **kind, **values))
        volume = as_stored(read_volume(folder))
        assert np.array_equal(volume[0].numpy(), expected)
        assert torch.equal(read_image(folder / "001.dcm").as_tensor()[0], volume[0, ..., 1].float())
    signed = save(tmp_path / "signed", series(VOXELS, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(as_stored(read_volume(signed))[0].numpy(), -1 - VOXELS)  # 16 bits: v -> -1 - v


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_hounsfield_units_are_the_same_however_they_are_shown(tmp_path, modality):
    values = {"Modality": modality, "RescaleSlope": 1, "RescaleIntercept": -24}
    folder = save(tmp_path / "s", series(VOXELS, PhotometricInterpretation="MONOCHROME1", **values))
    assert np.array_equal(as_stored(read_volume(folder))[0].numpy(), VOXELS - 24)
    assert np.array_equal(read_image(folder / "001.dcm")[0].numpy(), VOXELS[..., 1] - 24)


# multi-frame


def test_frames_of_one_file_are_the_slices_of_a_series(tmp_path):
    slices = series(VOXELS, spacing=(2, 3, 4), origin=(1, 2, 3), RescaleSlope=2, RescaleIntercept=-5)
    slices[2].RescaleIntercept = 7
    plain = read_volume(save(tmp_path / "s", slices))
    save(tmp_path / "e", [enhanced([slices[k] for k in (3, 0, 4, 1, 2)])], ["a.dcm"])
    for path in (tmp_path / "e", tmp_path / "e" / "a.dcm"):
        volume = read_volume(path)
        assert torch.equal(volume.as_tensor(), plain.as_tensor())
        assert torch.equal(volume.affine, plain.affine)


def test_read_image_refuses_frames_that_have_places_of_their_own(tmp_path):
    save(tmp_path, [enhanced(series(VOXELS))], ["a.dcm"])
    with pytest.raises(UnreadableImageError, match="read_volume places them"):
        read_image(tmp_path / "a.dcm")


def test_frames_without_a_place_are_refused(tmp_path):
    whole = slice_dataset(np.zeros((3, 4, 4), np.int16), (0, 0, 0), NumberOfFrames=3)
    save(tmp_path / "s", [whole])
    refused(tmp_path / "s", "do not say where they lie")


def test_a_deflated_series_is_read(tmp_path):
    slices = series(VOXELS)
    plain = read_volume(save(tmp_path / "s", slices))
    for one in slices:
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert torch.equal(read_volume(save(tmp_path / "d", slices)).as_tensor(), plain.as_tensor())


# what cannot be a volume


def test_a_missing_slice_is_said_with_its_place(tmp_path):
    slices = series(VOXELS)
    refused(save(tmp_path / "s", slices[:2] + slices[3:]), "lacks 1 slices, first after slice 1 of 4")
    refused(save(tmp_path / "t", [slices[0], slices[1], slices[4]]), "lacks 2 slices|uneven")


def test_slices_at_one_place_are_refused(tmp_path):
    slices = series(VOXELS)
    copy = series(VOXELS)[2]
    message = refused(save(tmp_path / "s", [*slices, copy]), "1 slices at places that another slice has")
    assert "first at slice 3 of 6" in message
    refused(save(tmp_path / "t", [*slices, *series(VOXELS)]), "5 slices at places that another slice has")
    refused(save(tmp_path / "u", [slices[0], series(VOXELS)[0]]), "1 slices at places")


def test_uneven_slices_are_refused(tmp_path):
    slices = series(VOXELS)
    slices[3].ImagePositionPatient = [0.0, 0.0, 3.4]
    refused(save(tmp_path / "s", slices), "uneven distances, from 0.6 to 1.4 mm")


def test_positions_rounded_to_a_tenth_are_even(tmp_path):
    slices = series(np.zeros((4, 4, 30), np.int16), spacing=(1, 1, 2.55))
    for one in slices:
        one.ImagePositionPatient = [0, 0, round(float(one.ImagePositionPatient[2]), 1)]
    assert read_volume(save(tmp_path / "s", slices)).affine[2, 2] == pytest.approx(2.55, abs=0.005)


def test_a_slice_beside_the_line_is_refused(tmp_path):
    slices = series(VOXELS)
    slices[2].ImagePositionPatient = [0.0, 5.0, 2.0]
    refused(save(tmp_path / "s", slices), r"slice 2 of 5 is 5 mm beside it")


def test_several_series_are_counted_and_one_is_chosen(tmp_path):
    other = series(VOXELS[..., :3] + 1, SeriesInstanceUID="1.2.3.4")
    folder = save(tmp_path / "s", series(VOXELS))
    save(folder, other, ["b0.dcm", "b1.dcm", "b2.dcm"])
    message = refused(folder, "holds 2 series")
    assert "0 with 5 slices of 7x6, 1 with 3 slices of 7x6; choose one with series=0 to 1" in message
    assert read_volume(folder, series=0).shape[3] == 5
    assert torch.equal(read_volume(folder, series=1)[0].flip(0, 1), torch.as_tensor(VOXELS[..., :3] + 1))
    refused(folder, "holds 2 series", series=2)
    refused(folder, "holds 2 series", series=-1)


def test_another_orientation_or_size_in_a_series_counts_as_a_series(tmp_path):
    scout = series(VOXELS[..., :2], axes=((0, 1, 0), (0, 0, -1)))
    folder = save(tmp_path / "s", series(VOXELS))
    save(folder, scout, ["scout0.dcm", "scout1.dcm"])
    save(folder, series(VOXELS[:4]), [f"z{k}.dcm" for k in range(5)])
    assert "0 with 5 slices of 7x6, 1 with 2 slices of 7x6, 2 with 5 slices of 4x6" in refused(
        folder, "3 series"
    )
    assert read_volume(folder, series=0).shape == (1, 7, 6, 5)


def test_colour_and_slices_without_a_place_are_refused(tmp_path):
    rgb = slice_dataset(
        np.zeros((4, 4), np.uint8), (0, 0, 0), PhotometricInterpretation="RGB", SamplesPerPixel=3
    )
    rgb.PixelData = bytes(48)
    assert "000.dcm" in refused(save(tmp_path / "s", [rgb]), "in colour")
    nowhere = series(VOXELS)
    del nowhere[1].ImagePositionPatient
    assert "001.dcm" in refused(save(tmp_path / "t", nowhere), "ImagePositionPatient")


def test_a_tilted_gantry_is_refused_with_the_way_out_and_straightened_on_demand(tmp_path):
    # each slice 4 mm up and 1 mm towards the back: arctan(1 / 4) = 14 degrees
    voxels = np.full((9, 9, 9), -1000, np.int16)
    voxels[4, 4, :] = 500  # a line along the tilted axis, from (4, 4, 0) to (4, 12, 32) in LPS
    folder = save(tmp_path / "s", series(voxels, step=(0, 1, 4)))
    refused(folder, "tilt='resample'")
    volume = read_volume(folder, tilt="resample")
    assert volume.shape == (1, 9, 17, 9)
    assert volume.dtype == torch.int16
    for k in range(9):
        plane = volume[..., k : k + 1].clone()
        x, y, z = to_world(
            np.add(np.unravel_index(int(plane.argmax()), plane.shape[1:]), (0.5, 0.5, 0.5 + k)),
            volume.affine.numpy(),
        )
        assert (x, y, z) == pytest.approx((-4, -(4 + k), 4 * k))
    assert sorted(volume.unique().tolist()) == [-1000, 500]  # whole steps need no interpolation


@pytest.mark.parametrize("step", [(0.3, 0.7, 4), (-0.45, 0.2, 3), (0.1, -1.3, -5)])
def test_straightening_keeps_places_within_half_a_voxel(tmp_path, step):
    voxels = np.zeros((12, 12, 6), np.int16)
    voxels[5:8, 4:7, 3] = 600
    voxels[6, 5, 3] = 1000
    volume = read_volume(save(tmp_path / "s", series(voxels, step=step)), tilt="resample")
    weights = volume[0].double()
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in weights.shape), indexing="ij")).double()
    middle = [(weights * axis).sum() / weights.sum() + 0.5 for axis in grid]
    lps = np.array((6, 5, 0)) + 3 * np.array(step)
    assert to_world([float(v) for v in middle], volume.affine.numpy()) == pytest.approx(
        (-lps[0], -lps[1], lps[2]), abs=0.01
    )


# files that are damaged, or none


def test_a_slice_cut_short_in_the_middle_is_named(tmp_path):
    folder = save(tmp_path / "s", series(VOXELS))
    whole = (folder / "002.dcm").read_bytes()
    for content in (whole[:-20], whole[:200], whole[:140] + os.urandom(len(whole) - 140)):
        (folder / "002.dcm").write_bytes(content)
        refused(folder, "002.dcm")


@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_an_empty_or_zeroed_slice_is_named_rather_than_passed_over(tmp_path, content):
    folder = save(tmp_path / "s", series(VOXELS))
    (folder / "004.dcm").write_bytes(content)
    assert "004.dcm" in refused(folder, "damaged")


def test_texts_and_other_files_beside_the_slices_are_passed_over(tmp_path):
    folder = save(tmp_path / "s", series(VOXELS))
    (folder / "LICENSE").write_text("free")
    (folder / "a.png").write_bytes(bytes(100))
    (folder / ".hidden").write_bytes(bytes(100))
    (folder / "more").mkdir()
    report = slice_dataset(np.zeros((2, 2), np.int16), (0, 0, 0))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    save(folder, [report], ["report.dcm"])
    assert read_volume(folder).shape[3] == 5


def test_a_folder_without_slices_and_an_empty_list_are_refused(tmp_path):
    refused(tmp_path, "without DICOM files")
    refused([], "empty list")
    refused(tmp_path / "none", "no such file")
    (tmp_path / "a.txt").write_text("x")
    refused([tmp_path / "a.txt"], "a.txt")


def test_a_slope_of_nothing_and_very_many_series_are_refused(tmp_path, monkeypatch):
    refused(save(tmp_path / "s", series(VOXELS, RescaleSlope=0, RescaleIntercept=0)), "RescaleSlope of 0")
    many = [series(VOXELS[..., :1], SeriesInstanceUID=f"1.2.3.{k}")[0] for k in range(4)]
    monkeypatch.setattr("medeyes_monai.io.stacking.MOST_SERIES", 3)
    refused(save(tmp_path / "t", many), "more than 3 series")


def test_the_limit_holds_for_the_whole_volume(tmp_path):
    folder = save(tmp_path / "s", series(VOXELS))
    refused(folder, "raise max_voxels", max_voxels=7 * 6 * 5 - 1)
    assert read_volume(folder, max_voxels=7 * 6 * 5).shape == (1, 7, 6, 5)


def test_unknown_choices_are_refused(tmp_path):
    for wrong in ({"tilt": "yes"}, {"axes": "XYZ"}, {"axes": "LRS"}, {"decoder": "gdcm"}):
        with pytest.raises(ConfigError):
            read_volume(save(tmp_path / "s", series(VOXELS)), **wrong)


# real slices


def test_pydicom_s_ct_slice_repeated_along_z_is_a_series(tmp_path):
    real = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    slices = []
    for k in range(4):
        one = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        x, y, z = real.ImagePositionPatient
        one.ImagePositionPatient = [x, y, z + 5 * k]
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
        slices.append(one)
    volume = read_volume(save(tmp_path / "s", slices, ["d", "b", "a", "c"]))
    single = read_image(get_testdata_file("CT_small.dcm"))
    assert volume.shape == (1, 128, 128, 4)
    assert torch.equal(volume[0, ..., 2].flip(0, 1).float(), single.as_tensor()[0])
    corner = single.affine @ torch.tensor([127.0, 127, 0, 1]).double()  # RAS begins where LPS ends
    assert torch.allclose(volume.affine[:2, 3], corner[:2])
    assert volume.affine[2, 2] == pytest.approx(5)


def test_ct_and_mr_in_one_folder_are_two_series(tmp_path):
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(get_testdata_file(name), tmp_path / name)
    assert "0 with 1 slices of 128x128, 1 with 1 slices of 64x64" in refused(tmp_path, "2 series")
    assert read_volume(tmp_path, series=1).shape == (1, 64, 64, 1)


def test_a_compressed_slice_without_a_plugin_is_refused_with_the_way_out():
    pixels = pydicom.pixels.get_decoder("1.2.840.10008.1.2.4.80")
    if pixels.is_available:
        pytest.skip("a plugin for JPEG-LS is installed")
    refused(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"), "decoder='itk'")
