"""A small copy of the films of Kermany et al., as the archive on Kaggle has them."""

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_kermany"]


def write_kermany(copy: Copy) -> None:
    """Folders train, test and val (two films) with NORMAL and PNEUMONIA, names of all kinds, two
    films of every fourth child, a second copy of one film, and what a Mac leaves behind."""
    for number in range(copy.patients):
        part = "test" if number % 4 == 3 else "val" if number in (4, 6) else "train"
        kind = "effusion" if number % 3 == 0 else None
        for visit in range(1 + (number % 4 == 0)):
            name = _name(number, kind is None, visit)
            label = "PNEUMONIA" if kind else "NORMAL"
            film = copy.film(number, kind, visit)
            copy.picture(f"chest_xray/{part}/{label}/{name}.jpeg", film)
            if number == 1:
                copy.picture(f"chest_xray/chest_xray/{part}/{label}/{name}.jpeg", film)
                copy.text(f"__MACOSX/chest_xray/{part}/{label}/._{name}.jpeg", ["Mac OS X"])
    copy.text("chest_xray/train/.DS_Store", ["Bud1"])


def _name(number: int, normal: bool, visit: int) -> str:
    """As the publisher names films: the number of a child counts anew for each germ."""
    if not normal:
        germ = "bacteria" if number % 2 else "virus"
        return f"person{number // 6 + 1}_{germ}_{number * 2 + visit}"
    head = "NORMAL2-" if number % 2 else ""
    second = f"-{visit + 1:04d}" if number % 4 == 0 else ""
    return f"{head}IM-{number + 115:04d}-0001{second}"
