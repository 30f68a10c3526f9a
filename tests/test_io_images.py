import bz2
import gzip
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from medeyes_monai.errors import UnreadableImageError
from medeyes_monai.io import read_image, sha256_of, write_atomic

PATIENT = "Somebody^Known"
VOXELS = np.arange(60, dtype=np.int16).reshape(5, 4, 3)


def write_dicom(path, pixels, syntax=ExplicitVRLittleEndian, **values):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.PatientName = SecondaryCaptureImageStorage, PATIENT
    colour = values.get("SamplesPerPixel", 1) == 3
    data.Rows, data.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelData = pixels.tobytes()
    for name, value in values.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def write_nifti(path, voxels=VOXELS, affine=None):
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 3, 4, 1]) if affine is None else affine), path)
    return path


def refused(path, match=None, **options):
    with pytest.raises(UnreadableImageError, match=match) as caught:
        read_image(path, **options)
    assert Path(path).name in str(caught.value)
    assert PATIENT not in str(caught.value)
    assert caught.value.__cause__ is not None


# pictures


def test_a_picture_is_read_column_first_with_its_8_bits(tmp_path):
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(rows).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image.as_tensor(), torch.as_tensor(rows.T[None].copy()))
    assert torch.equal(image.affine, torch.eye(4, dtype=torch.float64))


def test_a_16_bit_png_keeps_its_range(tmp_path):
    Image.fromarray(np.full((3, 4), 40000, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [40000.0]


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("I;16", 1)]
)
def test_every_png_mode_becomes_one_or_three_channels(tmp_path, mode, channels):
    Image.new("RGB", (7, 5), (255, 255, 255)).convert("L" if mode == "I;16" else mode).convert(mode).save(
        tmp_path / "a.png"
    )
    image = read_image(tmp_path / "a.png")
    assert image.shape == (channels, 7, 5)
    assert image.min() == 255


def test_transparent_pixels_are_black(tmp_path):
    Image.new("RGBA", (2, 2), (255, 255, 255, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").max() == 0


def test_cmyk_jpegs_become_three_channels(tmp_path):
    Image.new("CMYK", (16, 8)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (3, 16, 8)


def test_exif_orientation_is_applied(tmp_path):
    picture, exif = Image.new("L", (16, 8)), Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (1, 8, 16)


# DICOM


def test_a_dicom_slice_is_two_dimensional_rescaled_and_placed(tmp_path):
    # sagittal: along a row +y, down a column -z (LPS); spacing 2 mm down, 3 mm across
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    image = read_image(
        write_dicom(
            tmp_path / "a.dcm",
            pixels,
            RescaleSlope=2,
            RescaleIntercept=-10,
            PixelSpacing=[2, 3],
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImagePositionPatient=[1, 2, 3],
        )
    )
    assert torch.equal(image.as_tensor()[0], torch.as_tensor(2.0 * pixels.T - 10))
    origin, along_x, along_y = (
        image.affine @ torch.tensor([*ij, 0.0, 1.0]).double() for ij in ((0, 0), (1, 0), (0, 1))
    )
    assert origin[:3].tolist() == [-1, -2, 3]  # LPS to RAS
    assert (along_x - origin)[:3].tolist() == [0, -3, 0]
    assert (along_y - origin)[:3].tolist() == [0, 0, -2]


def test_no_patient_data_stay_on_the_image(tmp_path):
    image = read_image(write_dicom(tmp_path / "a.dcm", np.zeros((3, 4), np.int16)))
    assert PATIENT not in repr(image.meta)
    assert PATIENT not in repr(image.applied_operations)


def test_monochrome1_is_inverted_within_its_stored_range(tmp_path):
    pixels = np.array([[0, 10], [100, 255]], np.uint8)
    image = read_image(write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1"))
    assert image.as_tensor()[0].T.tolist() == [[255, 245], [155, 0]]
    # 12 bits stored: v -> 4095 - v, then 2 v + 5, so 0 becomes 8195 and 4095 becomes 5
    twelve = write_dicom(
        tmp_path / "b.dcm",
        np.array([[0, 4095]], np.uint16),
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        RescaleSlope=2,
        RescaleIntercept=5,
    )
    assert read_image(twelve).flatten().tolist() == [8195, 5]


def test_dicom_without_orientation_keeps_its_pixel_spacing(tmp_path):
    image = read_image(write_dicom(tmp_path / "a.dcm", np.zeros((3, 4), np.uint8), ImagerPixelSpacing=[2, 3]))
    assert image.affine.diag().tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize("space", ["RGB", "YBR_FULL"])
def test_dicom_colour_is_rgb(tmp_path, space):
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[..., 0] = 200
    stored = pydicom.pixels.convert_color_space(pixels, "RGB", space) if space != "RGB" else pixels
    path = write_dicom(
        tmp_path / "a.dcm", stored, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation=space
    )
    image = read_image(path)
    assert image.shape == (3, 4, 3)
    assert np.allclose(image[:, 0, 0], [200, 0, 0], atol=2)


def test_dicom_palettes_are_looked_up(tmp_path):
    ramp, black = (np.arange(256, dtype=np.uint16) * 257).tobytes(), bytes(512)
    tables = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")}
    path = write_dicom(
        tmp_path / "a.dcm",
        np.full((2, 2), 77, np.uint8),
        PhotometricInterpretation="PALETTE COLOR",
        RedPaletteColorLookupTableData=ramp,
        GreenPaletteColorLookupTableData=black,
        BluePaletteColorLookupTableData=ramp,
        **tables,
    )
    assert read_image(path)[:, 0, 0].tolist() == [77, 0, 77]


def test_frames_are_the_last_axis(tmp_path):
    frames = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    image = read_image(write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=2))
    assert image.shape == (1, 4, 3, 2)
    assert torch.equal(image.as_tensor()[0], torch.as_tensor(frames.transpose(2, 1, 0).astype(np.float32)))


def test_a_deflated_dicom_is_read(tmp_path):
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    path = write_dicom(tmp_path / "a.dcm", pixels, DeflatedExplicitVRLittleEndian, RescaleIntercept=1)
    assert torch.equal(read_image(path).as_tensor()[0], torch.as_tensor(pixels.T + 1.0))


# NIfTI and NRRD


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_keeps_voxels_and_affine(tmp_path, name):
    image = read_image(write_nifti(tmp_path / name))
    assert torch.equal(image.as_tensor()[0], torch.as_tensor(VOXELS.astype(np.float32)))
    assert image.affine.diag().tolist() == [2, 3, 4, 1]


def test_nifti2_flat_and_multichannel_files_are_read(tmp_path):
    nibabel.save(nibabel.Nifti2Image(VOXELS, np.eye(4)), tmp_path / "two.nii")
    assert read_image(tmp_path / "two.nii").shape == (1, 5, 4, 3)
    assert read_image(write_nifti(tmp_path / "slice.nii", VOXELS[..., :1])).shape == (1, 5, 4)
    assert read_image(write_nifti(tmp_path / "flat.nii", VOXELS[..., 0])).shape == (1, 5, 4)
    assert read_image(write_nifti(tmp_path / "four.nii", np.zeros((5, 4, 3, 2), np.uint8))).shape == (
        2,
        5,
        4,
        3,
    )


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_nrrd_keeps_voxels_and_is_turned_to_ras(tmp_path, encoding):
    header = {
        "encoding": encoding,
        "space": "left-posterior-superior",
        "space directions": np.diag([2.0, 3, 4]),
        "space origin": [1, 2, 3],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, header)
    image = read_image(tmp_path / "a.nrrd")
    assert torch.equal(image.as_tensor()[0], torch.as_tensor(VOXELS.astype(np.float32)))
    assert image.affine.diag().tolist() == [-2, -3, 4, 1]
    assert image.affine[:3, 3].tolist() == [-1, -2, 3]


def test_a_plain_two_dimensional_nrrd_is_read(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS[..., 0], {"spacings": [2.0, 3.0]})
    image = read_image(tmp_path / "a.nrrd")
    assert image.shape == (1, 5, 4)
    assert image.affine.diag().abs().tolist() == [2, 3, 1, 1]


def test_the_format_is_told_by_content_not_by_name(tmp_path):
    write_nifti(tmp_path / "a.nii.gz").rename(tmp_path / "a.dcm")
    assert read_image(tmp_path / "a.dcm").shape == (1, 5, 4, 3)


def test_real_files_are_read(data_root):
    for name, shape in {
        "pyradiomics_tumour/brain1_image.nrrd": (1, 256, 256, 25),
        "totalseg_ct/example_ct_sm.nii.gz": (1, 122, 101, 30),
        "bccd/images/BloodImage_00000.jpg": (3, 640, 480),
    }.items():
        assert read_image(data_root / name).shape == shape


# what must be refused


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.dcm", "d.dcm", "a.nrrd", "a.png", "a.jpg"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path, noise = tmp_path / name, np.random.default_rng(0).integers(0, 255, (40, 40, 4)).astype(np.uint8)
    if ".nii" in name:
        write_nifti(path, noise)
    elif name.endswith("dcm"):
        write_dicom(
            path,
            noise[..., 0].copy(),
            DeflatedExplicitVRLittleEndian if name[0] == "d" else ExplicitVRLittleEndian,
        )
    elif name.endswith("nrrd"):
        nrrd.write(str(path), noise, {"encoding": "gzip"})
    else:
        Image.fromarray(noise[..., 0]).save(path)
    assert read_image(path) is not None
    path.write_bytes(path.read_bytes()[:-300])
    refused(path)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "a.txt", "neither PNG")
    refused(tmp_path / "empty.png", "neither PNG")
    refused(tmp_path / "absent.png", "no such file")
    refused(tmp_path / "pipe.png", "no such file")
    refused(tmp_path, "is a folder")
    report = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8)))
    del report.PixelData, report.Rows
    report.save_as(tmp_path / "a.dcm")
    refused(tmp_path / "a.dcm", "without an image")


@pytest.mark.parametrize(
    "affine",
    [np.diag([0.0, 1, 1, 1]), np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
     np.diag([np.nan, 1, 1, 1]), np.diag([np.inf, 1, 1, 1])],
)  # fmt: skip
def test_a_singular_or_infinite_affine_is_refused(tmp_path, affine):
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(4) + VOXELS.tobytes("F"))
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[108:112], data[344:348] = struct.pack("<f", 352), b"n+1\0"
    (tmp_path / "a.nii").write_bytes(data)
    refused(tmp_path / "a.nii", "affine")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(tmp_path, value):
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 1] = value
    refused(write_nifti(tmp_path / "a.nii.gz", voxels), "not finite")


def test_complex_and_coloured_nifti_are_refused(tmp_path):
    refused(write_nifti(tmp_path / "a.nii", VOXELS.astype(np.complex64)), "plain numbers")


def test_half_of_a_nifti_pair_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(VOXELS, np.eye(4)), tmp_path / "a.hdr")
    refused(tmp_path / "a.hdr", "pair")


def test_an_nrrd_that_points_to_another_file_is_refused(tmp_path):
    (tmp_path / "a.nhdr").write_text(
        "NRRD0004\ntype: uint8\ndimension: 2\nsizes: 2 2\nencoding: raw\ndata file: /etc/hostname\n\n"
    )
    refused(tmp_path / "a.nhdr", "elsewhere")


def test_the_limit_is_the_callers(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz")
    assert read_image(path, max_voxels=60).shape == (1, 5, 4, 3)
    refused(path, "5x4x3 voxels.*raise max_voxels", max_voxels=59)


# bombs: small files that ask for gigabytes


def png_bomb(path):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def nifti_header(shape):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header["dim"][: len(shape) + 1] = [len(shape), *shape]
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(4)


def gzip_zeros(gigabytes=2):
    return gzip.compress(bytes(2**24), mtime=0) * (gigabytes * 64)  # members of a gzip file add up


def deflated_zeros(gigabytes=2):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = compressor.compress(bytes(2**24)) + compressor.flush(zlib.Z_FULL_FLUSH)  # blocks stand alone
    return block * (gigabytes * 64) + b"\x03\x00"


def declared_nifti_bomb(path):
    path.write_bytes(gzip.compress(nifti_header((2048, 2048, 1024))))


def silent_nifti_bomb(path):
    path.write_bytes(gzip.compress(nifti_header((4, 4, 4))) + gzip_zeros())


def nrrd_bomb(path):
    header = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nencoding: gzip\n\n"
    path.write_bytes(header + gzip_zeros())


def bz2_nrrd_bomb(path):
    header = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nencoding: bzip2\n\n"
    path.write_bytes(header + bz2.compress(bytes(2**24)) * 128)


def gzip_bomb(path):
    path.write_bytes(gzip_zeros())


def deflated_dicom_bomb(path):
    write_dicom(path, np.zeros((4, 4), np.uint8), DeflatedExplicitVRLittleEndian)
    with path.open("rb") as file:
        pydicom.filereader.read_preamble(file, force=False)
        pydicom.filereader._read_file_meta_info(file)
        start = file.tell()
        inner = zlib.decompress(file.read(), -zlib.MAX_WBITS)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    private = struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"OB", 0, 2**31)
    head = compressor.compress(inner + private) + compressor.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(path.read_bytes()[:start] + head + deflated_zeros())


def rle_dicom_bomb(path):
    pixels = pydicom.encaps.encapsulate([bytes(64)])
    write_dicom(path, np.zeros((4, 4), np.uint8), RLELossless, PixelData=pixels, Rows=65535, Columns=65535)


def many_frames_bomb(path):
    write_dicom(path, np.zeros((4, 4), np.uint8), NumberOfFrames=2**30)


def nested_dicom_bomb(path):
    write_dicom(path, np.zeros((4, 4), np.uint8))
    opening = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    raw = path.read_bytes()
    before_pixels = raw.index(struct.pack("<HH", 0x0028, 0x0002))
    path.write_bytes(raw[:before_pixels] + opening * 5000 + raw[before_pixels:])


BOMBS = [
    png_bomb,
    declared_nifti_bomb,
    silent_nifti_bomb,
    nrrd_bomb,
    bz2_nrrd_bomb,
    gzip_bomb,
    deflated_dicom_bomb,
    rle_dicom_bomb,
    many_frames_bomb,
    nested_dicom_bomb,
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_a_bomb_is_refused_within_two_seconds_and_100_megabytes(tmp_path, bomb):
    path = tmp_path / "bomb"
    bomb(path)
    assert path.stat().st_size < 3 * 2**20
    start = time.perf_counter()
    refused(path)
    assert time.perf_counter() - start < 2  # measured at most 0.02
    tracemalloc.start()
    refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20


# mutations


@pytest.mark.parametrize(
    ("kind", "times"), [("nii", 250), ("nii.gz", 50), ("dcm", 250), ("nrrd", 50), ("png", 50), ("jpg", 50)]
)
def test_a_file_with_flipped_bytes_is_refused_or_read_but_never_anything_else(tmp_path, kind, times):
    path, rng = tmp_path / f"a.{kind}", np.random.default_rng(7)
    plane = np.ascontiguousarray(VOXELS[..., 0])
    if "nii" in kind:
        write_nifti(path)
    elif kind == "dcm":
        write_dicom(path, plane, RescaleSlope=2, PixelSpacing=[1, 1], ImagePositionPatient=[0, 0, 0],
                    ImageOrientationPatient=[1, 0, 0, 0, 1, 0])  # fmt: skip
    elif kind == "nrrd":
        nrrd.write(str(path), VOXELS, {"encoding": "gzip", "spacings": [1.0, 1, 1]})
    else:
        Image.fromarray(plane.astype(np.uint8)).save(path)
    original, outcomes = path.read_bytes(), {"read": 0, "refused": 0}
    for _ in range(times):
        data = bytearray(original)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            image = read_image(path, max_voxels=2**20)
        except UnreadableImageError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert image.ndim in (3, 4)
            assert torch.isfinite(image.as_tensor().float()).all()
            assert abs(np.linalg.det(image.affine[:3, :3])) > 0
    assert outcomes["refused"] > 0


# writing


def test_a_written_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "a.bin"
    write_atomic(target, b"old")
    write_atomic(target, b"new" * 1000)
    assert target.read_bytes() == b"new" * 1000
    assert list(tmp_path.iterdir()) == [target]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "a", b"x")


def test_sha256_is_that_of_the_bytes(tmp_path):
    # the digest of the empty message, FIPS 180-4
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
