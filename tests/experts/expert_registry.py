"""Every expert of the package, for the contract that all of them are held to.

Add yours: a name, and how it is made. ``request`` gives session fixtures (``request.getfixturevalue``) to
experts that need a server or a checkpoint; making one twice must give two experts that say the same.
"""

from expert_scenes import RingReader, case_of, make_scene, make_volume

from medeyes_monai.experts import AnnotationExpert, BlobExpert, MemoExpert, PriorExpert, RandomBoxExpert
from medeyes_monai.experts.consensus import ConsensusExpert
from medeyes_monai.experts.grounding import GroundingExpert
from medeyes_monai.experts.remote import RemoteExpert
from medeyes_monai.experts.sam import OutlineExpert
from medeyes_monai.experts.vlm import VLMExpert

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
