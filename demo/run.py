"""`make demo`: bundled text becomes a trained, evaluated model that answers a search.

Tokenizer, a tiny decoder, an encoder-decoder adapted from it, UL2, prefinetuning, finetuning with
hard negatives, scores before and after at four widths, and a search in this project's own
documentation. Interrupt it and run it again: it goes on.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CULET = Path(sys.executable).with_name("culet")
MODEL = "runs/demo/finetune/checkpoint"
QUESTION = "how does an interrupted run resume?"


def main() -> int:
    """Run the recipe, then search the documentation with the model it made."""
    began = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command that is running
    commands = (
        ["train", "demo/recipe.toml", *(f"--set={text}" for text in sys.argv[1:])],
        ["search", "docs", QUESTION, "--model", MODEL, "-k", "3"],
    )
    for command in commands:
        print(f"\n$ culet {' '.join(command)}", flush=True)
        code = subprocess.run([CULET, *command], cwd=ROOT, preexec_fn=_listen).returncode
        if code:
            return code
    print(f"\nThe demo took {(time.monotonic() - began) / 60:.1f} minutes. Try it on your files:")
    print(f"  {CULET.relative_to(ROOT)} search SOME_FOLDER 'a question' --model {MODEL}")
    return 0


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
