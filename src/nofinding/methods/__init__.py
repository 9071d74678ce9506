"""The methods by name, as on the command line. Adding one is one file and one line here.

A method's module is imported when the method is asked for: together they take a second.
"""

import sys
from collections.abc import MutableMapping
from importlib import import_module
from types import ModuleType
from typing import Any

from nofinding.lazy_mapping import LazyMapping
from nofinding.methods.base.protocol import Detector

__all__ = ["METHODS", "Detector"]

PLACES = {
    # Ours
    "diff3m-f": "diff3m.feature_space.detector:Diff3MF",
    "diff3m": "diff3m.detector:Diff3M",
    "focal": "frozen_features.focal:FocalLesions",
    "synthetic": "self_supervised.synthetic:Synthetic",
    # Reconstruction
    "vae": "reconstruction.vae:VAE",
    "memae": "reconstruction.memae:MemAE",
    "ae-u": "reconstruction.ae_u:AEU",
    "ddad": "reconstruction.ddad:DDAD",
    "ddad-intra": "reconstruction.ddad:DDADIntra",
    "ddad-asr": "reconstruction.refined_ddad:DDADASR",
    "ddad-asr-intra": "reconstruction.refined_ddad:DDADASRIntra",
    "squid": "reconstruction.squid:SQUID",
    # Diffusion on pixels
    "ddpm": "pixel_diffusion.ddpm:DDPM",
    "ddpm-pcm": "pixel_diffusion.checkerboard_ddpm:DDPMPCM",
    "anoddpm": "pixel_diffusion.anoddpm:AnoDDPM",
    "pddpm": "pixel_diffusion.pddpm:PDDPM",
    "cddpm": "pixel_diffusion.cddpm:CDDPM",
    "mddpm": "pixel_diffusion.mddpm:MDDPM",
    "conditioned-ddad": "pixel_diffusion.conditioned_ddad:ConditionedDDAD",
    "autoddpm": "pixel_diffusion.autoddpm:AutoDDPM",
    "thor": "pixel_diffusion.thor:THOR",
    "wolleb": "pixel_diffusion.wolleb:Wolleb",
    "ddpm-ood": "pixel_diffusion.restarted_ddpm:DDPMOOD",
    "osd-irf": "pixel_diffusion.osd_irf:OSDIRF",
    "diffpath": "pixel_diffusion.diffpath:DiffPath",
    # Diffusion on latents and features
    "ldm-ood": "latent_diffusion.ldm_ood:LDMOOD",
    "ldm-kl": "latent_diffusion.ldm_kl:LDMKL",
    "diad": "latent_diffusion.diad:DiAD",
    "mad-ad": "latent_diffusion.mad_ad:MADAD",
    "invad": "latent_diffusion.invad:InvAD",
    # Frozen features
    "patchcore": "frozen_features.patchcore:PatchCore",
    "padim": "frozen_features.padim:PaDiM",
    "cfa": "frozen_features.cfa:CFA",
    "mahalanobis": "frozen_features.mahalanobis:Mahalanobis",
    "deep-knn": "frozen_features.deep_knn:DeepKNN",
    "rd4ad": "frozen_features.rd4ad:RD4AD",
    "mambaad": "frozen_features.mambaad:MambaAD",
    # Language and image
    "zero-shot": "language.zero_shot:ZeroShot",
    # Baselines: what the others have to beat
    "ae": "reconstruction.autoencoder:AE",
    "frozen-knn": "baselines.frozen_knn:FrozenKNN",
    "pca": "baselines.pca:PCA",
    "pixel-knn": "baselines.pixel_knn:PixelKNN",
    "thumbnail": "baselines.thumbnail:Thumbnail",
    "mean-grey": "baselines.mean_grey:MeanGrey",
}
"""The module below this package, and the class in it."""
METHODS: MutableMapping[str, type[Detector]] = LazyMapping(
    {name: f"{__name__}.{place}" for name, place in PLACES.items()}
)


class _Callable(ModuleType):
    """`nofinding.methods` is this package and, called, the listing of the Python interface."""

    def __call__(self) -> Any:
        return import_module("nofinding.api").listing()


sys.modules[__name__].__class__ = _Callable
