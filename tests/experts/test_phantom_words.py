from types import SimpleNamespace

import numpy as np
import pytest

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.data.phantom_words import PhantomWords
from medeyes_monai.experts.components import Region
from medeyes_monai.geometry import Box


def disc(box, label):
    """A region that fills the ellipse in a box."""
    x, y = ((np.arange(n) + 0.5 - n / 2) / (n / 2) for n in box.extent)
    mask = x[:, None] ** 2 + y[None] ** 2 <= 1
    return Region(box, mask, label, 0.9, 0.9, 0.9)


@pytest.mark.parametrize("split", ["val", "ood"])
def test_a_region_that_fills_a_finding_is_described_as_the_finding_is(split):
    cases = PhantomVQA(split, size=14)
    for index in range(14):
        scene = cases[index].scene
        for finding in scene.findings:
            assert PhantomWords()(scene, disc(finding.box, finding.label.split()[-1])) == finding.label


def test_the_side_is_the_patients():
    scene = SimpleNamespace(shape=(512, 512))
    assert PhantomWords()(scene, disc(Box((250, 10), (270, 30)), "solid")) == "left small solid"
    assert PhantomWords()(scene, disc(Box((242, 10), (262, 30)), "solid")) == "right small solid"
