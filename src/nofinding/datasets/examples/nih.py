"""A small copy of ChestX-ray14."""

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_nih"]

LABELS = {"nodule": "Nodule", "effusion": "Effusion", "mass": "Mass|Infiltration"}


def write_nih(copy: Copy) -> None:
    """Films in images_001 and images_002, the table of 2017 with its broken titles and trailing
    comma, ages over 400, and the two lists. One listed film is not there, one is not listed."""
    rng = copy.rng("nih")
    rows, boxes = [], []
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for number in range(copy.patients):
        who = copy.person(number)
        part = "test_list.txt" if number % 4 == 3 else "train_val_list.txt"
        for visit in range(1 + number % 2):
            kind = list(LABELS)[number % 3] if number % 5 in (2, 3) and visit == 0 else None
            name = f"{number + 1:08d}_{visit:03d}.png"
            copy.picture(
                f"images_{1 + number % 2:03d}/images/{name}", copy.film(number, kind, visit)
            )
            age = 413 if number == 1 else round(who["age"]) + visit
            rows.append(
                [name, LABELS[kind] if kind else "No Finding", visit, number + 1, age,
                 "FM"[int(who["sex"])], "AP" if rng.random() < 0.4 else "PA",
                 2500, 2048, 0.168, 0.168, ""]
            )  # fmt: skip
            lists[part].append(name)
            if kind == "nodule":
                boxes.append([name, "Nodule", 300.5, 400.25, 120.0, 110.5, "", "", ""])
    first = f"images_001/images/{1:08d}_000.png"
    (copy.root / first).unlink()  # listed, but not there
    copy.picture("images_002/images/00099999_000.png", copy.film(copy.patients))  # not listed
    titles = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age",
              "Patient Gender", "View Position", "OriginalImage[Width", "Height]",
              "OriginalImagePixelSpacing[x", "y]", ""]  # fmt: skip
    copy.table("Data_Entry_2017.csv", titles, rows)
    copy.table(
        "BBox_List_2017.csv",
        ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", ""],
        boxes,
    )
    for name, films in lists.items():
        copy.text(name, films)
