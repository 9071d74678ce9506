"""The methods by name, as on the command line. Adding one is one file and one line here."""

from nofinding.methods.ae import AE
from nofinding.methods.diad import DiAD
from nofinding.methods.diff3m import Diff3M
from nofinding.methods.diff3m_f import Diff3MF
from nofinding.methods.frozen_knn import FrozenKNN
from nofinding.methods.mad_ad import MADAD
from nofinding.methods.mean_grey import MeanGrey
from nofinding.methods.pca import PCA
from nofinding.methods.pixel_knn import PixelKNN
from nofinding.methods.protocol import Detector
from nofinding.methods.synthetic import Synthetic
from nofinding.methods.thumbnail import Thumbnail

__all__ = ["METHODS", "Detector"]

METHODS: dict[str, type[Detector]] = {
    "diff3m-f": Diff3MF,
    "diff3m": Diff3M,
    "diad": DiAD,
    "mad-ad": MADAD,
    "mean-grey": MeanGrey,
    "thumbnail": Thumbnail,
    "pixel-knn": PixelKNN,
    "pca": PCA,
    "ae": AE,
    "frozen-knn": FrozenKNN,
    "synthetic": Synthetic,
}
