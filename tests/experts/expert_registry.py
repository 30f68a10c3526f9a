"""Every expert of the package, for the contract that all of them are held to.

Add yours: a name, and how it is made. ``request`` gives session fixtures (``request.getfixturevalue``) to
experts that need a server or a checkpoint; making one twice must give two experts that say the same.
"""

from expert_scenes import RingReader, case_of, make_scene, make_volume

from medeyes_monai.experts import AnnotationExpert, BlobExpert, MemoExpert, PriorExpert, RandomBoxExpert

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
}
