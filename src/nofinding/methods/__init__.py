"""The methods by name, as on the command line. Adding one is one file and one line here."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from nofinding.methods.ae import AE
from nofinding.methods.ae_u import AEU
from nofinding.methods.anoddpm import AnoDDPM
from nofinding.methods.autoddpm import AutoDDPM
from nofinding.methods.cddpm import CDDPM
from nofinding.methods.cfa import CFA
from nofinding.methods.conditioned_ddad import ConditionedDDAD
from nofinding.methods.ddad import DDAD, DDADIntra
from nofinding.methods.ddad_asr import DDADASR, DDADASRIntra
from nofinding.methods.ddpm import DDPM
from nofinding.methods.ddpm_ood import DDPMOOD
from nofinding.methods.ddpm_pcm import DDPMPCM
from nofinding.methods.deep_knn import DeepKNN
from nofinding.methods.diad import DiAD
from nofinding.methods.diff3m import Diff3M
from nofinding.methods.diff3m_f import Diff3MF
from nofinding.methods.diffpath import DiffPath
from nofinding.methods.frozen_knn import FrozenKNN
from nofinding.methods.invad import InvAD
from nofinding.methods.ldm_kl import LDMKL
from nofinding.methods.ldm_ood import LDMOOD
from nofinding.methods.mad_ad import MADAD
from nofinding.methods.mahalanobis import Mahalanobis
from nofinding.methods.mambaad import MambaAD
from nofinding.methods.mddpm import MDDPM
from nofinding.methods.mean_grey import MeanGrey
from nofinding.methods.memae import MemAE
from nofinding.methods.osd_irf import OSDIRF
from nofinding.methods.padim import PaDiM
from nofinding.methods.patchcore import PatchCore
from nofinding.methods.pca import PCA
from nofinding.methods.pddpm import PDDPM
from nofinding.methods.pixel_knn import PixelKNN
from nofinding.methods.protocol import Detector
from nofinding.methods.rd4ad import RD4AD
from nofinding.methods.squid import SQUID
from nofinding.methods.synthetic import Synthetic
from nofinding.methods.thor import THOR
from nofinding.methods.thumbnail import Thumbnail
from nofinding.methods.vae import VAE
from nofinding.methods.wolleb import Wolleb
from nofinding.methods.zero_shot import ZeroShot

__all__ = ["METHODS", "Detector"]

METHODS: dict[str, type[Detector]] = {
    # Ours
    "diff3m-f": Diff3MF,
    "diff3m": Diff3M,
    "synthetic": Synthetic,
    # Reconstruction
    "vae": VAE,
    "memae": MemAE,
    "ae-u": AEU,
    "ddad": DDAD,
    "ddad-intra": DDADIntra,
    "ddad-asr": DDADASR,
    "ddad-asr-intra": DDADASRIntra,
    "squid": SQUID,
    # Diffusion on pixels
    "ddpm": DDPM,
    "ddpm-pcm": DDPMPCM,
    "anoddpm": AnoDDPM,
    "pddpm": PDDPM,
    "cddpm": CDDPM,
    "mddpm": MDDPM,
    "conditioned-ddad": ConditionedDDAD,
    "autoddpm": AutoDDPM,
    "thor": THOR,
    "wolleb": Wolleb,
    "ddpm-ood": DDPMOOD,
    "osd-irf": OSDIRF,
    "diffpath": DiffPath,
    # Diffusion on latents and features
    "ldm-ood": LDMOOD,
    "ldm-kl": LDMKL,
    "diad": DiAD,
    "mad-ad": MADAD,
    "invad": InvAD,
    # Frozen features
    "patchcore": PatchCore,
    "padim": PaDiM,
    "cfa": CFA,
    "mahalanobis": Mahalanobis,
    "deep-knn": DeepKNN,
    "rd4ad": RD4AD,
    "mambaad": MambaAD,
    # Language and image
    "zero-shot": ZeroShot,
    # Trivial: what the others have to beat
    "ae": AE,
    "frozen-knn": FrozenKNN,
    "pca": PCA,
    "pixel-knn": PixelKNN,
    "thumbnail": Thumbnail,
    "mean-grey": MeanGrey,
}


class _Callable(ModuleType):
    """`nofinding.methods` is this package and, called, the listing of the Python interface."""

    def __call__(self) -> Any:
        return import_module("nofinding.api").listing()


sys.modules[__name__].__class__ = _Callable
