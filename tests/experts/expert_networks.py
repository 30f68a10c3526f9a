"""Networks by hand, for the tests of experts."""

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

from medeyes_monai.experts import SegmentationExpert

LABELS = ("background", "bright", "dark")


class ByBrightness(torch.nn.Module):
    """Classes by grey value in [0, 1], in two or three dimensions: background, bright, dark."""

    def __init__(self):
        super().__init__()
        self.register_buffer("slope", torch.tensor(20.0))

    def forward(self, image):
        """Return logits ``(1, 3, ...)``."""
        grey = image.mean(dim=1, keepdim=True)
        return torch.cat([0 * grey, self.slope * (grey - 0.7), self.slope * (0.15 - grey)], dim=1)


def to_unit(image):
    return image / 255


def brightness_expert(labels=LABELS, **settings):
    """An expert that finds the spots of ``make_scene`` and ``make_volume``."""
    return SegmentationExpert(ByBrightness(), labels, **{"preprocessing": to_unit, **settings})


def by_hand(images):
    """Detect the bright and the dark things of ``make_scene`` and ``make_volume`` with scores by hand."""
    grey = images[0].mean(dim=0)
    found = []
    for label, (score, inside) in enumerate(((0.75, grey > 160), (0.5, (grey < 40) & (grey > 5)))):
        places = inside.nonzero()
        if len(places):
            corners = torch.cat([places.amin(dim=0), places.amax(dim=0) + 1]).float()
            found.append((corners, label, score))
    axes = 2 * grey.ndim
    boxes = torch.stack([f[0] for f in found]) if found else torch.zeros(0, axes)
    scores = torch.tensor([f[2] for f in found])
    return [{"boxes": boxes, "labels": torch.tensor([f[1] for f in found]), "labels_scores": scores}]


class Features(torch.nn.Module):
    """One map of features at a quarter of the resolution, in the form that MONAI's RetinaNet asks for."""

    out_channels = 8

    def __init__(self, dims):
        super().__init__()
        conv = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
        self.conv = conv(1, self.out_channels, 4, stride=4)

    def forward(self, image):
        """Return the map by name."""
        return {"0": self.conv(image / 255)}


def retina_net(dims):
    """A RetinaNet of MONAI with random weights, the same at each call."""
    torch.manual_seed(0)
    anchors = AnchorGeneratorWithAnchorShape(
        feature_map_scales=(1,), base_anchor_shapes=((16,) * dims, (32,) * dims)
    )
    network = RetinaNet(
        spatial_dims=dims,
        num_classes=2,
        num_anchors=2,
        feature_extractor=Features(dims),
        size_divisible=4,
    )
    detector = RetinaNetDetector(network, anchors)
    detector.set_target_keys(box_key="boxes", label_key="labels")
    detector.set_box_selector_parameters(
        score_thresh=0.0, topk_candidates_per_level=32, detections_per_img=16
    )
    return detector
