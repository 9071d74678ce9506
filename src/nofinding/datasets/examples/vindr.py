"""A small copy of VinDr-CXR 1.0.0 of PhysioNet."""

from typing import Any

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_vindr"]

LABELS = ("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
          "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration",
          "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass",
          "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis",
          "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
          "Other diseases", "No finding")  # fmt: skip
KINDS = {"nodule": "Nodule/Mass", "effusion": "Pleural effusion", "mass": "Lung Opacity"}


# The 25 elements that the publisher leaves in a data set (github.com/vinbigdata-medical/vindr-cxr,
# de-identification/tags.csv): sex, age, size and weight, those of the picture, and these. There is
# no Modality, no UID and no PatientID. That it is a DX film stands in the file meta information.
WITHOUT = ("Modality", "SOPClassUID", "SOPInstanceUID")
SHIPPED: dict[str, Any] = {
    "PatientSize": "", "PatientWeight": "", "PixelSpacing": ["0.139", "0.139"],
    "PixelAspectRatio": ["1", "1"], "SmallestImagePixelValue": 0, "LargestImagePixelValue": 255,
    "WindowCenter": "128", "WindowWidth": "256", "RescaleIntercept": "0", "RescaleSlope": "1",
    "NumberOfFrames": "1", "LossyImageCompression": "00", "LossyImageCompressionRatio": "",
    "LossyImageCompressionMethod": "",
}  # fmt: skip


def write_vindr(copy: Copy) -> None:
    """Three readers a film in train, a consensus in test, whose last label but one has another
    name. Of film 2 one reader of three found something, of film 4 no two the same. Age 000Y in
    film 1, none in 5. One listed film is not there, one is not listed."""
    rng = copy.rng("vindr")
    labels: dict[str, list[list[object]]] = {"train": [], "test": []}
    boxes: dict[str, list[list[object]]] = {"train": [], "test": []}
    for number in range(copy.patients):
        who = copy.person(number)
        part = "test" if number % 4 == 3 else "train"
        kind = list(KINDS)[number % 3] if number % 5 in (0, 3) else None
        film = rng.bytes(16).hex()
        age = {1: "000Y", 5: None}.get(number, f"{round(who['age']):03d}Y")
        copy.dicom(f"{part}/{film}.dicom", copy.film(number, kind),
                   without=WITHOUT, PatientSex="FM"[int(who["sex"])], PatientAge=age,
                   **SHIPPED)  # fmt: skip
        for reader in range(3 if part == "train" else 1):
            stated_label = KINDS[kind] if kind else LABELS[-1]
            if number == 2 and reader == 1:
                stated_label = "Calcification"
            if number == 4:
                stated_label = LABELS[reader]
            head = [film, f"R{reader + 8}"] if part == "train" else [film]
            labels[part].append([*head, *(int(label == stated_label) for label in LABELS)])
            place = [12.5 + reader, 20.0, 40.25, 44.0] if stated_label != LABELS[-1] else [""] * 4
            boxes[part].append([*head, stated_label, *place])
    (copy.root / f"train/{labels['train'][0][0]}.dicom").unlink()  # listed, but not there
    copy.dicom(f"train/{rng.bytes(16).hex()}.dicom", copy.film(copy.patients), without=WITHOUT,
               **SHIPPED)  # fmt: skip  # not listed
    for part in labels:
        head = ["image_id", "rad_id"] if part == "train" else ["image_id"]
        names = [*LABELS[:-2], "Other diseases" if part == "train" else "Other disease", LABELS[-1]]
        copy.table(f"annotations/image_labels_{part}.csv", [*head, *names], labels[part])
        places = ("class_name", "x_min", "y_min", "x_max", "y_max")
        copy.table(f"annotations/annotations_{part}.csv", [*head, *places], boxes[part])
