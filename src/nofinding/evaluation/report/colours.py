"""Colours of anomaly maps, without a drawing library: every scored film gets such a picture."""

import numpy as np
from jaxtyping import Float

__all__ = ["coloured", "tinted"]

# Inferno (S. van der Walt and N. Smith, 2015; CC0), every fifth of its 256 colours. It is
# perceptually uniform: equal steps of the map look equal.
INFERNO = (
    "000004 02020c 050417 0a0722 10092d 160b39 1e0c45 260c51 2f0a5b 380962 400a67 490b6a 510e6c "
    "59106e 61136e 69166e 71196e 781c6d 801f6c 88226a 902568 982766 a02a63 a82e5f b0315b b73557 "
    "bf3952 c63d4d cc4248 d34743 d94d3d df5337 e45a31 e9612b ed6925 f1711f f47918 f78212 f98b0b "
    "fa9407 fb9d07 fca60c fcb014 fbba1f fac42a f8cd37 f6d746 f4e156 f2ea69 f2f27d f5f992 fcffa4 "
)
COLOURS = np.array([[*bytes.fromhex(colour)] for colour in INFERNO.split()]) / 255
STEPS = np.linspace(0, 1, len(COLOURS))


def coloured(share: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape rgb"]:
    """The colour of each value, red, green and blue in [0, 1]; black is 0, pale yellow 1."""
    return np.stack([np.interp(share, STEPS, channel) for channel in COLOURS.T], axis=-1)


def tinted(
    film: Float[np.ndarray, "h w"], heat: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """The film in grey, in [0, 1], under its map: stronger is brighter and more opaque, up to 1."""
    strength = np.clip(heat, 0, 1)[..., None]
    colour = coloured(strength[..., 0])
    return np.asarray(film[..., None] * (1 - 0.7 * strength) + colour * 0.7 * strength)
