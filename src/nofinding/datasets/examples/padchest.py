"""A small copy of PadChest."""

import numpy as np

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_padchest"]

KINDS = {"nodule": "['nodule']", "effusion": "[' pleural effusion', 'unchanged', '']",
         "mass": "['mass', 'costophrenic angle blunting']"}  # fmt: skip
ODD = {4: "['unchanged']", 6: "['exclude']", 8: "[]", 9: "['normal', 'scoliosis']"}


def write_padchest(copy: Copy) -> None:
    """The gzipped table with its nameless first column and all 35 others, PNG files of 16 bits in
    folders 0 and 14 with values of 12 bits, those of patient 3 stored as MONOCHROME1, years of
    birth as 1930.0, a lateral film for every third patient. Patient 1 was born after the
    film, 2 has no year, 5 sex O; 4, 6, 8 and 9 have labels that say nothing or two things. One
    listed film is not there, one is not listed."""
    rows: list[list[object]] = []
    for number in range(copy.patients):
        who = copy.person(number)
        kind = list(KINDS)[number % 3] if number % 5 in (0, 3) else None
        folder, born = 14 * (number % 2), 2012 - round(who["age"])
        year = {1: "2013.0", 2: ""}.get(number, f"{born}.0")
        for view in ("PA", "L") if number % 3 == 0 else ("AP_horizontal" if number % 4 else "PA",):
            side = "LATERAL" if view == "L" else "0"
            film = f"2168401113669640{number:08d}_0{len(rows):02d}-{side}.png"
            labels = ODD.get(number, KINDS[kind] if kind else "['normal']")
            stored = (copy.film(number, kind, view == "L") * (4095 / 255)).astype(np.uint16)
            dark = number == 3
            file = copy.picture(f"{folder}/{film}", 4095 - stored if dark else stored)
            rows.append(
                [len(rows), film, folder, f"2012{number % 12 + 1:02d}15", f"study{number}",
                 f"{number + 100}", year, "O" if number == 5 else "FM"[int(who["sex"])],
                 "POSTEROANTERIOR" if view == "PA" else "", view, "Manual review of DICOM fields",
                 "No", "DX", "PhilipsMedicalSystems", f"MONOCHROME{1 if dark else 2}", "0", "",
                 "0.2", "12", "2047.0", "4095.0", copy.size, copy.size, "", "", "", "", "",
                 f"{5000 + number}", "informe normal", "Physician", labels, "[]", "[]", "[]",
                 "[]"]
            )  # fmt: skip
            if number == 7:
                file.unlink()  # listed, but not there
    copy.picture("0/none.png", copy.film(copy.patients).astype(np.uint16) * 257)  # not listed
    titles = ["", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
              "PatientSex_DICOM", "ViewPosition_DICOM", "Projection", "MethodProjection",
              "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
              "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM",
              "PixelAspectRatio_DICOM", "SpatialResolution_DICOM", "BitsStored_DICOM",
              "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM",
              "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
              "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels",
              "Localizations", "LabelsLocalizationsBySentence", "labelCUIS",
              "LocalizationsCUIS"]  # fmt: skip
    copy.table("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", titles, rows)
