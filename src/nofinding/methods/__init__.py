"""The methods by name, as on the command line. Adding one is one file and one line here."""

from nofinding.methods.ae import AE
from nofinding.methods.anoddpm import AnoDDPM
from nofinding.methods.cddpm import CDDPM
from nofinding.methods.ddpm import DDPM
from nofinding.methods.ddpm_pcm import DDPMPCM
from nofinding.methods.diff3m import Diff3M
from nofinding.methods.diff3m_f import Diff3MF
from nofinding.methods.diffpath import DiffPath
from nofinding.methods.frozen_knn import FrozenKNN
from nofinding.methods.mddpm import MDDPM
from nofinding.methods.mean_grey import MeanGrey
from nofinding.methods.osd_irf import OSDIRF
from nofinding.methods.pddpm import PDDPM
from nofinding.methods.protocol import Detector
from nofinding.methods.synthetic import Synthetic
from nofinding.methods.thumbnail import Thumbnail

__all__ = ["METHODS", "Detector"]

METHODS: dict[str, type[Detector]] = {
    "diff3m-f": Diff3MF,
    "diff3m": Diff3M,
    "mean-grey": MeanGrey,
    "thumbnail": Thumbnail,
    "ae": AE,
    "frozen-knn": FrozenKNN,
    "synthetic": Synthetic,
    "ddpm": DDPM,
    "ddpm-pcm": DDPMPCM,
    "anoddpm": AnoDDPM,
    "osd-irf": OSDIRF,
    "diffpath": DiffPath,
    "pddpm": PDDPM,
    "cddpm": CDDPM,
    "mddpm": MDDPM,
}
