"""Every expert of the package, for the contract that all of them are held to.

Add yours: a name, and how it is made. ``request`` gives session fixtures (``request.getfixturevalue``) to
experts that need a server or a checkpoint; making one twice must give two experts that say the same.
"""

from pathlib import Path

from expert_networks import LABELS, ByBrightness, by_hand, to_unit
from expert_scenes import RingReader, case_of, make_scene, make_volume

from medeyes_monai.experts import (
    AnnotationExpert,
    BlobExpert,
    DetectorExpert,
    MemoExpert,
    PriorExpert,
    RandomBoxExpert,
    SegmentationExpert,
    bundle_expert,
)
from medeyes_monai.experts.consensus import ConsensusExpert
from medeyes_monai.experts.grounding import GroundingExpert
from medeyes_monai.experts.remote import RemoteExpert
from medeyes_monai.experts.sam import OutlineExpert
from medeyes_monai.experts.vlm import VLMExpert

PHANTOM_EXPERT = Path(__file__).resolve().parents[2] / "bundle" / "models" / "phantom_expert"

EXPERTS = {
    "annotations": lambda request: AnnotationExpert(
        RingReader(), jitter=5, false_alarm_rate=2.0, drill_error=0.3
    ),
    "annotations without reader": lambda request: AnnotationExpert(),
    "rough annotations": lambda request: AnnotationExpert(RingReader(), coarse_rate=0.5, legible_extent=64),
    "blobs": lambda request: BlobExpert(),
    "random": lambda request: RandomBoxExpert(4, seed=3),
    "prior": lambda request: PriorExpert(
        [case_of(make_scene("another")), case_of(make_volume("another volume"))], seed=3
    ),
    "memo": lambda request: MemoExpert(AnnotationExpert(RingReader())),
    "network": lambda request: SegmentationExpert(ByBrightness(), LABELS, preprocessing=to_unit),
    "network for volumes": lambda request: SegmentationExpert(
        ByBrightness(), LABELS, preprocessing=to_unit, spatial_dims=3, min_extent=16, context=24
    ),
    "shipped bundle": lambda request: bundle_expert(PHANTOM_EXPERT),
    "detector": lambda request: DetectorExpert(by_hand, ("ring", "disc"), reader=RingReader()),
    "detector for volumes": lambda request: DetectorExpert(by_hand, ("ring", "disc"), spatial_dims=3),
    "remote": lambda request: RemoteExpert(request.getfixturevalue("annotation_server").url),
    "MedPLIB": lambda request: RemoteExpert(request.getfixturevalue("medplib_server").url),
    "vlm": lambda request: VLMExpert(request.getfixturevalue("chat"), pixels=112 * 112),
    "consensus": lambda request: ConsensusExpert(
        [
            AnnotationExpert(RingReader(), seed=0),
            AnnotationExpert(RingReader(), seed=1, jitter=9),
            RandomBoxExpert(),
        ]
    ),
    "Grounding DINO": lambda request: GroundingExpert(models_of(request)["grounding_dino"]),
    "OWLv2": lambda request: GroundingExpert(models_of(request)["owlv2"], reader=RingReader()),
    "SAM 3": lambda request: GroundingExpert(models_of(request)["sam3"]),
    "SAM": lambda request: OutlineExpert(BlobExpert(), models_of(request)["sam"]),
}


def models_of(request):
    return request.getfixturevalue("models")
