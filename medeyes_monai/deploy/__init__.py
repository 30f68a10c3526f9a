"""From a DICOM study and a question to results that a PACS accepts: SR, SEG, PDF and JSON."""
