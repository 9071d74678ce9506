"""A small copy of the RSNA Pneumonia Detection Challenge."""

import json
import uuid

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_rsna"]

CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# As in every film of the publisher, whose files are secondary captures of modality CR.
SHIPPED = {
    "SOPClassUID": CAPTURE, "SpecificCharacterSet": "ISO_IR 100", "StudyDate": "19010101",
    "StudyTime": "000000.00", "AccessionNumber": "", "ConversionType": "WSD",
    "ReferringPhysicianName": "", "PatientBirthDate": "", "BodyPartExamined": "CHEST",
    "StudyID": "", "SeriesNumber": "1", "InstanceNumber": "1", "PatientOrientation": "",
    "PixelSpacing": ["0.143", "0.143"], "LossyImageCompression": "01",
    "LossyImageCompressionMethod": "ISO_10918_1",
}  # fmt: skip
CLASSES = {None: "Normal", "effusion": "Lung Opacity", "mass": "No Lung Opacity / Not Normal"}


def write_rsna(copy: Copy) -> None:
    """DICOM films named by a UUID, a row for each of two boxes, ages without their letter, one of
    148 years and one that is text, two test films, and the mapping to patients of ChestX-ray14;
    every third has two films. One listed film is not there, one is cut short, one not listed."""
    rng = copy.rng("rsna")
    labels, classes, mapping = [], [], []
    for number in range(copy.patients):
        who = copy.person(number)
        for visit in range(1 + (number % 3 == 0)):
            kind = list(CLASSES)[number % 5 // 2] if visit == 0 else None
            film = str(uuid.UUID(bytes=rng.bytes(16)))
            view = "AP" if number % 4 == 1 else "PA"
            age = {1: "148", 2: "UNK"}.get(number, f"{round(who['age'])}")
            file = copy.dicom(
                f"stage_2_train_images/{film}.dcm", copy.film(number, kind, visit), modality="CR",
                PatientSex="FM"[int(who["sex"])], PatientAge=age,
                ViewPosition=view, SeriesDescription=f"view: {view}", PatientID=film,
                PatientName=film, **SHIPPED,
            )  # fmt: skip
            opaque = kind == "effusion"
            for box in range(2 if opaque else 1):
                place = [264.0 + 300 * box, 152.0, 213.0, 379.0] if opaque else [""] * 4
                labels.append([film, *place, int(opaque)])
                classes.append([film, CLASSES[kind]])
            mapping.append(
                {"subset_img_id": film, "img_id": f"{number + 1:08d}_{visit:03d}.png",
                 "orig_labels": ["No Finding"], "StudyInstanceUID": f"1.2.276.0.{number}.{visit}"}
            )  # fmt: skip
            if number == 4:
                file.unlink()  # listed, but not there
            if number == 8:
                file.write_bytes(file.read_bytes()[:100])
    for number in range(copy.patients, copy.patients + 2):
        copy.dicom(f"stage_2_test_images/{uuid.UUID(bytes=rng.bytes(16))}.dcm", copy.film(number),
                   modality="CR", **SHIPPED)  # fmt: skip
    copy.dicom(f"stage_2_train_images/{uuid.UUID(bytes=rng.bytes(16))}.dcm",
               copy.film(copy.patients + 2), modality="CR", **SHIPPED)  # fmt: skip
    copy.table("stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"],
               labels)  # fmt: skip
    copy.table("stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
    copy.text("pneumonia-challenge-dataset-mappings_2018.json", [json.dumps(mapping)])
