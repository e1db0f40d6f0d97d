"""The kinds of learned drafters, one file each. Importing this package registers all of them in `DRAFTERS`."""

import importlib
import pkgutil

from learners.drafters.drafter import DRAFTERS

__all__ = ["DRAFTERS"]

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")
