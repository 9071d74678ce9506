"""The network that finds the lung field, taught by films that have a twin with all else blacked out.

usage: scripts/lungs.py DATA

DATA holds the folders rsna_normal and rsna_lungs; the column same_film of the latter's films.csv
names the whole film that a masked one was cut from. The weights are written into
src/nofinding/weights/lungs.safetensors; agreement with the held-out masks is printed.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from nofinding.functional.image.equalise import equalise
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.acquisition import exposure, place, placement
from nofinding.nets.focal import LungNet
from nofinding.progress import say
from nofinding.storage.atomic import write_atomic

WEIGHTS = Path(__file__).resolve().parents[1] / "src" / "nofinding" / "weights"
SIDE, STEPS, BATCH, HELD_OUT, BLACK = 224, 160, 16, 100, 12


def pairs(data: Path) -> tuple[Tensor, Tensor]:
    """Whole films and the lung fields of their masked twins, in [0, 1]."""

    def table(name: str) -> list[dict[str, str]]:
        with (data / name / "films.csv").open() as lines:
            return [row for row in csv.DictReader(lines) if row["split"] == "train"]

    def grey(name: str, row: dict[str, str]) -> Tensor:
        film = Image.open(data / name / row["path"]).convert("L").resize((SIDE, SIDE))
        return torch.from_numpy(np.asarray(film).copy())

    whole = {row["image_id"]: row for row in table("rsna_normal")}
    films, fields = [], []
    for row in table("rsna_lungs"):
        if row["same_film"] in whole:
            films.append(grey("rsna_normal", whole[row["same_film"]]))
            mask = (grey("rsna_lungs", row) > BLACK).float()[None, None]
            # JPEG speckles outside, and black lung inside, are no border of a lung.
            mask = F.avg_pool2d(mask, 7, 1, 3) > 0.5
            fields.append(mask[0, 0])
    return torch.stack(films)[:, None], torch.stack(fields)[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    films, fields = pairs(options.data)
    torch.manual_seed(0)
    net, began = LungNet(), time.perf_counter()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        rows = generators(0, [f"lungs/{step}/{row}" for row in range(BATCH)])
        some = torch.stack([torch.randint(HELD_OUT, len(films), (), generator=row) for row in rows])
        where = placement(rows)
        film = place(films[some].float() / 255, where)
        field = F.avg_pool2d(place(fields[some].float(), where), 2)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(equalise(exposure(film, rows)))
        share = out.sigmoid()
        overlap = 2 * (share * field).sum() / (share + field).sum()
        loss = F.binary_cross_entropy_with_logits(out, field) + 1 - overlap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if step % 20 == 19:
            say(
                f"lungs: {step + 1} of {STEPS}, loss {loss:.3f}, {time.perf_counter() - began:.0f} s"
            )
    net.eval()
    with torch.no_grad():
        out = net(equalise(films[:HELD_OUT].float() / 255)) > 0
        truth = F.avg_pool2d(fields[:HELD_OUT].float(), 2) > 0.5
        dice = 2 * (out & truth).sum((1, 2, 3)) / (out.sum((1, 2, 3)) + truth.sum((1, 2, 3)))
    say(
        f"lungs: Dice of {HELD_OUT} films not taught on: median {dice.median():.3f}, least {dice.min():.3f}"
    )
    half = {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in net.state_dict().items()}
    write_atomic(WEIGHTS / "lungs.safetensors", save(half))


if __name__ == "__main__":
    main()
