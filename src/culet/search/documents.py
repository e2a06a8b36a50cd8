"""A folder, a file or a JSONL → the chunks that a search can find in it.

What is special here:

- a chunk is a run of whole lines of one file, so that its line numbers are exact; only a single
  line that is too long by itself is divided, at sentences
- every line that is not blank belongs to a chunk; nothing is dropped to make things fit
- Markdown and reStructuredText are divided at headings, code at top-level definitions, everything
  else at paragraphs; small neighbours are merged, long pieces divided again
- a file or folder that is not read is listed with the reason
- a file whose name is not UTF-8 is read too; the name is shown with those bytes escaped
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from culet.errors import InputError
from culet.files.rows import Row, is_json_lines, json_rows
from culet.files.texts import text_row
from culet.search.chunking import Kind, Span, divide
from culet.search.gitignore import GitIgnore
from culet.search.readable import readable
from culet.terminal.tables import size

TARGET_CHARS = 1200
MAX_FILE_BYTES = 10_000_000
_SNIFFED_BYTES = 8192
_IGNORED = "ignored by a .gitignore"
_IRREGULAR = "a pipe, a socket or a device, not a file"

_KINDS: dict[Kind, str] = {
    "markdown": "md markdown mdx mkd",
    "rst": "rst",
    "text": "txt text adoc asciidoc org tex log srt vtt csv tsv ipynb html htm xhtml",
    "code": (
        "py pyi pyx ipy c h cc cpp cxx hh hpp hxx cu cuh m mm rs go java kt kts scala groovy cs fs "
        "vb swift js mjs cjs jsx ts mts cts tsx vue svelte rb php pl pm lua r jl hs ml mli ex exs "
        "erl clj cljs lisp el scm rkt nim zig d dart sh bash zsh fish ps1 bat sql proto thrift "
        "graphql xml css scss less toml yaml yml ini cfg conf cmake mk gradle tf nix v "
        "vhd sv asm s f f90 f95 pas ada cob"
    ),
}
_KIND_OF_SUFFIX: dict[str, Kind] = {
    f".{suffix}": kind for kind, suffixes in _KINDS.items() for suffix in suffixes.split()
}
_KIND_OF_NAME: dict[str, Kind] = {
    "readme": "text", "license": "text", "licence": "text", "notice": "text", "authors": "text",
    "changelog": "text", "contributing": "text", "changes": "text", "news": "text",
    "makefile": "code", "dockerfile": "code", "justfile": "code", "rakefile": "code",
}  # fmt: skip
_SKIPPED_FOLDERS = {"node_modules", "__pycache__", "venv", "site-packages"}


@dataclass(frozen=True)
class Chunk:
    """A piece of a document, as it is embedded and shown.

    Attributes:
        path: The file, relative to the corpus, as it is shown.
        first_line: Its first line in the file, counted from 1.
        last_line: Its last line, inclusive.
        title: The heading path, the file name or the document's own title.
        text: The lines.
        id: The document's id, where a JSONL gives one.
    """

    path: str
    first_line: int
    last_line: int
    title: str | None
    text: str
    id: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A file, folder or line that was not read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ChunkedCorpus:
    """What was read, and what was not.

    Attributes:
        chunks: In the order of paths and lines.
        skipped: What was left out: files, lines of a JSONL, folders that cannot be entered, links
            to folders. Hidden files and folders of tools (`.git`, `node_modules`) are not listed.
        num_files: How many files were read.
    """

    chunks: tuple[Chunk, ...]
    skipped: tuple[Skipped, ...]
    num_files: int


def read_corpus(
    path: str | Path,
    *,
    target_chars: int = TARGET_CHARS,
    text_field: str = "text",
    on_bad_line: Literal["error", "skip"] = "error",
    gitignore: bool = True,
) -> ChunkedCorpus:
    """Return the chunks of a folder, of one text file, or of a JSONL with one document per line.

    Args:
        path: A folder is walked in order of names. A JSONL (.jsonl, .jsonl.gz, .ndjson) is
            read as documents with the fields `text_field`, and optionally "title" and "id".
        target_chars: Chunks are merged up to this size, and divided from one and a half times
            this size.
        text_field: The field of a JSONL that holds the text.
        on_bad_line: Whether a bad line of a JSONL is an error or is listed as skipped.
        gitignore: Whether files of a folder that git would ignore are left out, and listed.

    Raises:
        InputError: The path does not exist or cannot be entered, or a line of a JSONL is bad.
    """
    path = Path(path)
    if target_chars < 1:
        raise InputError(f"target_chars must be at least 1, got {target_chars}")
    if path.is_dir():
        return _read_folder(path, target_chars, GitIgnore(path) if gitignore else None)
    if not path.is_file():
        what = f"is {_IRREGULAR}" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; expected a folder, a text file or a JSONL file")
    if is_json_lines(path):
        return _read_documents(path, target_chars, text_field, on_bad_line)
    chunks = _read_file(path, _shown(path.name), _kind(path) or "text", target_chars)
    if isinstance(chunks, Skipped):
        raise InputError(f"{path} cannot be read: {chunks.reason}")
    return ChunkedCorpus(tuple(chunks), (), 1)


def read_corpora(paths: Sequence[str | Path], **options: Any) -> ChunkedCorpus:
    """Return the chunks of several folders or files, shown under the paths they were named by.

    Arguments and errors are those of `read_corpus`; of one path, files are shown relative to it.
    """
    if len(paths) == 1:
        return read_corpus(paths[0], **options)
    chunks: list[Chunk] = []
    skipped: list[Skipped] = []
    num_files = 0
    for path in dict.fromkeys(map(Path, paths)):
        one = read_corpus(path, **options)
        root = path if path.is_dir() else path.parent
        chunks += [replace(c, path=_shown(str(root / c.path))) for c in one.chunks]
        skipped += [replace(s, path=_shown(str(root / s.path))) for s in one.skipped]
        num_files += one.num_files
    return ChunkedCorpus(tuple(chunks), tuple(skipped), num_files)


def _read_folder(root: Path, target_chars: int, ignored: GitIgnore | None) -> ChunkedCorpus:
    chunks: list[Chunk] = []
    skipped: list[Skipped] = []
    num_files = 0
    for path in _walk(root, ignored):
        if isinstance(path, Skipped):
            skipped.append(path)
            continue
        name = _shown(path.relative_to(root).as_posix())
        kind = _kind(path)
        if kind is None:
            if _is_empty(path):
                continue
            reason = "not known by its name to be text"
            if is_json_lines(path):
                reason = "a JSONL is a corpus of its own; name the file itself to search it"
            skipped.append(Skipped(name, reason))
            continue
        found = _read_file(path, name, kind, target_chars)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            chunks += found
            num_files += 1
    return ChunkedCorpus(tuple(chunks), tuple(skipped), num_files)


def _walk(root: Path, ignored: GitIgnore | None) -> Iterator[Path | Skipped]:
    failed: list[OSError] = []
    for folder, subfolders, files in os.walk(root, onerror=failed.append):
        places = [
            os.path.join(folder, name)
            for name in sorted(subfolders)
            if not name.startswith(".")
            and name not in _SKIPPED_FOLDERS
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        ]
        kept = []
        for place in places:
            if ignored is not None and ignored.ignores(Path(place), is_folder=True):
                yield Skipped(_shown(os.path.relpath(place, root)), _IGNORED)
            else:
                kept.append(place)
        places = kept
        subfolders[:] = [os.path.basename(place) for place in places if not os.path.islink(place)]
        for place in places:
            if os.path.islink(place):
                name = _shown(os.path.relpath(place, root))
                yield Skipped(name, "a link to a folder; name that folder itself to search it")
        for path in (Path(folder, name) for name in sorted(files) if not name.startswith(".")):
            if ignored is not None and ignored.ignores(path, is_folder=False):
                yield Skipped(_shown(os.path.relpath(path, root)), _IGNORED)
            else:
                yield path
    for error in failed:
        reason = error.strerror or str(error)
        if Path(error.filename) == root:
            raise InputError(f"{root} cannot be entered: {reason}; let this user read it")
        yield Skipped(_shown(os.path.relpath(error.filename, root)), f"cannot be entered: {reason}")


def _shown(name: str) -> str:
    """Return a file system name as text that a tokenizer can read and a screen can show."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_empty(path: Path) -> bool:
    try:
        facts = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0


def _kind(path: Path) -> Kind | None:
    """Return what a name says of a file; one without a suffix is text if it can be read as such."""
    if not path.suffix:
        return _KIND_OF_NAME.get(path.name.lower(), "text")
    known = _KIND_OF_SUFFIX.get(path.suffix.lower())
    return known or _KIND_OF_NAME.get(path.name.lower())


def _read_file(path: Path, name: str, kind: Kind, target_chars: int) -> list[Chunk] | Skipped:
    text = _decoded(path)
    if text is None:
        return Skipped(name, "a binary file")
    if isinstance(text, Skipped):
        return Skipped(name, text.reason)
    made = readable(text, path.suffix.lower())
    lines = text.split("\n")
    lines, numbers, kind = made or (lines, range(1, len(lines) + 1), kind)
    return [
        Chunk(name, numbers[span.first], numbers[span.last], _title(name, kind, span), span.text)
        for span in divide(lines, kind, target_chars)
    ]


def _title(name: str, kind: Kind, span: Span) -> str:
    if span.heading is None:
        return name
    return f"{name}: {span.heading}" if kind == "code" else span.heading


def _decoded(path: Path) -> str | Skipped | None:
    """Return the text of a file; None for a binary one, Skipped for one that cannot be read."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for its writer
            return Skipped("", _IRREGULAR)
        if facts.st_size > MAX_FILE_BYTES:
            found, limit = size(facts.st_size), size(MAX_FILE_BYTES)
            return Skipped("", f"{found}, more than the limit of {limit} per file")
        raw = path.read_bytes()
    except OSError as error:
        return Skipped("", f"cannot be opened: {error.strerror or error}")
    utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not utf16 and b"\0" in raw[:_SNIFFED_BYTES]:
        return None
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        return Skipped("", f"neither UTF-8 nor UTF-16 (byte {error.start}); convert it to UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_documents(
    path: Path, target_chars: int, text_field: str, on_bad_line: Literal["error", "skip"]
) -> ChunkedCorpus:
    chunks: list[Chunk] = []
    skipped: list[Skipped] = []

    name = _shown(path.name)
    for raw in json_rows(path):
        try:
            chunks += _document_chunks(raw.parsed(), name, raw.line, target_chars, text_field)
        except InputError as error:
            if on_bad_line == "error":
                raise
            reason = str(error).removeprefix(f"{raw.origin}: ")
            skipped.append(Skipped(f"{name}:{raw.line}", reason))
    return ChunkedCorpus(tuple(chunks), tuple(skipped), 1)


def _document_chunks(
    row: Row, name: str, line: int, target_chars: int, text_field: str
) -> list[Chunk]:
    """Return the chunks of one document of a JSONL: several, on the same line, if it is long."""
    document = text_row(row, text_field, "title" if "title" in row.value else None)
    return [
        Chunk(name, line, line, document.title or None, span.text, document.id)
        for span in divide(document.text.split("\n"), "text", target_chars)
    ]
