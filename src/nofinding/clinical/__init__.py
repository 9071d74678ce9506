"""A score on its way into the hospital: DICOM objects that an archive takes and a viewer shows.

Needs the extra `nofinding[clinical]`. Everything written is marked as research.

The libraries for DICOM and for the network log and warn with the values that they handle, the ids
and names of patients among them: what they say goes nowhere once this package is imported.
"""

import logging

TALKATIVE = (
    *("highdicom", "pydicom", "pynetdicom"),
    *("dicomweb_client", "requests", "retrying", "urllib3"),
)

for name in TALKATIVE:
    logger = logging.getLogger(name)
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())  # else Python prints warnings by itself
