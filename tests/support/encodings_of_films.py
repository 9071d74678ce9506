"""One film in the transfer syntaxes that scanners and archives use."""

import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def film_in(syntax: UID | None, pixels: np.ndarray, **tags: object) -> Dataset:
    """A DX film, 8 or 16 bits, losslessly in that syntax; None: explicit VR little endian. A tag
    given as None is left out."""
    data = Dataset()
    data.SOPClassUID, data.Modality = UID(DX), "DX"
    data.SOPInstanceUID, data.StudyInstanceUID = generate_uid(), "1.2.826.0.1.3680043.8.498.77"
    data.PatientID, data.PatientName = "P-1", "Phantom^One"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    for keyword, value in tags.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    big = syntax == ExplicitVRBigEndian
    stored = pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels
    data.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = UID(DX)
    data.file_meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.3680043.8.498.78")
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax is not None and syntax.is_compressed and not syntax.is_deflated:
        data.compress(syntax, generate_instance_uid=False)
    elif syntax is not None:
        data.file_meta.TransferSyntaxUID = syntax
    return data
