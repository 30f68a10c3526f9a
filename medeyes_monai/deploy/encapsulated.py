"""A PDF as a DICOM object of the study that it is about."""

from __future__ import annotations

from datetime import datetime

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from medeyes_monai.deploy import codes as own
from medeyes_monai.deploy.source import Source

__all__ = ["encapsulated"]

SERIES_NUMBER = 9903


def encapsulated(source: Source, pdf: bytes) -> hd.SOPClass:
    """Return an Encapsulated PDF that refers to the series' images.

    Args:
        source: The series.
        pdf: The file's bytes.
    """
    header = source.headers[0]
    made = hd.SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        **own.new_object(SERIES_NUMBER),
    )
    made.copy_patient_and_study_information(header)
    made.ConversionType = "WSD"
    made.BurnedInAnnotation = "NO"
    made.AcquisitionDateTime = None
    now = datetime.now()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.DocumentTitle = own.TITLE
    made.ConceptNameCodeSequence = [hd.sr.CodedConcept.from_code(codes.DCM.ImagingMeasurementReport)]
    made.SourceInstanceSequence = [_reference(image) for image in source.instances]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return made


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item
