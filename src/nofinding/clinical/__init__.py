"""A score on its way into the hospital: DICOM objects that an archive takes and a viewer shows.

Needs the extra `nofinding[clinical]`. Everything written is marked as research.
"""
