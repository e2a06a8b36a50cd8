"""Where a model comes from: the small files beside its weights that say so."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from culet.architecture.embedding_config import EmbeddingConfig
from culet.checkpoints.card import model_card
from culet.checkpoints.checkpoint import AnyConfig
from culet.data.ledger import LEDGER, LedgerEntry, ledger_of, ledger_text, merged, read_ledger
from culet.stages.folder import StageFolder


def card_and_ledger(
    config: AnyConfig, models: Iterable[Path], paths: Iterable[Path]
) -> dict[str, str]:
    """Return the ledger of a model that was trained from others on some data, and its card.

    Args:
        config: The model's architecture; only an embedding model has a card.
        models: Checkpoint folders it began from; what they were trained on counts as well.
        paths: The data it was trained on.

    Returns:
        The content of ledger.json and README.md, by name.
    """
    ledgers = (model / LEDGER for model in models)
    inherited = [entry for path in ledgers if path.exists() for entry in read_ledger(path)]
    entries = merged([*inherited, *ledger_of(paths)])
    files = {LEDGER: ledger_text(entries)}
    if not isinstance(config, EmbeddingConfig):
        return files
    section = "\n" + card_section(entries) if entries else ""
    return {"README.md": model_card(config) + section} | files


def provenance(
    folder: StageFolder, config: AnyConfig, models: Iterable[Path], paths: Iterable[Path]
) -> dict[str, str]:
    """Return card and ledger of a stage's model, and the settings it was made with."""
    recipe = (folder.path / "recipe.toml").read_text(encoding="utf-8")
    return {"culet_recipe.toml": recipe} | card_and_ledger(config, models, paths)


def card_section(entries: Iterable[LedgerEntry]) -> str:
    """Return the ledger as a section of a model card, in Markdown."""
    lines = ["## Training data", "", "| source | licence | rows | origin |", "|---|---|---:|---|"]
    for entry in entries:
        origin = "; ".join(
            part
            for part in (
                entry.origin,
                entry.attribution and f"by {entry.attribution}",
                entry.made_by and f"written by {entry.made_by}",
            )
            if part
        )
        rows = f"{entry.rows_kept:,}" if entry.rows_read else ""
        cells = (entry.source, entry.licence, rows, origin)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a text that a renderer of Markdown shows as it is, on one line.

    Names, licences and origins come from files beside anyone's data: what would be a tag, a link,
    emphasis, a formula or another cell is escaped, and what cannot be seen is left out.
    """
    text = "".join(char for char in " ".join(text.split()) if char.isprintable())
    text = re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    return html.escape(text, quote=False)
