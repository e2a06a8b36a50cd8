"""The registry: every kind of stage, by the module that holds its `Contract`.

Modules are named here and imported when a recipe has a stage of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from culet.errors import need

if TYPE_CHECKING:
    from culet.stages.contract import Contract


@dataclass(frozen=True)
class Kind:
    """One entry of the registry.

    Attributes:
        name: What `kind` is in a recipe.
        module: Module of the stage, with `STAGE`.
    """

    name: str
    module: str

    def contract(self) -> Contract[Any]:
        """Return what the stage's module offers.

        Raises:
            MissingExtra: If the module needs a package that is not installed.
        """
        module = need(self.module, extra="train", purpose=f"a stage of kind {self.name}")
        contract: Contract[Any] = module.STAGE
        return contract


# In the order of the whole recipe.
_NAMES = (
    "start",
    "decoder",
    "trim",
    "adapt",
    "encoder",
    "pretrain",
    "seq2seq",
    "generate",
    "prepare",
    "prefinetune",
    "mine",
    "teach",
    "search_mixture",
    "finetune",
    "merge",
)
_SHARED = {"prefinetune": "tune", "finetune": "tune"}  # modules of two kinds

KINDS: dict[str, Kind] = {
    name: Kind(name, f"culet.stages.{_SHARED.get(name, name)}") for name in _NAMES
}
