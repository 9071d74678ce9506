"""RD4AD against anomalib's, where that is installed: the same weights, the same maps in."""

from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from nofinding.functional.features.feature_maps import cosine_map, film_cosine, summed_map
from nofinding.nets.reverse import Block, Fusion, ReverseDecoder, Student

Backbone = Literal["resnet18", "wide_resnet50_2"]


@pytest.fixture(scope="module")
def anomalib() -> Any:
    """anomalib's parts; its torchvision may come without the compiled operators it declares."""
    pytest.importorskip("anomalib")
    from anomalib.models.image.reverse_distillation import anomaly_map, loss, torch_model

    parts = ModuleType("parts")
    parts.map, parts.loss, parts.model = anomaly_map, loss, torch_model  # type: ignore[attr-defined]
    return parts


def scatter(net: nn.Module, chance: torch.Generator) -> None:
    """Weights and statistics of no special value, so that a misplaced one shows."""
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=chance)
            wide = value[0].numel() ** -0.5 if value.ndim > 1 else 1.0
            value.copy_(drawn + 0.5 if "var" in name else (2 * drawn - 1) * wide * 1.7)


def take(ours: nn.Module, *theirs: nn.Module) -> None:
    """Copies in order; the layouts name their layers differently, and have them alike."""
    values = [v for module in theirs for v in module.state_dict().values()]
    names = list(ours.state_dict())
    assert len(names) == len(values)
    ours.load_state_dict(dict(zip(names, values, strict=True)))


@pytest.fixture(scope="module", params=["resnet18", "wide_resnet50_2"])
def pair(request: pytest.FixtureRequest, anomalib: Any) -> tuple[Student, Any, list[Tensor]]:
    backbone: Backbone = request.param
    chance = torch.Generator().manual_seed(0)
    basic = backbone == "resnet18"
    # As wide inside as the backbone itself, which is not what anomalib does unless it is told.
    metadata = {} if basic else {"width_per_group": 128}
    ocbe = anomalib.model.get_bottleneck_layer(backbone, **metadata).eval()
    decoder = anomalib.model.get_decoder(backbone).eval()
    scatter(ocbe, chance)
    scatter(decoder, chance)
    block: Block = "basic" if basic else "bottleneck"
    widths = (64, 128, 256) if basic else (256, 512, 1024)
    depths = (2, 2, 2) if basic else (3, 4, 6)
    fusion = Fusion(widths, 2 * widths[-1], 2 if basic else 3, block)
    ours = ReverseDecoder(widths, 2 * widths[-1], depths, block)
    take(fusion.align[0], ocbe.conv1, ocbe.bn1, ocbe.conv2, ocbe.bn2)
    take(fusion.align[1], ocbe.conv3, ocbe.bn3)
    take(fusion.embed, ocbe.bn_layer)
    for stage, name in zip(ours.stages, ("layer1", "layer2", "layer3"), strict=True):
        take(stage, getattr(decoder, name))
    maps = [
        torch.randn(2, c, s, s, generator=chance) for c, s in zip(widths, (16, 8, 4), strict=True)
    ]
    return Student(fusion, ours).eval(), lambda m: decoder(ocbe(m)), maps


@torch.no_grad()
def test_student_loss_and_map_agree(pair: tuple[Student, Any, list[Tensor]], anomalib: Any) -> None:
    student, theirs, maps = pair
    result, expected = student(maps), theirs(maps)
    assert len(result) == len(expected) == 3
    for here, there in zip(result, expected, strict=True):
        scale = float(there.abs().mean())
        assert 1e-3 < scale < 1e4
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4 * scale)
    loss = torch.stack([film_cosine(a, b).mean() for a, b in zip(maps, result, strict=True)]).sum()
    torch.testing.assert_close(loss, anomalib.loss.ReverseDistillationLoss()(maps, expected))
    added = anomalib.map.AnomalyMapGenerationMode.ADD
    generator = anomalib.map.AnomalyMapGenerator((64, 64), sigma=4, mode=added)
    ours = summed_map([cosine_map(a, b) for a, b in zip(maps, result, strict=True)], (64, 64), 4.0)
    # They mirror at the border without the border pixel, so what a border is near to may differ.
    inside = (..., slice(17, -17), slice(17, -17))
    theirs_map = generator(expected, maps)
    assert theirs_map.std() > 1e-3
    torch.testing.assert_close(ours[inside], theirs_map[inside], rtol=0, atol=1e-4)
