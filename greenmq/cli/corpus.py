"""The demo's input: every line of every text file below some paths, and the words in it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

# As much as git looks at to tell text from anything else.
SNIFFED_BYTES = 8000

_WORD = re.compile(r'[^\W\d_]+')


def words(line: str) -> list[str]:
    """The words of a line, in lower case: letters of any script, nothing else."""
    return _WORD.findall(line.lower())


@dataclass(frozen=True)
class Text:
    """A text file as it was when it was first seen."""

    path: Path
    size_bytes: int
    mtime_ns: int

    def lines(self) -> Iterator[str]:
        """The lines, without their ends; bytes that are no UTF-8 come as U+FFFD.

        What was added to the file since it was first seen is left out.
        """
        left = self.size_bytes
        with self.path.open('rb') as file:
            for raw in file:
                raw = raw[:left]
                left -= len(raw)
                if not raw:
                    return
                yield raw.decode('utf-8', 'replace').rstrip('\r\n')

    def changed(self) -> bool:
        """True if the file is no longer what was seen."""
        try:
            now = self.path.stat()
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (self.size_bytes, self.mtime_ns)


@dataclass
class Corpus:
    """The texts, and what a plain reading of them finds.

    Attributes:
        texts (list[Text]): in the order of their names.
        skipped (dict[str, int]): why a file was left out: how many were.
        lines (int): of all texts.
        left (int): of them, those that were not read for want of time.
        words (Counter[str]): how often each word stands in them: what the demo's answer is held against.
    """

    texts: list[Text] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    left: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def every_line(self) -> Iterator[str]:
        """All lines of all texts."""
        for text in self.texts:
            yield from text.lines()

    def first(self, lines: int) -> Corpus:
        """What a plain reading of so many lines finds; itself if that is all."""
        if lines >= self.lines:
            return self
        counted: Counter[str] = Counter()
        for line in islice(self.every_line(), lines):
            counted.update(words(line))
        return replace(self, words=counted, left=self.lines - lines)


def read(paths: Iterable[Path]) -> Corpus:
    """Look at every file at or below the paths, and count the lines and words of those that hold text."""
    corpus = Corpus()
    for path in paths:
        for file in _files(path):
            try:
                reason = _add(corpus, file)
            except OSError as exc:
                reason = exc.strerror or type(exc).__name__
            if reason is not None:
                corpus.skipped[reason] += 1
    return corpus


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    # Symbolic links to folders are not followed: they may lead in circles.
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            yield Path(folder, name)


def _add(corpus: Corpus, path: Path) -> str | None:
    if not path.is_file():
        return 'not a regular file'
    with path.open('rb') as file:
        if b'\0' in file.read(SNIFFED_BYTES):
            return 'not text'
        facts = os.fstat(file.fileno())
    text = Text(path, facts.st_size, facts.st_mtime_ns)
    lines = 0
    counted: Counter[str] = Counter()
    for line in text.lines():
        lines += 1
        counted.update(words(line))
    # Only now: a file that stops being readable half-way leaves nothing behind.
    corpus.texts.append(text)
    corpus.lines += lines
    corpus.words.update(counted)
    return None
