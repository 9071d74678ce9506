"""Turns a record into the anatomy of a phantom patient: lengths in cm, densities as fractions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nofinding.datasets.phantom.patients import stream

__all__ = [
    "CTR_RESIDUAL_MAX",
    "CTR_RESIDUAL_SD",
    "Anatomy",
    "Break",
    "anatomy",
    "expected_ctr",
    "magnification",
]

CTR_RESIDUAL_SD = 0.012  # of the cardiothoracic ratio: what the record does not explain
CTR_RESIDUAL_MAX = 2 * CTR_RESIDUAL_SD / 0.96  # a normal clipped at 2 SD has 0.96 of its spread


class Break(NamedTuple):
    """One broken rib."""

    side: int  # -1: the patient's right (left on the film), +1: the patient's left
    rib: int  # 1 to 10, from the top
    at: float  # where, as a fraction of the rib cage's half-width
    step: float  # cm by which the outer fragment has sunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """Everything that the renderer must know of one patient. Lengths in cm in the body."""

    portable: bool
    """AP: tube in front at 100 cm. Otherwise PA: tube behind at 180 cm."""
    magnification: float
    """Film cm per body cm, at the depth of the rib cage."""
    ctr: float
    """Cardiothoracic ratio on the film: widest heart / widest inner rib cage."""
    heart_lean: float
    """Share of the heart's width that lies to the patient's left, 0.6 to 0.7."""
    thorax_half: float
    """Half the inner width of the rib cage, at its widest."""
    depth_half: float
    """Half the inner depth of the rib cage, front to back."""
    lung_length: float
    """Lung apex to the top of the right diaphragm dome."""
    dome_gap: float
    """How much lower the left dome stands."""
    dome_rise: tuple[float, float] = (0.0, 0.0)
    """Lift of the right and left dome by lost lung volume."""
    wall: float
    """Thickness of fat over the ribs, on one side."""
    aorta: float
    """Diameter of the aorta."""
    unfolding: float
    """How far the arch and the descending aorta stand out to the left."""
    spine_bend: float
    """Amplitude of the sideways curve of the spine; positive to the patient's left."""
    bone: float
    """Bone mineral, as a fraction of a young adult's."""
    breast: float
    """Thickness of one breast at its centre."""
    breast_size: float
    """Half-width of a breast."""
    breast_drop: float
    """Height of the breast's centre below the lung apex."""
    shoulder_rise: float
    """How much higher the collar bones project than in a PA film."""
    scapula_overlap: float
    """How far the shoulder blades stand in front of the lungs."""
    mediastinum: float
    """Half the width of the upper mediastinum."""
    lung_density: float
    """As a fraction of the usual density of inflated lung."""
    tilt: float
    """Slope of the ribs: cm from the side to the back."""
    turn: float
    """Rotation of the film, radians."""
    shift: tuple[float, float]
    """Displacement of the film in x and y, cm on the film."""
    exposure: float
    """Photons, as a factor of the usual."""
    brightness: float
    """Offset of the display window, as a fraction of its width."""
    bubble: float
    """Half-width of the air in the stomach; 0 for none."""
    tree: int
    """Seed of the lung vessels."""
    breaks: tuple[Break, ...] = ()
    """Broken ribs."""


def magnification(portable: bool) -> tuple[float, float]:
    """Film cm per body cm, of the heart and of the rib cage: source to film over source to organ.

    PA: source at 180 cm, heart 8 cm and mid-chest 11 cm before the detector. AP: source at 100 cm,
    heart 15 cm and mid-chest 11 cm. The heart so gains 12 % from PA to AP, as Chon et al. measured
    (J Korean Med Sci 2011; 26: 1446), and the cardiothoracic ratio 6 %.
    """
    source, heart, chest = (100.0, 15.0, 11.0) if portable else (180.0, 8.0, 11.0)
    return source / (source - heart), source / (source - chest)


def expected_ctr(ehr: Mapping[str, float]) -> float:
    """The cardiothoracic ratio that the record predicts, on the film of its view.

    Rises by 0.025 for 10 mm[Hg] of systolic pressure (more than in life, so that the value of a
    record shows in a small study), by 0.003 for 10 years, by 0.004 for 5 kg/m2, and from PA to AP.
    """
    body = (
        0.447
        + 0.0025 * (ehr["systolic"] - 127)
        + 0.0003 * (ehr["age"] - 56)
        + 0.0008 * (ehr["bmi"] - 26)
        - 0.004 * (ehr["sex"] - 0.5)
    )
    heart, chest = magnification(ehr["view"] == 1)
    return body * heart / chest


def anatomy(ehr: Mapping[str, float], seed: int, index: int) -> Anatomy:
    """The anatomy of the patient with this full record, with what no record explains added.

    The second part depends on (seed, index) alone: the same patient with another blood pressure
    has the same chest but for the heart.
    """
    own = stream(seed, index, "anatomy").standard_normal(24).clip(-2, 2).tolist()
    portable = ehr["view"] == 1
    age, fat, male = ehr["age"], ehr["bmi"] - 24, ehr["sex"]
    old = max(age - 40, 0) / 40  # 0 at 40 years, 1 at 80
    tall = ehr["height"] - 170
    return Anatomy(
        portable=portable,
        magnification=magnification(portable)[1],
        ctr=expected_ctr(ehr) + CTR_RESIDUAL_SD / 0.96 * own[0],
        heart_lean=0.655 + 0.015 * own[1],
        thorax_half=12.9 + 0.8 * male + 0.045 * tall + 0.03 * fat + 0.25 * own[2],
        depth_half=8.4 + 0.5 * male + 0.05 * fat + 0.5 * old + 0.25 * own[3],
        lung_length=_lung_length(ehr) + 0.5 * own[4],
        dome_gap=1.2 + 0.35 * own[5],
        wall=float(np.clip(1.3 + 0.15 * fat + 0.010 * (ehr["weight"] - 70), 0.5, 6.0)),
        aorta=2.5 + 0.55 * old + 0.15 * male + 0.1 * own[6],
        unfolding=1.3 * max(old, 0) + 0.15 * own[7],
        spine_bend=(0.15 + 0.45 * old) * own[8],
        bone=1.0 - 0.28 * old + 0.04 * own[9],
        breast=_breast(fat, male, own[10]),
        breast_size=5.4 + 0.07 * fat + 0.3 * own[11],
        breast_drop=15.0 + (1 - male) * (1.0 + 0.03 * (age - 40)) + 0.4 * own[12],
        shoulder_rise=(1.6 if portable else 0.0) + 0.35 * own[13],
        scapula_overlap=(3.4 if portable else 0.2) + 0.5 * own[14],
        mediastinum=2.5 + (0.35 if portable else 0.0) + 0.02 * fat + 0.12 * own[15],
        lung_density=1.0 + 0.05 * own[16],
        tilt=3.4 + 0.25 * own[17] + (0.3 if portable else 0.0),
        turn=0.015 * own[18],
        shift=(0.35 * own[19], 0.35 * own[20]),
        exposure=math.exp(0.15 * own[21]) * (0.6 if portable else 1.0),
        brightness=0.02 * own[22],
        bubble=max(0.0, 2.2 + 0.9 * own[23]),
        tree=index + 1_000_003 * seed,
    )


def _lung_length(ehr: Mapping[str, float]) -> float:
    """Longer in the tall, shorter in the stout and in AP films, taken sitting or lying."""
    supine = 1.7 if ehr["view"] == 1 else 0.0
    return 0.14 * ehr["height"] - 0.11 * (ehr["bmi"] - 24) - supine - 0.3 * (1 - ehr["sex"])


def _breast(fat: float, male: float, own: float) -> float:
    """Thickness of a breast: a woman's grows with BMI; a man's is a trace of fat."""
    woman = 2.6 + 0.13 * fat + 0.35 * own
    thickness = (1 - male) * woman + male * 0.05 * max(fat, 0)
    return float(np.clip(thickness, 0.0, 6.5))
