"""Which files of a folder git would ignore, by every .gitignore from its repository's root down."""

from __future__ import annotations

from pathlib import Path

from pathspec import GitIgnoreSpec


class GitIgnore:
    """The rules for a folder that is walked from its root; those further down go first.

    Args:
        root: The folder. Rules above it, up to the folder with .git, count too, unless they ignore
            the folder itself: then it was asked for all the same.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._rules: dict[Path, GitIgnoreSpec | None] = {}
        above = [self._root, *self._root.parents]
        tops = [i for i, folder in enumerate(above) if (folder / ".git").exists()]
        self._top = above[tops[0]] if tops else self._root
        if self._top != self._root and self._ignored(self._root, is_folder=True):
            self._top = self._root

    def ignores(self, path: Path, *, is_folder: bool) -> bool:
        """Return whether a path inside the root, whose folders are not ignored, is ignored."""
        return self._ignored(path.parent.resolve() / path.name, is_folder=is_folder)

    def _ignored(self, path: Path, *, is_folder: bool) -> bool:
        for folder in path.parents:
            rules = self._of(folder)
            if rules is not None:
                name = path.relative_to(folder).as_posix() + "/" * is_folder
                if (found := rules.check_file(name).include) is not None:
                    return found
            if folder == self._top:
                break
        return False

    def _of(self, folder: Path) -> GitIgnoreSpec | None:
        if folder not in self._rules:
            try:
                text = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace")
                self._rules[folder] = GitIgnoreSpec.from_lines(text.splitlines())
            except (OSError, ValueError):  # not there, or a pattern that git too would not read
                self._rules[folder] = None
        return self._rules[folder]
