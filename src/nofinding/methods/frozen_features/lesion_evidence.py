"""What the focal network says of a film, against what it says of normal films at the same place."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nofinding.nets.focal import FAMILIES

__all__ = ["NODULE", "above_normal", "condensed", "lesion_evidence", "normal_lesions"]

POOL = 4  # places along a side that are judged as one: 8 pixels of the film
MOST = (20, 120)  # highest places that stand for the nodules, and for each other family: 1 cm; 1 %
HARMLESS = ("device",)  # told apart so that it is not taken for a nodule; it is no disease
DISEASES = {i: name for i, name in enumerate(FAMILIES) if name not in HARMLESS}
NODULE = list(DISEASES.values()).index("nodule")  # its place among the families
LEAST = 0.5  # of a spread, which may be next to nothing where normal films never show anything


def condensed(lesions: Float[Tensor, "b f i j"]) -> tuple[Tensor, Tensor]:
    """Of each family of disease: the highest logit in each patch of places (b, g, k, l), and the
    mean of its highest places anywhere (b, g). Devices and the lung field are none."""
    families = lesions[:, list(DISEASES)].float()
    places = families[0, 0].numel()
    counts = [min(MOST[i != NODULE], places) for i in range(len(DISEASES))]
    highest = families.flatten(2).topk(max(counts), dim=2).values
    means = [highest[:, i, :count].mean(1) for i, count in enumerate(counts)]
    return F.max_pool2d(families, POOL), torch.stack(means, dim=1)


def normal_lesions(
    places: Float[Tensor, "n g k l"], highest: Float[Tensor, "n g"]
) -> dict[str, Tensor]:
    """Means and spreads over normal films of what `condensed` gives."""
    return {
        "places.mean": places.float().mean(0),
        "places.spread": places.float().std(0).clamp_min(LEAST),
        "highest.mean": highest.mean(0),
        "highest.spread": highest.std(0).clamp_min(LEAST),
    }


def lesion_evidence(
    highest: Float[Tensor, "b g"], scale: Mapping[str, Tensor]
) -> Float[Tensor, " b"]:
    """The family that stands out most from normal films, softly: one clear sign is enough."""
    standard = (highest - scale["highest.mean"]) / scale["highest.spread"]
    return torch.logsumexp(standard, dim=1)


def above_normal(
    places: Float[Tensor, "b g k l"], scale: Mapping[str, Tensor]
) -> Float[Tensor, "b k l"]:
    """The family that stands out most at each place, in standard deviations of normal films."""
    standard = (places - scale["places.mean"]) / scale["places.spread"]
    return standard.amax(1)
