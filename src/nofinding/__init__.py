"""How far a chest radiograph is from the normal ones, where, and how sure that is."""

import os

from nofinding.openmp import set_wait

__version__ = "0.1.0"

set_wait(os.environ)  # here, for every module of the package, and every worker, comes through here
