import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import Compose

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.transforms import (
    CT_WINDOWS,
    FitPixelBudget,
    FitPixelBudgetd,
    RegionCrop,
    RegionCropd,
    ToPicture,
    ToPictured,
    WindowIntensity,
    WindowIntensityd,
)

SIDES = st.integers(1, 3000)


def image(*extent, channels=1):
    voxels = torch.arange(channels * math.prod(extent), dtype=torch.float32).reshape(channels, *extent)
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    return MetaTensor(voxels, affine=affine)


@given(SIDES, SIDES, st.sampled_from([14, 28, 32]), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_budget_is_kept_whatever_the_image(wide, high, patch, most, least, fill):
    least, most = sorted((least, most))
    fit = FitPixelBudget(most * patch**2, least * patch**2, patch, fill)
    columns, rows = fit.size_for((wide, high))
    assert columns % patch == rows % patch == 0
    assert least * patch**2 <= columns * rows <= most * patch**2


@given(SIDES, SIDES)
@settings(max_examples=100, deadline=None)
def test_a_turned_image_gets_the_turned_grid_or_one_as_good(wide, high):
    fit = FitPixelBudget(128 * 128)
    columns, rows = fit.size_for((wide, high))
    turned_columns, turned_rows = fit.size_for((high, wide))

    def error(a, b):
        ideal = min(max(wide * high, 32 * 32), 128 * 128)
        return abs(math.log(a * high / (b * wide))) + 0.5 * abs(math.log(a * b / ideal))

    assert error(columns, rows) == pytest.approx(error(turned_rows, turned_columns))


def test_an_image_that_fits_the_grid_already_keeps_its_pixels():
    fitted = FitPixelBudget(128 * 128)(image(128, 64))
    assert torch.equal(fitted.as_tensor(), image(128, 64).as_tensor())


def test_shrinking_averages_and_growing_interpolates():
    # 4 x 4 blocks of a checkerboard of 0 and 1 average to one half
    checkers = torch.arange(256).reshape(-1, 1) + torch.arange(256)
    shrunk = FitPixelBudget(64 * 64)((checkers % 2)[None].float())
    assert shrunk.shape == (1, 64, 64)
    assert torch.allclose(shrunk.as_tensor(), torch.tensor(0.5))
    grown = FitPixelBudget(64 * 64, fill=True)(image(32, 32))
    assert grown.shape == (1, 64, 64)
    assert torch.all(grown.as_tensor()[0].diff(dim=1) >= 0)


def test_affine_of_a_fitted_image_keeps_the_outer_corners():
    # 100 pixels of 2 mm and 50 of 3 mm become 64 x 32: spacing 200 / 64 and 150 / 32
    fitted = FitPixelBudget(64 * 32)(image(100, 50))
    assert fitted.shape[1:] == (64, 32)
    assert fitted.affine.diag()[:2].tolist() == [200 / 64, 150 / 32]
    first_corner = fitted.affine[:2, 3] - fitted.affine.diag()[:2] / 2
    assert torch.allclose(first_corner, torch.tensor([-1.0, -1.5], dtype=torch.float64))


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_crop_has_the_voxels_of_its_region_and_the_affine_points_at_them(data):
    x, y = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 29))
    box = Box((x, y), (data.draw(st.integers(x + 1, 45)), data.draw(st.integers(y + 1, 35))))
    crop = RegionCrop(
        context=data.draw(st.sampled_from([0.5, 1.0, 2.0])), min_extent=data.draw(st.integers(1, 50))
    )
    whole, region = image(40, 30), crop.region(box, (40, 30))
    part = crop(whole, box)
    assert region.is_inside((40, 30))
    assert torch.equal(part.as_tensor(), whole.as_tensor()[(slice(None), *region.slices)])
    assert part.affine[:2, 3].tolist() == [2.0 * region.start[0], 3.0 * region.start[1]]


def test_crops_work_in_volumes():
    part = RegionCrop(min_extent=(4, 4, 2))(image(10, 10, 10), Box((0, 9, 5), (1, 10, 6)))
    assert part.shape == (1, 4, 4, 2)
    assert part.affine[:3, 3].tolist() == [0.0, 3.0 * 6, 4.0 * 5]  # z: centre 5.5, 4.5 rounds to 5


def test_inverting_a_crop_puts_it_back_in_its_place():
    steps = Compose([RegionCropd("image", min_extent=8), FitPixelBudgetd("image", 64 * 64)])
    done = steps({"image": image(40, 30), "box": [3, 4, 20, 10]})
    back = steps.inverse(done)["image"]
    assert back.shape == (1, 40, 30)
    assert torch.count_nonzero(back[:, 21:]) == 0
    crop = RegionCrop()
    cropped = crop(image(40, 30), Box((3, 4), (20, 10)))
    restored = crop.inverse(cropped)
    assert torch.equal(restored.as_tensor()[:, 3:20, 4:10], image(40, 30).as_tensor()[:, 3:20, 4:10])


def test_lazy_crops_give_the_voxels_of_eager_ones():
    eager, lazy = (Compose([RegionCropd("image", min_extent=8)], lazy=lazy) for lazy in (False, True))
    item = {"image": image(40, 30), "box": Box((3, 4), (20, 10))}
    assert torch.equal(eager(item)["image"].as_tensor(), lazy(item)["image"].as_tensor())
    # of a 2D image MONAI's lazy affine keeps the plane alone, 3 x 3
    affines = [to_affine_nd(2, steps(item)["image"].affine) for steps in (eager, lazy)]
    assert torch.equal(*affines)


def test_a_lazy_budget_gives_the_size_and_affine_of_an_eager_one():
    item = {"image": image(100, 80), "box": [10, 10, 60, 50]}
    results = [
        Compose([RegionCropd("image", min_extent=32), FitPixelBudgetd("image", 64 * 64)], lazy=lazy)(item)[
            "image"
        ]
        for lazy in (False, True)
    ]
    assert results[0].shape == results[1].shape
    assert torch.allclose(results[0].affine, results[1].affine)


@pytest.mark.parametrize("window", sorted(CT_WINDOWS))
def test_every_named_window_spans_black_to_white(window):
    centre, width = CT_WINDOWS[window]
    ends = torch.tensor([centre - width, centre - width / 2, centre, centre + width / 2, centre + width])
    assert WindowIntensity(window)(ends).tolist() == pytest.approx([0, 0, 127.5, 255, 255], abs=1e-3)


def test_a_picture_has_rows_first_and_rounds():
    grey = torch.tensor([[[0.4, 0.6, 300.0], [-5.0, 1.0, 2.0]]])  # 2 columns, 3 rows
    picture = ToPicture()(grey)
    assert picture.shape == (3, 2, 3)
    assert picture[..., 0].tolist() == [[0, 0], [1, 1], [255, 2]]
    assert picture.flags.writeable
    colour = torch.zeros(3, 2, 2, dtype=torch.uint8)
    colour[1, 1, 0] = 9
    assert ToPicture()(colour)[0, 1].tolist() == [0, 9, 0]


@pytest.mark.parametrize(
    "make", [RegionCropd, lambda keys, **k: FitPixelBudgetd(keys, 4096, **k), ToPictured,
             lambda keys, **k: WindowIntensityd(keys, "lung", **k)]
)  # fmt: skip
def test_dictionary_transforms_keep_monais_convention_for_missing_keys(make):
    item = {"image": image(64, 64), "box": [0, 0, 9, 9], "other": 1}
    done = make(["image", "absent"], allow_missing_keys=True)(item)
    assert set(done) == set(item)
    assert done["other"] == 1
    assert item["image"].shape == (1, 64, 64)
    with pytest.raises(KeyError):
        make(["image", "absent"])(item)


def test_dictionary_transforms_equal_array_transforms():
    item = {"image": image(99, 64), "look": Box((5, 6), (50, 40))}
    steps = [
        RegionCropd("image", "look", 1.2, 16),
        FitPixelBudgetd("image", 4096, fill=True),
        WindowIntensityd("image", (3000.0, 6000.0)),
        ToPictured("image"),
    ]
    fitted = FitPixelBudget(4096, fill=True)(RegionCrop(1.2, 16)(item["image"], item["look"]))
    expected = ToPicture()(WindowIntensity((3000.0, 6000.0))(fitted))
    assert np.array_equal(Compose(steps)(item)["image"], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RegionCrop(context=0),
        lambda: RegionCrop(context=float("nan")),
        lambda: RegionCrop(min_extent=0),
        lambda: FitPixelBudget(1000, patch=32),
        lambda: FitPixelBudget(4096, min_pixels=5000),
        lambda: FitPixelBudget(4096, min_pixels=4000, patch=48),
        lambda: FitPixelBudget(4096, patch=0),
        lambda: WindowIntensity("lungs"),
        lambda: WindowIntensity((40.0, 0.0)),
        lambda: WindowIntensity((40.0, float("inf"))),
    ],
)
def test_arguments_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(GeometryError):
        FitPixelBudget(4096)(torch.zeros(1, 9, 9, 9))
    with pytest.raises(GeometryError):
        ToPicture()(torch.zeros(2, 9, 9))
    with pytest.raises(GeometryError):
        RegionCrop()(torch.zeros(1, 9, 9), Box((9, 0), (12, 3)))
