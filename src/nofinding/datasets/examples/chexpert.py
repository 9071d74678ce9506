"""A small copy of CheXpert-v1.0-small."""

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_chexpert"]

FOLDER = "CheXpert-v1.0-small"
LABELS = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
          "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
          "Pleural Other", "Fracture", "Support Devices")  # fmt: skip
KINDS = {"nodule": "Lung Lesion", "effusion": "Pleural Effusion", "mass": "Lung Opacity"}


def write_chexpert(copy: Copy) -> None:
    """train.csv with blank, 1, 0 and -1, valid.csv with 1 and 0 alone, a lateral film for every
    third patient. Patient 1 has age 0, 2 sex Unknown, 8 an uncertain label, 4 nothing stated, 5 a
    view from the left, 6 age 90. One listed film is not there, one is not listed."""
    rows: dict[str, list[list[object]]] = {"train": [], "valid": []}
    for number in range(copy.patients):
        who = copy.person(number)
        part = "valid" if number % 4 == 3 else "train"
        name = f"patient{number + (64_541 if part == 'valid' else 1):05d}"
        kind = list(KINDS)[number % 3] if number % 5 in (0, 3) else None
        views = ("view1_frontal", "view2_lateral") if number % 3 == 0 else ("view1_frontal",)
        for view in views:
            path = f"{FOLDER}/{part}/{name}/study1/{view}.jpg"
            copy.picture(path, copy.film(number, kind, views.index(view)))
            side = "AP" if number % 2 else "PA"
            rows[part].append(
                [path,
                 "Unknown" if number == 2 else ("Female", "Male")[int(who["sex"])],
                 {1: 0, 6: 90}.get(number, round(who["age"])),
                 "Frontal" if view.endswith("frontal") else "Lateral",
                 "" if view.endswith("lateral") else "LL" if number == 5 else side,
                 *_labels(number, kind, part)]
            )  # fmt: skip
    (copy.root / str(rows["train"][0][0])).unlink()  # listed, but not there
    copy.picture(f"{FOLDER}/train/patient00999/study1/view1_frontal.jpg", copy.film(copy.patients))
    titles = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS]
    for part, lines in rows.items():
        copy.table(f"{FOLDER}/{part}.csv", titles, lines)


def _labels(number: int, kind: str | None, part: str) -> list[str]:
    """Fourteen cells; the radiologists of valid.csv left none blank."""
    labels = dict.fromkeys(LABELS, "0.0" if part == "valid" else "")
    if number == 4:
        return [*labels.values()]
    if number == 8:
        return [*(labels | {"Pneumonia": "-1.0", "Edema": "0.0"}).values()]
    labels[KINDS[kind] if kind else "No Finding"] = "1.0"
    if number % 7 == 2:
        labels["Support Devices"] = "1.0"
    if kind == "effusion":
        labels["Atelectasis"] = "-1.0" if part == "train" else "1.0"
    return [*labels.values()]
