"""What the servers of experts are made of.

``endpoint`` and ``reading`` need the standard library alone, ``medplib_model`` MedPLIB's environment; all
three run with Python 3.8 or later. ``places`` is for experts of this package.
"""
