"""What the clinical parts need that is not installed with the rest: the extra `clinical`."""

from importlib.util import find_spec

from nofinding.errors import UserError

__all__ = ["need_clinical", "need_network"]


def need_clinical() -> None:
    """Raises UserError where the extra is not installed."""
    if find_spec("highdicom") is None:
        raise UserError("DICOM out needs the extra: pip install 'nofinding[clinical]'")


def need_network() -> None:
    """Raises UserError where the extra is not installed."""
    if find_spec("dicomweb_client") is None or find_spec("pynetdicom") is None:
        raise UserError("the network needs the extra: pip install 'nofinding[clinical]'")
